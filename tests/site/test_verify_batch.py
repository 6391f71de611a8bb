"""A model that computes structures together must compute of each what it computes of it alone: a build is tried."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from rootstock.admin.verify_batch import BATCH, compare_batch
from rootstock.config.environment_file import packaged_source
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from rootstock.root.records import active_build, read_build
from rootstock.root.verification_records import read_verifications
from tests.conftest import Site

pytestmark = pytest.mark.xdist_group("verify-batch")  # a root of its own

# What `setup()` of Lennard-Jones returns, with a way to compute many that a test completes.
HOOKED = """
    class Together(LennardJones):
        def calculate_batch(self, images, properties):
            found = []
            for atoms in images:
                self.calculate(atoms, properties)
                found.append(dict(self.results))
            ONE_MORE_LINE
            return found

    return Together(**{**_MODELS[model], **kwargs})
"""


def environment(line: str) -> str:
    """Return the file of an environment whose ``calculate_batch`` has one more line."""
    text, end = packaged_source("lj").text, "    return LennardJones(**{**_MODELS[model], **kwargs})\n"
    assert end in text
    return text.replace(end, HOOKED.replace("ONE_MORE_LINE", line))


@pytest.fixture(scope="module")
def hooked(site: Site, like_root: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a root with an environment that has a right hook."""
    folder = tmp_path_factory.mktemp("hooked")
    (folder / "together.py").write_text(environment("pass"))
    options = ("--no-client", "--env", folder / "together.py", *like_root)
    site("install", "--cluster", "local", "--root", folder / "root", *options)
    yield folder / "root"
    remove_tree(folder / "root")


def spoil(root: Path, line: str) -> None:
    """Change the file of the build that is in use, which nothing but a test does."""
    path = (root / "active" / "together").resolve() / "environment.py"
    path.parent.chmod(0o755)
    path.unlink()
    path.write_text(environment(line))


def batch_checks(checks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [check for check in checks if check["property"].endswith(" in a batch")]


def test_a_build_records_how_far_a_batch_is_from_single_calls(hooked: Path) -> None:
    build = active_build(hooked / "active" / "together")
    assert build is not None
    record = read_build(build)
    assert record is not None
    seen = batch_checks(record.verification)
    names = ["energy per atom in a batch", "forces in a batch"]
    crystal = [*names, "stress in a batch"]
    assert [check["property"] for check in seen] == names + crystal  # a molecule and a crystal
    for check in seen:
        assert check["passed"] and check["error"] == 0 and check["source"] == "single calls"
    assert [len(check["value"]) for check in seen] == [3, 3 * (2 + 4 + 2), 3, 3 * (4 + 8 + 4), 3 * 6]
    assert seen[0]["tolerance"] == BATCH["energy"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('found[1]["energy"] += 1e-3', "energy per atom in a batch differs by 0.00025 eV, allowed is 2e-05"),
        ("found = found[::-1]", "forces in a batch differs by "),
        ("found.pop()", "calculate_batch fails on structures that can be computed one by one: TypeError: "),
    ],
)
def test_a_wrong_batch_is_a_missed_value(hooked: Path, site: Site, line: str, complaint: str) -> None:
    spoil(hooked, line)
    done = site("verify", "--root", hooked, check=False)
    assert done.returncode == 15
    assert complaint in done.stdout


def test_a_calculator_that_declines_is_computed_one_by_one_and_nothing_is_compared(hooked: Path, site: Site) -> None:
    spoil(hooked, "raise NotImplementedError")
    site("verify", "--root", hooked)
    build = active_build(hooked / "active" / "together")
    assert build is not None
    last = read_verifications(RootLayout(hooked), "together", build.name)[-1]
    assert last.passed > 5 and batch_checks(last.checks) == []


def test_a_build_whose_batches_are_wrong_is_not_put_to_use(
    site: Site, like_root: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "together.py"
    path.write_text(environment('found[0]["energy"] += 1e-3'))
    options = ("--no-client", "--env", path, *like_root)
    done = site("install", "--cluster", "local", "--root", tmp_path / "root", *options, check=False)
    assert done.returncode == 15
    assert "Environment 'together': calculate_batch gives other numbers than single calls:\n" in done.stderr
    assert "energy per atom in a batch differs by 0.0005 eV, allowed is 2e-05 (source: single calls)" in done.stderr
    assert "Correct calculate_batch, or remove it" in done.stderr
    assert os.listdir(tmp_path / "root" / "active") == []
    remove_tree(tmp_path / "root")


@pytest.mark.parametrize("atoms", [bulk("Cu", cubic=True), molecule("N2"), molecule("N")], ids=str)
def test_structures_of_two_sizes_are_compared(atoms: Atoms) -> None:
    calc, sizes = EMT(), []

    def alone(each: Atoms, names: tuple[str, ...]) -> dict[str, Any]:
        calc.calculate(each, list(names))
        return dict(calc.results)

    def together(images: Sequence[Atoms], names: tuple[str, ...]) -> list[dict[str, Any]]:
        sizes.extend(map(len, images))
        found = [alone(each, names) for each in images]
        found[-1]["forces"] = found[-1]["forces"] + np.eye(3)[0] * 1e-2
        return found

    checks = {check["property"]: check for check in compare_batch(alone, together, atoms, ["energy", "forces"], BATCH)}
    assert sizes == [len(atoms), 2 * len(atoms), len(atoms)]
    assert checks["energy per atom in a batch"]["error"] == 0
    assert checks["forces in a batch"]["error"] == pytest.approx(1e-2)
    assert not checks["forces in a batch"]["passed"]
