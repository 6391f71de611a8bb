"""CHGNet with its released weights: the published figures, through a worker of a real build."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.units import GPa

from rootstock import RootstockCalculator
from rootstock.config.environment_file import packaged_source
from rootstock.errors import ConfigurationError
from rootstock.interfaces.thread_state import ThreadStates
from rootstock.root.records import active_build, read_build
from rootstock.root.weights import write_variables
from tests.support.commands import REPOSITORY, clean_environment, run

pytestmark = pytest.mark.models


@pytest.mark.all_models
def test_the_benchmark_of_its_dynamics(models_root: Path, tmp_path: Path) -> None:
    """It runs, and the three ways go through the same energies."""
    found = tmp_path / "found.json"
    program = REPOSITORY / "benchmarks" / "md_without_stress.py"
    few = ("--repeat", "1", "--rounds", "2", "--steps", "3")
    run(sys.executable, program, "--root", models_root, *few, "--json", found, check=True)
    [row] = json.loads(found.read_text())["rows"]
    assert row["atoms"] == 8 and min(row["stock"], row["file"], row["rootstock"]) > 0
    assert row["energy difference"] < 1e-4


@pytest.fixture(scope="module")
def chgnet(models_root: Path) -> Iterator[RootstockCalculator]:
    with RootstockCalculator(model="chgnet", root=models_root, device="cpu", threads=1) as calc:
        yield calc


def lithium_manganese_oxide() -> Atoms:
    return Atoms(**packaged_source("chgnet").references()[0].structure)


def test_published_figures(chgnet: RootstockCalculator) -> None:
    """LiMnO2, mp-18767: CHGNet repository, tests/test_model.py, with its tolerances."""
    atoms = lithium_manganese_oxide()
    atoms.calc = chgnet
    assert atoms.get_potential_energy() / 8 == pytest.approx(-7.36769, abs=1e-4)
    published = [0.0238135569, -0.0238130391, 0.0925870836, -0.0925877392, -0.00243449211, -0.0130698681,
                 0.0130702555, 0.00243446976]  # fmt: skip
    assert atoms.get_forces()[:, 2] == pytest.approx(published, rel=1e-3, abs=1e-4)
    assert np.abs(atoms.get_forces()[:, :2]).max() < 1e-4
    assert atoms.get_stress()[:3] / GPa == pytest.approx([-0.30366361, 0.22305478, -0.10736181], rel=5e-3, abs=1e-4)
    moments = [0.00305, 0.00305, 3.8694179, 3.8694181, 0.0441362, 0.0386222, 0.0386221, 0.0441362]
    assert atoms.get_magnetic_moments() == pytest.approx(moments, rel=1e-3, abs=1e-4)


def test_rock_salt(chgnet: RootstockCalculator) -> None:
    """NaCl: janus-core, tests/test_single_point.py."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.calc = chgnet
    assert atoms.get_potential_energy() == pytest.approx(-29.331436157226562, abs=1e-5)


def test_the_build_was_verified(models_root: Path) -> None:
    build = active_build(models_root / "active" / "chgnet")
    assert build is not None
    record = read_build(build)
    assert record is not None
    assert all(check["passed"] for check in record.verification)
    done = {
        (check["property"], check["source"].split()[0]): check
        for check in record.verification
        if check["reference"] == "LiMnO2, mp-18767"
    }
    assert {name for name, source in done if source == "CHGNet"} == {"energy", "forces", "stress", "magmoms"}
    for name in ("forces of atom 0", "stress"):  # they are derivatives of the energy
        check = done[name, "finite"]
        assert np.abs(check["value"]).max() > 10 * check["error"]


IN_PROCESS = """
import json, sys
import numpy as np
from ase import Atoms
from chgnet.model import CHGNet, CHGNetCalculator

found = {}
for model in sys.argv[2:]:
    atoms = Atoms(**json.loads(sys.argv[1]))
    calc = CHGNetCalculator(CHGNet.load(model_name=model, verbose=False), use_device="cpu")
    found[model] = []
    for seed in range(4):
        atoms.rattle(0.05, seed=seed)
        atoms.calc = calc
        values = [[atoms.get_potential_energy()], atoms.get_forces(), atoms.get_stress(), atoms.get_magnetic_moments()]
        found[model].append([float(x).hex() for value in values for x in np.ravel(value)])
print("RESULT", json.dumps(found))
"""
STOCK = ("0.3.0", "r2scan", "0.2.0")


@pytest.fixture(scope="module")
def stock(models_root: Path) -> dict[str, list[list[str]]]:
    """Return what CHGNet's own calculator computes with each model."""
    structure = packaged_source("chgnet").references()[0].structure
    build = (models_root / "active" / "chgnet").resolve()
    env = clean_environment(OMP_NUM_THREADS="1", **write_variables(models_root.parent))
    program = (build / "bin/python", "-I", "-W", "ignore", "-c", IN_PROCESS)
    done = run(*program, json.dumps(structure), *STOCK, env=env, check=True)
    found: dict[str, list[list[str]]] = json.loads(done.stdout.partition("RESULT")[2])
    return found


@pytest.mark.parametrize("model", ["", *(pytest.param(name, marks=pytest.mark.all_models) for name in STOCK[1:])])
def test_bit_for_bit_the_stock_calculator(
    models_root: Path, model: str, chgnet: RootstockCalculator, stock: dict[str, list[list[str]]]
) -> None:
    """The same energy, forces, stress and moments as CHGNet's own calculator, though each is asked for by itself."""
    expected = stock[model or "0.3.0"]
    atoms = lithium_manganese_oxide()
    own = RootstockCalculator(model=f"chgnet-{model}", root=models_root, device="cpu", threads=1) if model else None
    with own or contextlib.nullcontext(chgnet) as calc:
        atoms.calc = calc
        for numbers in expected:
            atoms.rattle(0.05, seed=expected.index(numbers))
            values: list[Any] = [
                [atoms.get_potential_energy()], atoms.get_forces(), atoms.get_stress(), atoms.get_magnetic_moments(),
            ]  # fmt: skip
            assert [float(x).hex() for value in values for x in np.ravel(value)] == numbers


def test_no_more_is_computed_than_asked_for(chgnet: RootstockCalculator) -> None:
    atoms = lithium_manganese_oxide()
    atoms.calc = chgnet
    for asked, computed in [
        (["energy"], {"energy"}),
        (["forces"], {"energy", "forces"}),
        (["stress"], {"energy", "forces", "stress"}),
        (["magmoms"], {"energy", "magmoms"}),
        (["forces", "magmoms"], {"energy", "forces", "stress", "magmoms"}),
    ]:
        chgnet.reset()
        chgnet._states = ThreadStates()
        chgnet.calculate(atoms, asked)
        assert set(chgnet.results) - {"free_energy"} == computed, asked


def test_wrong_models(models_root: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"no model '0.9'. It has: 0.3.0, 0.2.0, r2scan; or the path of a check"
    ):
        RootstockCalculator(model="chgnet-0.9", root=models_root, device="cpu")


def test_a_checkpoint_of_ones_own_and_site_energies(models_root: Path, chgnet: RootstockCalculator) -> None:
    """Li -3.6264274, Mn -9.634681, O -8.024935 and -8.184724 eV: CHGNet repository, tests/test_model.py."""
    atoms = lithium_manganese_oxide()
    atoms.calc = chgnet
    with pytest.raises(PropertyNotImplementedError, match="does not compute energies"):
        atoms.get_potential_energies()
    build = (models_root / "active" / "chgnet").resolve()
    path = next(build.glob("lib/python*/site-packages/chgnet/pretrained/0.3.0/*.tar"))
    options = {"return_site_energies": True}
    with RootstockCalculator(model=f"chgnet-{path}", root=models_root, device="cpu", setup_kwargs=options) as calc:
        atoms.calc = calc
        published = [-3.6264274, -3.6264274, -9.634681, -9.634681, -8.024935, -8.184724, -8.184724, -8.024935]
        assert sorted(atoms.get_potential_energies()) == pytest.approx(sorted(published), abs=1e-3)
        salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
        salt.calc = calc
        assert salt.get_potential_energy() == pytest.approx(-29.331436157226562, abs=1e-4)
