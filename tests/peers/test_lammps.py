"""LAMMPS moves the atoms, calculators compute their forces."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.units import Bohr, Hartree, bar, kcal, mol

from tests.support.commands import REPOSITORY, clean_environment, run

CASES = Path(__file__).parent / "programs" / "lammps_cases.py"
Case = Callable[..., dict[str, Any]]


@pytest.fixture
def case(peers: Path, tmp_path: Path) -> Case:
    """Run one of the cases, and return what it found."""

    def call(name: str, *arguments: str | Path, before: tuple[str | Path, ...] = ()) -> dict[str, Any]:
        done = run(*before, peers / "python", CASES, name, *arguments, cwd=tmp_path, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return call


@pytest.mark.parametrize(
    ("units", "length", "energy", "pressure", "tolerance"),
    [
        ("metal", 1.0, 1.0, bar, 1e-9),
        ("real", 1.0, kcal / mol, 1.01325 * bar, 1e-6),  # LAMMPS has other values of the constants
        ("electron", Bohr, Hartree, 1e-5 * bar, 1e-6),
    ],
)
def test_numbers_and_units(
    case: Case, units: str, length: float, energy: float, pressure: float, tolerance: float
) -> None:
    """Atoms out of order, two types, a triclinic box, wrapped positions: ASE's numbers in LAMMPS' units."""
    found = case("static", units)
    assert found["energy"] * energy == pytest.approx(found["ase energy"], rel=1e-6, abs=tolerance)
    forces = np.array(found["ase forces"])
    assert np.array(found["forces"]) * energy / length == pytest.approx(forces, rel=tolerance, abs=1e3 * tolerance)
    stress = np.array(found["ase stress"])
    assert np.abs(stress[3:]).min() > 1e-3
    assert -np.array(found["pressure"]) * pressure == pytest.approx(stress, rel=1e-4)


def test_constant_energy(case: Case) -> None:
    found = case("nve")
    assert np.ptp(found["energies"]) < 2e-3
    assert found["shift"] < 1e-4  # the same path as ASE's, but for LAMMPS' constants
    assert found["evaluations"] == 1 + 10 * 11  # each run computes its first step again


def test_stress_is_computed_when_lammps_asks(case: Case) -> None:
    assert case("virial_when_wanted")["asked"] == 5


def test_constant_pressure(case: Case) -> None:
    found = case("npt")
    assert abs(found["grown"] - 1) > 1e-3
    assert found["energy"] == pytest.approx(found["ase energy"], abs=1e-9)
    assert -np.array(found["pressure"]) * bar == pytest.approx(np.array(found["ase stress"]), abs=1e-6)


def test_a_relaxed_box(case: Case) -> None:
    found = case("relax")
    assert found["volume"] == pytest.approx(found["ase volume"], rel=1e-5)
    assert found["energy"] == pytest.approx(found["ase energy"], abs=1e-6)
    assert np.abs(found["pressure"]).max() * bar < 1e-4


@pytest.mark.parametrize("boundary", ["f f f", "s s s", "p p f"])
def test_boundaries(case: Case, boundary: str) -> None:
    found = case("cluster", boundary)
    assert found["energy"] == pytest.approx(found["ase energy"], abs=1e-9)
    assert np.array(found["forces"]) == pytest.approx(np.array(found["ase forces"]), abs=1e-7)
    expected = np.zeros(6) if boundary == "p p f" else np.array(found["virial"])  # without virial: that of no momenta
    assert np.array(found["pressure"]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("how", ["command", "setup", "commands_string", "commands_list", "file", "minimize"])
def test_a_failure_ends_the_run_and_is_raised(case: Case, how: str) -> None:
    found = case("failure", how)
    assert found["raised"] == "too hot"
    assert found["step"] <= 4 and found["count"] == (1 if how == "setup" else 5)
    assert found["then"] == 10 and math.isfinite(found["pe"]) and found["pe"]


def test_what_a_model_reads_of_info(case: Case) -> None:
    without, with_charge = case("charged")["energies"]
    assert with_charge == pytest.approx(without + 200.0)


def test_errors_of_lammps_and_detaching(case: Case) -> None:
    found = case("other_failures")
    assert "Unknown command: nonsense" in found["raised"]
    assert (found["fix"], found["pe"], found["own"]) == (False, 0.0, False)


def test_ctrl_c(case: Case) -> None:
    found = case("interrupted")
    assert found["raised"] and found["handler"]
    assert found["late"] <= 1  # the evaluation that was under way
    # The first evaluation of each run is for no step, and two come after; Ctrl-C may keep the last step from its own.
    assert found["step"] > 0 and found["step"] - (found["evaluations"] - 4) in (0, 1)
    assert found["then"] == 2


def test_what_cannot_be_coupled(case: Case) -> None:
    found = case("refused")
    assert "units 'si'" in found["units"] and "metal, real, electron" in found["units"]
    assert "2 dimensions" in found["dimension"]
    assert "no box yet" in found["box"]
    assert "types 1 to 2; types= names [1]" in found["types"]
    assert "'Gold' is no element" in found["element"]
    assert "computes no stress" in found["stress"] and "virial=False" in found["stress"]
    assert "fix 'rootstock' already" in found["twice"]
    assert "type 1 has mass 63.546, as Cu has; types= calls it Au" in found["masses"][0]
    assert len(found["masses"]) == 2


def test_more_than_one_process_is_refused(case: Case, peers: Path) -> None:
    found = case("ranks", before=(peers / "mpiexec", "-n", "2", "-localhost", "localhost"))
    assert "runs on 2 MPI processes" in found["raised"]


@pytest.mark.parametrize("fault", ["none", "kill"])
def test_with_a_worker(case: Case, root: Path, fault: str) -> None:
    found = case("worker", root, fault)
    assert ("killed by SIGKILL" in found["raised"]) == (fault == "kill")
    if fault == "none":
        assert found["energy"] == pytest.approx(found["ase energy"], abs=5e-3)


def test_the_guide(peers: Path, root: Path, tmp_path: Path) -> None:
    """Its input file, its script and its variable; a shorter run of a model that needs no GPU."""
    page = (REPOSITORY / "docs/guides/lammps.md").read_text()
    (tmp_path / "in.lammps").write_text(page.partition("```lammps\n")[2].partition("```")[0])
    script = page.partition("```python\n")[2].partition("```")[0]
    script = script.replace('"mace-medium"', '"emt", device="cpu"').replace("run 10000", "run 2")
    assert "export LD_LIBRARY_PATH=$PWD/my-env/lib:$LD_LIBRARY_PATH\n" in page
    python = [peers / "python", "-c", script]
    variables = clean_environment(ROOTSTOCK_ROOT=str(root))
    without = {name: value for name, value in variables.items() if name != "LD_LIBRARY_PATH"}
    refused = run(*python, cwd=tmp_path, env=without)
    assert "libmpi.so.12: cannot open shared object file" in refused.stderr
    done = run(*python, cwd=tmp_path, env=without | {"LD_LIBRARY_PATH": f"{peers.parent}/lib"}, check=True)
    assert "Loop time of" in done.stdout
