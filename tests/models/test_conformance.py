"""What every environment must do, through the same list of checks on real builds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from rootstock import RootstockCalculator
from rootstock.config.environment_file import packaged_names
from rootstock.errors import ConfigurationError, NonFiniteError, RootstockError, WorkerStartError
from tests.models.cases import CASES, Case, marked
from tests.models.conftest import TOLERANCES, Build, Direct, Make, exactly
from tests.models.structures import has_stress

HISTORY = 50  # times the tolerances of a batch: how far self-consistent results are that began from another density


def test_every_environment_is_here() -> None:
    assert sorted(CASES) == sorted(packaged_names()), (
        "CASES must have an entry for each file in environments/, and no other"
    )


@pytest.fixture(scope="module", params=marked())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def case(name: str) -> Case:
    if name not in CASES:
        pytest.fail(f"environments/{name}.py has no entry in CASES, at the top of {__file__}")
    return CASES[name]


@pytest.fixture(scope="module")
def model(name: str, case: Case, make_model: Make) -> str:
    return str(make_model(name)) if "MODEL" in case.direct else ""


@pytest.fixture(scope="module")
def before(name: str, build: Build, model: str) -> dict[str, int]:
    """What lies in the root before any worker was started."""
    return files_of(build(name), name)


@pytest.fixture(scope="module")
def calc(name: str, case: Case, model: str, build: Build, before: dict[str, int]) -> Iterator[RootstockCalculator]:
    full = f"{name}-{model}" if model else name
    options = dict(case.options)
    with RootstockCalculator(model=full, root=build(name), device="cpu", threads=1, setup_kwargs=options) as calc:
        yield calc


def files_of(root: Path, name: str) -> dict[str, int]:
    """Return when each file and folder of an environment's build and of the caches was last changed."""
    caches = [path for path in (root / "cache").iterdir() if path.name != "uv"]  # other installations fill that one
    folders = [(root / "active" / name).resolve(), *caches]
    paths = (Path(at, entry) for top in folders for at, some, others in os.walk(top) for entry in some + others)
    return {str(path): path.lstat().st_mtime_ns for path in paths}


def same(case: Case, value: object, other: object, name: str, *, together: bool = False) -> bool:
    """Compare results: bit for bit, or within what company in a batch, or another history, changes."""
    if not (together or case.history):
        return exactly(value) == exactly(other)
    return bool(np.abs(np.subtract(value, other)).max() <= TOLERANCES[name] * (HISTORY if case.history else 1))


def test_bit_for_bit_the_librarys_own_calculator(
    name: str, case: Case, model: str, calc: RootstockCalculator, direct: Direct
) -> None:
    structures = case.simulation()
    expected = direct(name, case.code(model), structures)
    for atoms, numbers in zip(structures, expected, strict=True):
        atoms.calc = calc
        values = [atoms.get_potential_energy(), atoms.get_forces(), *([atoms.get_stress()] if case.stress else [])]
        assert exactly(*values) == numbers[: len(values)]


def test_many_are_what_each_is_alone(case: Case, calc: RootstockCalculator) -> None:
    """In the order of the question, whatever fails among them; bit for bit where they are computed one by one."""
    images = [*case.varied(), *(case.start() for _ in range(3))]
    found = calc.evaluate_many(images, None)
    batches = calc.info()["batches"]
    assert batches["refusals"] == 0 and [each.index for each in found] == list(range(len(images)))
    for atoms, each in zip(images, found, strict=True):
        alone = None
        try:
            calc.calculate(atoms, [*(each for each in case.wanted if each != "stress" or has_stress(atoms))])
        except RootstockError as error:
            alone = error.message
        assert (each.error and each.error.message) == alone
        if each.results:
            assert set(each.extra_results) == set(calc.extra_results)
        for name, value in (each.results or {}).items():
            assert same(case, value, calc.results[name], name, together=batches["hook"]), name


def test_results_are_plain_and_finite(case: Case, calc: RootstockCalculator) -> None:
    atoms = case.start()
    calc.calculate(atoms, case.wanted)
    assert type(calc.results["energy"]) is float
    for name in case.wanted[1:]:
        array = calc.results[name]
        assert array.shape == {"forces": (len(atoms), 3), "stress": (6,)}[name] and array.dtype == np.float64
        assert np.isfinite(array).all() and np.abs(array).max() > 1e-6
    assert {"free_energy", *case.wanted} <= set(calc.implemented_properties)


def test_a_property_is_the_same_whatever_else_is_asked_for(case: Case, calc: RootstockCalculator) -> None:
    atoms = case.start()
    calc.reset()
    calc.calculate(atoms, case.wanted)
    together = dict(calc.results)
    for name in (*case.wanted, *case.wanted):
        calc.reset()
        calc.calculate(atoms, [name])
        assert same(case, calc.results[name], together[name], name)
    if "energies" in calc.implemented_properties:
        calc.calculate(atoms, ["energies"])
        assert calc.results["energies"].sum() == pytest.approx(together["energy"], abs=1e-4)


def test_errors_leave_the_worker_usable(case: Case, calc: RootstockCalculator) -> None:
    good = case.start()
    calc.calculate(good, case.wanted)
    expected, worker = dict(calc.results), calc.info()["pid"]
    broken = good.copy()
    broken.positions[3, 1] = np.nan
    with pytest.raises(NonFiniteError, match="positions"):
        calc.calculate(broken, case.wanted)
    molecule = Atoms(case.elements, positions=[[0, 0, 0], [0, 0, 2.5]])
    with pytest.raises(PropertyNotImplementedError, match="Stress needs a cell" if case.stress else "stress"):
        calc.calculate(molecule, ["stress"])
    calc.calculate(good, case.wanted)
    assert all(same(case, calc.results[name], expected[name], name) for name in case.wanted)
    assert calc.info()["pid"] == worker


def test_nothing_is_written_under_the_root(
    name: str, case: Case, build: Build, before: dict[str, int], calc: RootstockCalculator
) -> None:
    """Though these tests own the root, and in CI run as root, whom no mode keeps from writing."""
    calc.calculate(case.start(), case.wanted)
    assert files_of(build(name), name) == before


def test_a_wrong_model_is_refused(name: str, build: Build) -> None:
    with pytest.raises(ConfigurationError, match=f"Environment '{name}' has no model 'wrong'. It has: "):
        RootstockCalculator(model=f"{name}-wrong", root=build(name), device="cpu")
    # What is no path may be one to setup(), which then says so itself.
    with pytest.raises(WorkerStartError, match="ValueError: .*'no/such'"):
        RootstockCalculator(environment=name, model="no/such", root=build(name), device="cpu").start()
