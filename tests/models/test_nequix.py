"""Nequix: names, weights, and structures that the library would get wrong. Its numbers are compared elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule

from rootstock import RootstockCalculator
from rootstock.errors import ModelError
from rootstock.root.records import active_build, read_build
from tests.models.conftest import Build, DeadProxy, Make, call_setup, rock_salt

pytestmark = pytest.mark.all_models


@pytest.fixture(scope="module")
def root(build: Build) -> Path:
    return build("nequix")


def test_what_is_refused(root: Path, dead_proxy: DeadProxy) -> None:
    wrong, missing, backend = call_setup(
        root,
        "nequix",
        ("mp-2", {}, "calculator"),
        ("omat-1", {}, "calculator"),
        ("omat-1", {"backend": "torch"}, "calculator"),  # which is not in the environment
    )
    assert wrong.startswith("ValueError: Unknown model 'mp-2': it is neither a file nor one of mp-1, mp-1-pft, ")
    assert missing.startswith("FileNotFoundError: The weights of Nequix's model 'omat-1' are not in this root: ")
    assert missing.endswith("/.cache/nequix/models/nequix-omat-1.nqx.")
    assert "unexpected keyword argument 'backend'" in backend
    assert not dead_proxy.was_asked()


def test_structures_that_the_library_gets_wrong_are_refused(root: Path, make_model: Make) -> None:
    """Of a slab, it finds neighbours across the boundary, and computes their distances as if there were none."""
    crystal = bulk("Si", a=5.43)
    slab = rock_salt()
    slab.pbc = (True, True, False)
    with RootstockCalculator(f"nequix-{make_model('nequix')}", root=root, device="cpu", threads=1) as calc:
        for atoms in (crystal, slab):
            atoms.calc = calc
        energy = crystal.get_potential_energy()
        with pytest.raises(ModelError, match=r"not pbc=\[True, True, False\]: set pbc to True in all directions"):
            slab.get_potential_energy()
        calc.reset()
        assert crystal.get_potential_energy() == energy
    answers = call_setup(
        root,
        "nequix",
        (str(make_model("nequix")), {}, "calculator.get_hessian(__import__('ase.build').build.bulk('Si')).shape"),
        (str(make_model("nequix")), {}, "calculator.get_hessian(__import__('ase.build').build.molecule('H2O'))"),
    )
    assert answers[0] == "(2, 2, 3, 3)"
    assert answers[1].startswith("ValueError: Nequix computes Hessians of crystals: ")


def test_molecules_have_no_stress(root: Path, make_model: Make) -> None:
    water = molecule("H2O")
    with RootstockCalculator(f"nequix-{make_model('nequix')}", root=root, device="cpu", threads=1) as calc:
        water.calc = calc
        assert np.isfinite(water.get_forces()).all() and np.abs(water.get_forces().sum(axis=0)).max() < 1e-4
        assert "stress" not in calc.results


def test_nothing_for_gpus_is_in_a_build_for_processors(root: Path) -> None:
    """nequix asks for jax[cuda12] on any Linux."""
    folder = active_build(root / "active" / "nequix")
    assert folder is not None
    record = read_build(folder)
    assert record is not None
    assert "jax" in record.packages and not [
        name for name in record.packages if name.startswith(("nvidia", "jax-cuda"))
    ]
