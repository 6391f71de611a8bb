"""Dispersion: one meaning in all files that offer it, and bit for bit the sum that a library, or ASE, makes."""

from __future__ import annotations

import pytest

from rootstock import RootstockCalculator
from rootstock.errors import ConfigurationError
from tests.models.cases import CASES
from tests.models.conftest import Build, Direct, Fetched, Make, call_setup, exactly

pytestmark = pytest.mark.models
# CHGNet and SevenNet make the sum alike, and their file is MACE's to the letter; MACE has a sum of its own.
ALIKE = [pytest.param(name, marks=pytest.mark.all_models) for name in ("chgnet", "sevennet")]

SUM = """
from ase.calculators.mixing import SumCalculator
from ase.units import Bohr
from torch_dftd.torch_dftd3_calculator import TorchDFTD3Calculator
calc = SumCalculator([calc, TorchDFTD3Calculator(damping="bj", xc="pbe", cutoff=40 * Bohr)])
"""
ON = {"dispersion": True}


@pytest.mark.parametrize("name", ["mace", *ALIKE])
def test_bit_for_bit_the_sum(name: str, build: Build, make_model: Make, fetched: Fetched, direct: Direct) -> None:
    """MACE's own function makes one, in double precision; of the others, ASE's is made by hand."""
    structures, options = CASES[name].simulation()[:4], dict(ON)
    if name == "mace":
        made = f"mace_mp({str(make_model(name))!r}, 'cpu', 'float64', dispersion=True)"
        code = f"from mace.calculators import mace_mp; calc = {made}"
        options["default_dtype"] = "float64"
    else:
        code = CASES[name].code("") + "\n" + SUM
    expected = direct(name, code, structures)
    model = f"{name}-{fetched(name)}".rstrip("-")
    with RootstockCalculator(model, root=build(name), device="cpu", threads=1, setup_kwargs=options) as calc:
        for atoms, numbers in zip(structures, expected, strict=True):
            atoms.calc = calc
            assert exactly(atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()) == numbers
        together = calc.evaluate_many(structures)
        assert calc.info()["batches"]["hook"] is False
        assert [exactly(each.results["energy"], each.results["forces"]) for each in together] == [
            numbers[:2] for numbers in expected
        ]


S8 = "round(calculator.mixer.calcs[1].params['s18'], 4)"


def test_functionals_and_what_is_refused(build: Build, make_model: Make) -> None:
    path = str(make_model("mace"))
    unnamed, named, unknown, held, head = call_setup(
        build("mace"),
        "mace",
        (path, ON, "calculator"),
        (path, {**ON, "dispersion_kwargs": {"xc": "r2scan"}}, S8),
        (path, {**ON, "dispersion_kwargs": {"functional": "pbe"}}, "calculator"),
        ("off-small", ON, "calculator"),
        ("mh-1", {**ON, "head": "omol", "dispersion_kwargs": {"xc": "pbe"}}, "calculator"),
    )
    assert "Name the functional of model" in unnamed
    assert named == "0.7898"
    assert unknown.startswith("TypeError: dispersion_kwargs takes no 'functional'; it takes: abc, ")
    assert held == "ValueError: D3 cannot be added to model 'off-small': it holds dispersion."
    assert head == "ValueError: D3 cannot be added to head 'omol': it holds dispersion."
    [misspelt] = call_setup(build("chgnet"), "chgnet", ("", {"disperson": True}, "calculator"))
    assert misspelt.startswith("TypeError: CHGNet takes no option 'disperson' here; it takes: dispersion, ")
    with pytest.raises(ConfigurationError, match="hold dispersion already"):
        RootstockCalculator("so3lr", root=build("so3lr"), device="cpu", setup_kwargs=ON)
