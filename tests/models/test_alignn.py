"""ALIGNN: names, weights, and no made-up numbers. What it computes is compared in test_conformance.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from rootstock import RootstockCalculator
from rootstock.errors import ModelError
from tests.models.conftest import Build, DeadProxy, Make, call_setup, exactly, rock_salt

pytestmark = pytest.mark.all_models


@pytest.fixture(scope="module")
def root(build: Build) -> Path:
    return build("alignn")


def test_what_is_refused(root: Path, make_model: Make, tmp_path: Path, dead_proxy: DeadProxy) -> None:
    without_forces = make_model("alignn", "calculate_gradient=false")
    wrong, no_energy, default, empty, no_forces = call_setup(
        root,
        "alignn",
        ("matpes_pb", {}, "calculator"),
        # The library knows it; times the number of atoms, the gap would pass for an energy.
        ("mbj_bandgap", {}, "calculator"),
        ("", {}, "calculator"),
        (str(tmp_path), {}, "calculator"),
        # The stock calculator would return whatever was in memory.
        (str(without_forces), {}, "calculator"),
    )
    assert wrong.startswith("ValueError: Unknown model 'matpes_pb': it is neither a folder nor one of matpes_r2scan, ")
    assert no_energy.startswith("ValueError: Unknown model 'mbj_bandgap': it is neither a folder nor one of ")
    assert default == (
        "FileNotFoundError: The weights of ALIGNN's model 'matpes_r2scan' are not in this root: there is no "
        f"{root / 'cache' / 'atomgptlab' / 'alignn_ff' / 'matpes_r2scan' / 'best_model.pt'}."
    )
    assert not list((root / "cache" / "atomgptlab").iterdir())  # the library would have left empty folders
    assert empty == f"ValueError: {tmp_path} is no model of ALIGNN: it holds no config.json."
    assert no_forces == f"ValueError: The model in {without_forces} is no force field: it was trained without forces."
    assert not dead_proxy.was_asked()


def test_what_the_model_cannot_compute_is_refused(root: Path, make_model: Make) -> None:
    """The stock calculator would return zeros."""
    path = make_model("alignn")
    config = json.loads((path / "config.json").read_text())
    del config["model"]["stresswise_weight"]
    (path / "config.json").write_text(json.dumps(config))
    atoms = rock_salt()
    with RootstockCalculator(model=f"alignn-{path}", root=root, device="cpu", threads=1) as calc:
        atoms.calc = calc
        forces = atoms.get_forces()
        with pytest.raises(PropertyNotImplementedError, match="returned no stress"):
            atoms.get_stress()
        assert exactly(atoms.get_forces()) == exactly(forces)
        molecule = Atoms("HF", positions=[[0, 0, 0], [0, 0, 0.92]], calculator=calc)
        with pytest.raises(ModelError, match="ALIGNN computes periodic structures only"):
            molecule.get_potential_energy()
