"""MACE: names, weights, options, and no more than is asked for. Its numbers are compared in test_conformance.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootstock import RootstockCalculator
from rootstock.config.environment_file import packaged_source
from rootstock.interfaces.thread_state import ThreadStates
from rootstock.root.records import active_build, read_build
from tests.models.conftest import Build, DeadProxy, Direct, Fetched, Make, call_setup, exactly, rock_salt

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def root(build: Build) -> Path:
    return build("mace")


@pytest.fixture(scope="module")
def model(make_model: Make) -> Path:
    return make_model("mace")


def test_what_is_taken_and_what_is_refused(root: Path, model: Path, dead_proxy: DeadProxy, tmp_path: Path) -> None:
    """In one process: to import MACE takes longest."""
    for name in ("a.model", "b.model"):
        (tmp_path / name).symlink_to(model)
    *taken, wrong, default, off, omol, unknown, head = call_setup(
        root,
        "mace",
        (f"{tmp_path}/*.model", {}, "calculator.num_models"),
        (f"{tmp_path}/*.model", {}, "calculator.calculate_batch([], ['energy'])"),
        (str(model), {"default_dtype": "float64"}, "next(calculator.models[0].parameters()).dtype"),
        # What other calculators can do is not changed, as it is by the stock calculator.
        (str(model), {}, "calculator.implemented_properties.count('energy')"),
        ("medum", {}, "calculator"),
        ("", {}, "calculator"),
        ("off-small", {}, "calculator"),
        ("omol-extra-large", {}, "calculator"),
        (str(model), {"dispersion_xc": "pbe"}, "calculator"),
        (str(model), {"head": "omat"}, "calculator"),
    )
    assert taken.pop(1).startswith("NotImplementedError: Committees, ")
    assert taken == ["2", "torch.float64", "1"]
    assert "ValueError: Unknown model 'medum': it is neither a file nor one of small, medium, large, " in wrong
    for answer, name, file in [
        (default, "medium-mpa-0", "macempa0mediummodel"),
        (off, "off-small", "MACE-OFF23_small.model"),
        (omol, "omol-extra-large", "MACE-omol-0-extra-large-1024.model"),
    ]:
        assert answer == (
            f"FileNotFoundError: The weights of MACE's model {name!r} are not in this root: there is no "
            f"{root / 'cache' / 'xdg' / 'mace' / file}."
        )
    assert not dead_proxy.was_asked()
    # The stock calculator would take both and do something else.
    assert unknown.startswith("TypeError: MACE takes no option 'dispersion_xc' here; it takes: arrays_keys, ")
    assert head == f"ValueError: Model {str(model)!r} has no head 'omat'; it has: ['Default']."


def test_released_weights_are_read_from_the_roots_cache(
    root: Path, model: Path, fetched: Fetched, direct: Direct, dead_proxy: DeadProxy
) -> None:
    """With an option; and no more is computed than asked for, which changes no bit of it."""
    atoms, options = rock_salt(), {"default_dtype": "float64"}
    code = f"from mace.calculators import mace_mp as mp; calc = mp({str(model)!r}, 'cpu', default_dtype='float64')"
    [expected] = direct("mace", code, [atoms])
    name = f"mace-{fetched('mace')}"
    with RootstockCalculator(model=name, root=root, device="cpu", threads=1, setup_kwargs=options) as calc:
        for i, (asked, computed) in enumerate([
            ("energy", {"energy", "energies"}),
            ("forces", {"energy", "energies", "forces"}),
            ("stress", {"energy", "energies", "forces", "stress"}),
        ]):  # fmt: skip
            calc.reset()
            calc._states = ThreadStates()
            calc.calculate(atoms, [asked])
            assert set(calc.results) - {"free_energy"} == computed
            assert exactly(calc.results[asked]) == [expected[i]]
    assert not dead_proxy.was_asked()


def test_references_without_weights_are_recorded_as_not_run(root: Path) -> None:
    folder = active_build(root / "active" / "mace")
    assert folder is not None
    record = read_build(folder)
    assert record is not None
    published = [reference.name for reference in packaged_source("mace").references()]
    assert sorted(check["reference"] for check in record.verification) == sorted(published)
    for check in record.verification:
        assert check["passed"] is None
        assert "The weights of MACE's model" in check["reason"]
