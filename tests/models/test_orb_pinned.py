"""ORB 0.5, for Pythons that are too old for today's: names, weights, dispersion."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rootstock import RootstockCalculator
from tests.models.cases import CASES
from tests.models.conftest import Build, DeadProxy, Direct, Fetched, Make, call_setup, rock_salt

pytestmark = pytest.mark.all_models
NAME = "orb@0.5"
SUM = """
from ase.calculators.mixing import SumCalculator
from ase.units import Bohr
from torch_dftd.torch_dftd3_calculator import TorchDFTD3Calculator
import torch
calc = SumCalculator([calc, TorchDFTD3Calculator(damping="bj", xc="pbe", cutoff=40 * Bohr, dtype=torch.float32)])
"""


@pytest.fixture(scope="module")
def root(build: Build) -> Path:
    return build(NAME)


def test_what_is_refused(root: Path, make_model: Make, dead_proxy: DeadProxy) -> None:
    wrong, newer, architecture, missing, held = call_setup(
        root,
        NAME,
        ("orb-v4", {}, "calculator"),
        ("orbmol-v2", {}, "calculator"),  # which only the newer release has
        (str(make_model(NAME)), {"architecture": "orb-v4"}, "calculator"),
        ("orb-v3-direct-20-omat", {}, "calculator"),
        (str(make_model(NAME)), {"architecture": "orb-d3-v2", "dispersion": True}, "calculator"),
    )
    names = "orb-v3-conservative-inf-omat, orb-v3-conservative-20-omat, "
    assert wrong.startswith(f"ValueError: Unknown model 'orb-v4': it is neither a file nor one of {names}")
    assert newer.startswith(f"ValueError: Unknown model 'orbmol-v2': it is neither a file nor one of {names}")
    assert architecture.startswith(f"ValueError: Unknown architecture 'orb-v4': it is none of {names}")
    assert re.search(
        r"^FileNotFoundError: The weights of ORB's model 'orb-v3-direct-20-omat' are not in this root: nothing in "
        r".*/cache/cached_path is from https://.*\.$",
        missing,
    )
    assert held == "ValueError: D3 cannot be added to model 'orb-d3-v2': it holds dispersion."
    assert not dead_proxy.was_asked()


def test_weights_are_read_from_the_roots_cache_without_asking_the_network(
    root: Path, make_model: Make, fetched: Fetched, dead_proxy: DeadProxy
) -> None:
    energies = []
    assert fetched(NAME) == "orb-v3-conservative-inf-omat"
    for model in (NAME, f"{NAME}-orb-v3-conservative-inf-omat", f"{NAME}-{make_model(NAME)}"):
        with RootstockCalculator(model=model, root=root, device="cpu", threads=1) as calc:
            atoms = rock_salt()
            atoms.calc = calc
            energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[1] == energies[2]
    assert not dead_proxy.was_asked()


def test_dispersion_is_the_sum(root: Path, make_model: Make, direct: Direct) -> None:
    """To rounding: the first call of ORB in a process has other last digits than the same one later."""
    model, structures = str(make_model(NAME)), CASES[NAME].simulation()[:3]
    expected = direct(NAME, CASES[NAME].code(model) + SUM, structures)
    options = {"dispersion": True}
    with RootstockCalculator(f"{NAME}-{model}", root=root, device="cpu", threads=1, setup_kwargs=options) as calc:
        for atoms, numbers in zip(structures, expected, strict=True):
            atoms.calc = calc
            for value, number in zip(
                (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()), numbers, strict=True
            ):
                assert np.abs(np.ravel(value) - list(map(float.fromhex, number))).max() < 2e-5
