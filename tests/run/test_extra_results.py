"""Results that ASE has no name for: declared in the environment file, they come with the others, and in files."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from rootstock import RootstockCalculator
from rootstock.client.evaluated import FailureClass
from rootstock.errors import ModelError, NonFiniteError
from tests.run.extra_models import EXTRA_MODELS

Make = Callable[..., RootstockCalculator]


@pytest.fixture
def make(personal: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Make:
    (tmp_path / "extra.py").write_text(EXTRA_MODELS)

    def build(model: str = "", **arguments: Any) -> RootstockCalculator:
        calc = RootstockCalculator(
            model, environment=tmp_path / "extra.py", root=personal, device="cpu", start_timeout=600.0, **arguments
        )
        request.addfinalizer(calc.close)
        return calc

    return build


def water(do: str = "usual", shift: float = 0.0) -> Atoms:
    atoms = molecule("H2O")
    atoms.positions += [0.1, 0.2, 0.3 + shift]
    atoms.info["do"] = do
    return atoms


def expected(atoms: Atoms) -> dict[str, Any]:
    """Return what the model computes of these atoms, in process."""
    namespace: dict[str, Any] = {"__name__": "extra"}
    exec(EXTRA_MODELS, namespace)
    found: dict[str, Any] = namespace["Calculator"]().all_of(atoms)
    return {name: np.asarray(value, float) for name, value in found.items() if name not in ("energy", "forces")}


def assert_same(found: dict[str, Any], atoms: Atoms) -> None:
    wanted = {name: value for name, value in expected(atoms).items() if name not in ("stress", "undeclared")}
    assert set(found) == set(wanted)
    for name, value in found.items():
        if name == "spread":
            assert type(value) is float
            assert value == wanted[name].item()
        else:
            assert value.dtype == np.float64
            assert value.shape == wanted[name].shape
            assert value.tobytes() == np.ascontiguousarray(wanted[name]).tobytes()


def test_values_and_shapes_are_those_of_the_model(make: Make) -> None:
    calc = make()
    for atoms in (water(), water("all"), water("bare")):
        atoms.calc = calc
        atoms.get_potential_energy()
        assert_same(calc.extra_results, atoms)
        assert "partial_charges" not in calc.results
    assert calc.extra_results == {}
    info = calc.info()
    assert info["extra_properties"]["energies"] == "models"
    assert "energies" not in info["properties"]
    assert "get_hessian" in info["methods"]


def test_they_are_gone_when_the_atoms_are_others(make: Make) -> None:
    calc, atoms = make(), water()
    assert calc.extra_results == {}
    atoms.calc = calc
    atoms.get_forces()
    before = calc.extra_results["partial_charges"]
    atoms.get_potential_energy()  # known already
    assert calc.extra_results["partial_charges"] is before
    atoms.positions += 1.0
    atoms.get_forces()
    assert_same(calc.extra_results, atoms)
    assert not np.array_equal(before, calc.extra_results["partial_charges"])
    atoms.info["do"] = "wrong shape"
    with pytest.raises(ModelError):
        atoms.get_forces()
    assert calc.extra_results == {}
    atoms.info["do"] = "usual"
    atoms.get_forces()
    assert calc.extra_results
    calc.reset()
    assert calc.extra_results == {}


@pytest.mark.parametrize(
    ("do", "error", "says"),
    [
        ("wrong shape", ModelError, r"partial_charges of shape \(4,\).*partial_charges = 'per-atom': \(3,\)"),
        ("text", ModelError, "partial_charges of dtype <U1, not real numbers"),
        ("nan", NonFiniteError, r"NaN or infinity in partial_charges \(first at index 0\)"),
    ],
)
def test_what_is_wrong_is_refused_by_name(make: Make, do: str, error: type[Exception], says: str) -> None:
    calc, atoms = make(), water(do)
    atoms.calc = calc
    with pytest.raises(error, match=says):
        atoms.get_potential_energy()
    again = calc.evaluate_many([water(), atoms, water("all")])
    assert_same(again[0].extra_results, water())
    assert_same(again[2].extra_results, water("all"))
    assert type(again[1].error) is error
    assert again[1].failure is FailureClass.STRUCTURE
    atoms.info["do"] = "none"
    atoms.get_potential_energy()
    assert calc.extra_results == {}


def test_threads_copies_and_pickles_have_their_own(make: Make) -> None:
    calc, images = make(), [water("all", shift) for shift in (0.0, 1.0, 2.0)]
    failures = []

    def ask(atoms: Atoms) -> None:
        for _ in range(20):
            atoms.positions += 0.01
            atoms.calc = calc
            atoms.get_forces()
            try:
                assert_same(calc.extra_results, atoms)
            except AssertionError as error:
                failures.append(error)

    threads = [threading.Thread(target=ask, args=(atoms,)) for atoms in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    atoms = images[0]
    atoms.calc = calc
    atoms.get_forces()
    twin, deep, pickled = copy.copy(calc), copy.deepcopy(calc), pickle.dumps(calc)
    assert b"extra_results" in pickled
    assert b"rootstock.client" not in pickled
    for each in (twin, deep, pickle.loads(pickled)):
        assert_same(each.extra_results, atoms)
        assert hasattr(each, "get_hessian")
        each.close()
    assert deep.extra_results["hessian"] is not calc.extra_results["hessian"]
    water_of_twin = water("usual", 5.0)
    water_of_twin.calc = twin.__enter__()
    water_of_twin.get_potential_energy()
    assert_same(calc.extra_results, atoms)
    assert_same(twin.extra_results, water_of_twin)
    twin.close()


@pytest.mark.parametrize("model", ["", "hook"])
def test_batches_carry_them(make: Make, model: str) -> None:
    calc = make(model)
    images = [water(("usual", "all", "bare")[k % 3], 0.01 * k) for k in range(200)]
    images += [bulk("Cu", cubic=True) * (1 + k % 2, 1, 1) for k in range(40)]
    found = calc.evaluate_many(images)
    for each, atoms in zip(found, images, strict=True):
        assert each.error is None
        assert type(each.results) is dict
        assert_same(each.extra_results, atoms)
    assert calc.info()["batches"]["hook"] is (model == "hook")
    assert found[0].atoms.get_potential_energy() == found[0].results["energy"]  # type: ignore[index]


@pytest.mark.parametrize("model", ["", "hook"])
def test_a_batch_keeps_what_came_before_its_worker_was_lost(make: Make, model: str) -> None:
    images = [water("all", 0.01 * k) for k in range(30)]
    images[20].info["do"] = "kill"
    found = make(model).evaluate_many(images)
    for k, (each, atoms) in enumerate(zip(found, images, strict=True)):
        if k == 20:
            assert each.error is not None
            assert each.extra_results == {}
        else:
            assert_same(each.extra_results, atoms)


@pytest.mark.parametrize("model", ["", "hook"])
def test_large_ones(make: Make, model: str) -> None:
    """One of 64 MB, which no text would carry, and 400 MB in a batch, which comes in several exchanges."""
    calc = make(model)
    chain = Atoms("H960", positions=np.arange(2880.0).reshape(-1, 3), info={"do": "huge"})
    chain.calc = calc
    chain.get_potential_energy()
    assert calc.extra_results["hessian"].shape == (2880, 2880)
    assert np.array_equal(calc.extra_results["hessian"].ravel(), np.arange(2880.0**2))
    for each in calc.iter_many([chain] * 6):
        assert each.extra_results["hessian"][-1, -1] == 2880**2 - 1
    small = water()
    small.calc = calc
    small.get_potential_energy()
    assert_same(calc.extra_results, small)
