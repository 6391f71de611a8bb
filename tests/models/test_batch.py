"""Environments that compute many structures together, against the same calculator one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from rootstock.client.resolve import resolve
from rootstock.config.environment_file import packaged_source
from rootstock.reports.envfile_lint import batch_methods
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build, read_build
from tests.models.cases import CASES, marked
from tests.models.conftest import (
    TOLERANCES,
    Build,
    Make,
    as_arguments,
    run_in,
)
from tests.models.structures import has_stress

# What takes a minute or more: their own verification, and the conformance of all models, compare batches as well.
LONG = ("chgnet", "sevennet", "so3lr")
HOOKED = [
    pytest.param(*each.values, marks=pytest.mark.all_models) if each.values[0] in LONG else each
    for each in marked()
    if "calculate_batch" in batch_methods(packaged_source(each.values[0]).path)
]
SUBSETS = {("energy",): 5, ("energy", "forces"): 5, ("energy", "forces", "stress"): None}  # of how many structures

Row = tuple[dict[str, object], dict[str, object], list[int]]
Answer = tuple[list[Any], list[Any], list[float]]


def test_which_environments_compute_many_together() -> None:
    assert [each.values[0] for each in HOOKED] == [
        "chgnet", "mace", "matgl", "nequix", "orb", "orb@0.5", "sevennet", "so3lr",
    ]  # fmt: skip


def compute(root: Path, name: str, model: str, questions: Sequence[tuple[list[str], Sequence[Atoms]]], **options: Any):
    """Return what an environment's calculator computes one by one, and together."""
    rows = [
        (names, [(as_arguments(atoms), atoms.info, atoms.get_tags().tolist()) for atoms in images])
        for names, images in questions
    ]
    launch = resolve(RootLayout(root), name, mode="build").launch()
    arguments = (launch.environment_file, model, json.dumps(options), json.dumps(rows))
    printed = run_in(root, name, "batch.py", *arguments, variables={**launch.variables, "OMP_NUM_THREADS": "1"})
    answers: list[Answer] = json.loads(printed.partition("RESULT")[2])
    return answers


def differences(one_by_one: Sequence[Any], together: Sequence[Any], asked: Sequence[str]) -> dict[str, float]:
    """Return the largest difference of each property; each structure must have the same ones, or fail alike."""
    worst: dict[str, float] = {}
    for one, other in zip(one_by_one, together, strict=True):
        if isinstance(one, str) or isinstance(other, str):
            assert one == other
            continue
        assert {"energy", "free_energy", *asked} <= other.keys() <= one.keys()
        for name, value in other.items():
            assert np.shape(value) == np.shape(one[name]), name
            error = float(np.abs(np.subtract(value, one[name])).max())
            worst[name] = max(worst.get(name, 0.0), error)
    return worst


@pytest.fixture(scope="module", params=HOOKED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str, make_model: Make) -> str:
    """Return a model; of MACE one that reads charge and spin, which each structure has of its own."""
    options = ("0", "charged") if name == "mace" else ()
    return str(make_model(name, *options)) if "MODEL" in CASES[name].direct else ""


def test_together_is_one_by_one(name: str, model: str, build: Build) -> None:
    case = CASES[name]
    images = case.varied()
    questions = [
        ([*names], [atoms for atoms in images[:most] if has_stress(atoms) or "stress" not in names])
        for names, most in SUBSETS.items()
    ]
    for (names, asked), (one_by_one, together, costs) in zip(
        questions, compute(build(name), name, model, questions, **case.options), strict=True
    ):
        worst = differences(one_by_one, together, names)
        assert {property_: worst[property_] <= TOLERANCES[property_] for property_ in worst} == dict.fromkeys(
            worst, True
        )
        failed = {k for k, results in enumerate(together) if isinstance(results, str)}
        assert failed <= {k for k, atoms in enumerate(asked) if case.refuses(atoms)}, together
        assert all(cost >= len(atoms) for cost, atoms in zip(costs, asked, strict=True))
        if name == "mace" and asked[-1] is images[-1]:  # which is the first, with a charge
            assert abs(together[0]["energy"] - together[-1]["energy"]) > 1e-3
        assert costs[3] > 1.5 * costs[0] > 10 * costs[4] > 0  # 16 atoms, 8 atoms, and one that has no neighbours


def test_the_build_has_compared_them(name: str, build: Build) -> None:
    folder = active_build(build(name) / "active" / name)
    assert folder is not None
    record = read_build(folder)
    assert record is not None
    seen = {check["property"] for check in record.verification if check.get("source") == "single calls"}
    run = any(check["passed"] for check in record.verification)  # some have no weights here
    assert seen >= ({"energy per atom in a batch", "forces in a batch", "stress in a batch"} if run else set())
