"""What models give beside ASE's properties, and methods of theirs, through workers of real builds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from rootstock import RootstockCalculator
from tests.models.conftest import Build, Make
from tests.models.structures import rock_salt, water

pytestmark = pytest.mark.models


def bent_water() -> Atoms:
    return Atoms("OH2", [[0.0, 0.2, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])


def test_so3lr_charges_volumes_hessian_and_descriptors(build: Build) -> None:
    atoms, options = bent_water(), {"default_dtype": "float64"}
    with RootstockCalculator("so3lr", root=build("so3lr"), device="cpu", threads=1, setup_kwargs=options) as calc:
        calc.calculate(atoms, ["forces", "charges"])
        extra = dict(calc.extra_results)
        assert set(extra) == {"partial_charges", "hirshfeld_ratios"}
        assert np.array_equal(extra["partial_charges"], calc.results["charges"])
        assert abs(extra["partial_charges"].sum()) < 1e-6 < extra["partial_charges"][1]
        [together, _] = calc.evaluate_many([atoms, water()])
        assert np.abs(together.extra_results["hirshfeld_ratios"] - extra["hirshfeld_ratios"]).max() < 1e-6
        hessian = np.reshape(calc.get_hessian(atoms), (9, 9))
        slopes = []
        for step in (1e-3, -1e-3):
            moved = atoms.copy()
            moved.positions[0, 1] += step
            calc.calculate(moved, ["forces"])
            slopes.append(-calc.results["forces"].ravel() / 2e-3)
        assert np.abs(slopes[0] - slopes[1] - hessian[1]).max() < 1e-3 * np.abs(hessian[1]).max()
        found = calc.get_descriptors(atoms)
        assert np.shape(found["invariant_features"][0])[0] == 3


def test_xtb_bond_orders(build: Build) -> None:
    with RootstockCalculator("tblite", root=build("tblite"), device="cpu", threads=1) as calc:
        calc.calculate(bent_water(), ["energy"])
        orders = calc.extra_results["bond-orders"]
    assert orders.shape == (3, 3, 1)
    assert 0.8 < orders[0, 1, 0] < 1.0 and abs(orders[1, 2, 0]) < 0.05


def test_a_committee_of_mace_says_what_each_model_does(build: Build, make_model: Make, tmp_path: Path) -> None:
    for seed in "12":
        (tmp_path / f"{seed}.model").symlink_to(make_model("mace", seed))
    atoms = rock_salt()
    with RootstockCalculator(f"mace-{tmp_path}/*.model", root=build("mace"), device="cpu", threads=1) as calc:
        calc.calculate(atoms, ["forces", "energies"])
        extra = dict(calc.extra_results)
        assert calc.results["energies"].shape == (8,)  # ASE's, and not those of the models
        assert extra["energy_comm"].shape == (2,) and extra["energy_comm"].mean() == pytest.approx(
            calc.results["energy"]
        )
        assert extra["energy_var"] == pytest.approx(extra["energy_comm"].var()) and extra["energy_var"] > 0
        assert np.abs(extra["forces_comm"].mean(axis=0) - calc.results["forces"]).max() < 1e-6
        assert extra["node_energy"].shape == (8,)
        first, second = calc.get_descriptors(atoms)
        assert first.shape == second.shape == (8, first.shape[1])
