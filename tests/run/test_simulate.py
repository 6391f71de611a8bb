"""Single points, relaxations and molecular dynamics: the commands, and what is under them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import LBFGS
from ase.units import GPa

from rootstock import RootstockCalculator
from rootstock.dynamics import Dynamics, Simulation, thermal_momenta
from rootstock.errors import ConfigurationError
from rootstock.simulate import Relaxation, singlepoint
from rootstock.structures import check_output, read_structures, write_structures
from tests.conftest import clean_environment

ROOTSTOCK = Path(sys.executable).with_name("rootstock")
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def crystal(symbol: str = "Cu") -> Atoms:
    atoms = bulk(symbol, cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def with_emt(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms


# -- dynamics


@pytest.fixture
def potential() -> Callable[[], MorsePotential]:
    """Return a maker of calculators without a memory: EMT's sums depend on when it last looked for neighbours."""
    return lambda: MorsePotential(epsilon=0.34, r0=2.86, rho0=4.0, rcut1=4.0, rcut2=5.0)


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "nvt-csvr", "nvt-nh", "npt-mtk"])
def test_stopped_and_continued_is_never_stopped(
    tmp_path: Path, ensemble: str, potential: Callable[[], MorsePotential]
) -> None:
    """All files are the same to the byte: positions, momenta, cell, and the thermostat's random numbers go on."""
    settings = Dynamics(ensemble, steps=20, pressure=1.0, stats_every=1, traj_every=5, restart_every=7, seed=3)
    start = crystal()
    start.set_constraint(FixAtoms([0]) if ensemble == "nve" else None)
    whole = Simulation(start, potential(), settings, str(tmp_path / "whole"))
    assert whole.run()
    cut = Simulation(start, potential(), settings, str(tmp_path / "cut"))
    assert not cut.run(on_step=lambda now: now.step < 11)
    with cut.files["stats"].open("a") as file:
        file.write("what was written after the restart file, before a kill")
    resumed = Simulation.resume(potential(), settings, str(tmp_path / "cut"))
    assert resumed.step == 11
    assert resumed.run()
    assert (resumed.atoms.positions == whole.atoms.positions).all()
    for name in ("stats", "traj", "final", "restart"):
        assert resumed.files[name].read_bytes() == whole.files[name].read_bytes(), name
    rows = np.loadtxt(whole.files["stats"])
    assert rows[:, 0] == pytest.approx(np.arange(21))
    assert [atoms.info["step"] for atoms in read(whole.files["traj"], ":")] == [0, 5, 10, 15, 20]
    assert np.ptp(rows[:, 5]) > 10
    if ensemble == "nve":
        assert np.ptp(rows[:, 4]) < 0.01
        assert (whole.atoms.positions[0] == start.positions[0]).all()
    assert (np.ptp(rows[:, 6]) > 0) == (ensemble == "npt-mtk")


def test_each_step_is_computed_once(tmp_path: Path, root: Path) -> None:
    """What is written beside a step, such as its number, is no reason to compute it again."""
    settings = Dynamics("nve", steps=20, stats_every=1, traj_every=1, restart_every=5)
    with RootstockCalculator("emt", root=root, device="cpu") as calc:
        assert Simulation(crystal(), calc, settings, str(tmp_path / "md")).run()
        assert calc.info()["calls"]["count"] <= 22
    frames = read(tmp_path / "md-traj.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == list(range(21))
    assert len({frame.get_potential_energy() for frame in frames}) == 21


def test_initial_velocities(tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * (6, 6, 6)
    momenta = thermal_momenta(atoms, 500.0, np.random.default_rng(0))
    assert np.abs(momenta.sum(axis=0)).max() < 1e-10
    atoms.set_momenta(momenta)
    assert atoms.get_temperature() == pytest.approx(500, rel=0.05)
    kept = Simulation(atoms, EMT(), Dynamics("nve"), str(tmp_path / "a"))
    assert not kept.drawn and (kept.atoms.get_momenta() == momenta).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temp": 301.0}, "is of a simulation with temp = 300.0, not 301.0"),
        ({"ensemble": "nvt-nh"}, "with ensemble = nvt, not nvt-nh"),
    ],
)
def test_restart_files_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    prefix, settings = str(tmp_path / "a"), {"ensemble": "nvt", "steps": 1}
    simulation = Simulation(crystal(), EMT(), Dynamics(**settings), prefix)
    simulation.run()
    with pytest.raises(ConfigurationError, match=message):
        Simulation.resume(EMT(), Dynamics(**settings | change), prefix)
    simulation.files["traj"].write_text("")
    with pytest.raises(ConfigurationError, match="something is missing"):
        Simulation.resume(EMT(), Dynamics(**settings), prefix)
    for text in ("", "{}", "[1]", '{"format": 1}', '{"format": 2}'):
        simulation.files["restart"].write_text(text)
        with pytest.raises(ConfigurationError, match="is no restart file"):
            Simulation.resume(EMT(), Dynamics(**settings), prefix)


def test_no_pressure_without_a_cell(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no periodic cell"):
        Simulation(molecule("N2"), EMT(), Dynamics("npt-mtk"), str(tmp_path / "a"))


# -- single points and relaxations


def test_singlepoint() -> None:
    found = singlepoint(crystal(), EMT())
    assert set(found.calc.results) == {"energy", "forces", "stress"}
    assert set(singlepoint(molecule("N2"), EMT()).calc.results) == {"energy", "forces"}
    assert set(singlepoint(crystal(), EMT(), ["energies"]).calc.results) == {"energies"}
    with pytest.raises(ConfigurationError, match=r"does not compute dipole; it computes energy"):
        singlepoint(crystal(), EMT(), ["dipole"])


@pytest.mark.parametrize("cell", ["fixed", "lengths", "full"])
def test_relaxation(cell: str, tmp_path: Path) -> None:
    steps: list[int] = []
    trajectory = tmp_path / "steps.extxyz"
    found = Relaxation(fmax=0.02, cell=cell, pressure=0.0 if cell == "fixed" else 2.0).run(
        crystal(), EMT(), on_step=lambda step, atoms, force: steps.append(step), trajectory=trajectory
    )
    expected = with_emt(crystal())
    moving: Any = expected
    if cell != "fixed":
        moving = FrechetCellFilter(expected, hydrostatic_strain=cell == "lengths", scalar_pressure=2 * GPa)
    LBFGS(moving, logfile=None).run(fmax=0.02)
    assert found.info["converged"]
    assert found.positions == pytest.approx(expected.positions, abs=1e-8)
    assert found.cell.array == pytest.approx(expected.cell.array, abs=1e-8)
    frames = read(trajectory, ":")
    assert steps == list(range(len(frames)))
    assert frames[-1].positions == pytest.approx(found.positions, abs=1e-6)


def test_a_cell_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match="no periodic cell"):
        Relaxation(cell="full").run(molecule("N2"), EMT())


# -- files


def test_files_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "there.xyz").touch()
    (tmp_path / "text.cif").write_text("no atoms here")
    for path, options, message in (
        ("there.xyz", {}, "exists.\n.*--overwrite"),
        ("a.unknown", {}, "knows no format"),
        ("a.vasp", {"many": True}, "format vasp cannot hold several structures"),
        ("a.cif", {"grows": True}, "format cif cannot grow"),
        ("none/a.xyz", {}, "Cannot write into"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            check_output(tmp_path / path, overwrite=False, **options)
    check_output(tmp_path / "there.xyz", overwrite=True)
    for name, message in (("none.xyz", "There is no file"), ("text.cif", "Cannot read|holds no atoms")):
        with pytest.raises(ConfigurationError, match=message):
            read_structures([str(tmp_path / name)])


def test_structures_of_several_files(tmp_path: Path) -> None:
    path, odd = tmp_path / "many.extxyz", tmp_path / "odd@name.xyz"
    write(path, [bulk("Cu"), bulk("Au"), bulk("Ag")])
    write(odd, bulk("Pt"))
    found = read_structures([f"{path}@-1", str(odd), f"{path}@:2"])
    assert [atoms.symbols[0] for atoms in found] == ["Ag", "Pt", "Cu", "Au"]


def test_a_file_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "kept.xyz"
    path.write_text("kept")
    broken = bulk("Cu")
    broken.arrays["positions"] = np.array([["no", "number", "here"]])
    with pytest.raises((ConfigurationError, ValueError, TypeError)):
        write_structures(path, [broken])
    assert path.read_text() == "kept"
    assert os.listdir(tmp_path) == ["kept.xyz"]


# -- the commands


def arguments(root: Path, *more: str) -> list[str]:
    return [str(ROOTSTOCK), more[0], "emt", *more[1:], "--root", str(root), "--device", "cpu"]


@pytest.fixture
def rootstock(root: Path, tmp_path: Path) -> Command:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments(root, *more), cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=200
        )

    return run


def test_singlepoint_of_many_files(rootstock: Command, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [crystal(), crystal("Au")])
    crystal("Ag").write(tmp_path / "b.traj")
    done = rootstock("singlepoint", "a.extxyz", "b.traj", "--out", "all.extxyz")
    assert not done.returncode, done.stderr
    found = read(tmp_path / "all.extxyz", ":")
    for atoms, symbol in zip(found, ("Cu", "Au", "Ag"), strict=True):
        expected = with_emt(crystal(symbol))
        assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-6)
        assert atoms.get_stress() == pytest.approx(expected.get_stress(), abs=1e-6)
        assert f"energy {expected.get_potential_energy():.6f} eV" in done.stdout
    again = rootstock("singlepoint", "a.extxyz", "b.traj", "--out", "all.extxyz")
    assert again.returncode == 3 and "all.extxyz exists" in again.stderr


def test_what_was_done_before_a_failure_is_kept(rootstock: Command, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [crystal(), crystal("Au"), bulk("U", "fcc", a=5.0)])
    done = rootstock("singlepoint", "a.extxyz")
    assert done.returncode == 18
    assert "The 2 that were done are in a-results.partial.extxyz" in done.stderr
    assert len(read(tmp_path / "a-results.partial.extxyz", ":")) == 2
    assert not (tmp_path / "a-results.extxyz").exists()


def test_relax(rootstock: Command, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [bulk("Cu", cubic=True), crystal("Au")])
    done = rootstock("relax", "a.extxyz", "--steps", "2", "--fmax", "0.01")
    assert done.returncode == 21, done.stderr
    assert "1 of 2 structures did not reach 0.01 eV/Å in 2 steps: number 2. All are in a-relaxed" in done.stderr
    assert [atoms.info["converged"] for atoms in read(tmp_path / "a-relaxed.extxyz", ":")] == [True, False]
    done = rootstock("relax", "a.extxyz@1", "--opt-cell-fully", "--fmax", "0.01", "--out", "gold.cif")
    assert not done.returncode, done.stderr
    relaxed = read(tmp_path / "gold.cif")
    assert with_emt(relaxed).get_stress() == pytest.approx(0, abs=1e-3)


MD = ("md", "a.extxyz", "--ensemble", "nvt", "--timestep", "2", "--stats-every", "1", "--traj-every", "10",
      "--restart-every", "10", "--seed", "5", "--file-prefix")  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_md_goes_on_after_a_signal(rootstock: Command, root: Path, tmp_path: Path, number: signal.Signals) -> None:
    crystal().write(tmp_path / "a.extxyz")
    restart, stats = tmp_path / "cut-restart.json", tmp_path / "cut-stats.dat"
    with subprocess.Popen(
        arguments(root, *MD, "cut", "--steps", "1000000"), cwd=tmp_path, env=clean_environment(), stderr=-1, text=True
    ) as process:
        deadline = time.monotonic() + 100
        while not (restart.exists() and json.loads(restart.read_text())["step"] >= 10):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    step = json.loads(restart.read_text())["step"]
    if number == signal.SIGKILL:
        assert step % 10 == 0
    else:
        assert process.returncode == 130
        assert f"Stopped after step {step}. The same command with --restart goes on there." in said
        assert stats.read_text().splitlines()[-1].split()[0] == str(step)
    steps = str(step + 20)
    done = rootstock(*MD, "cut", "--steps", steps, "--restart")
    assert not done.returncode, done.stderr
    assert f"Going on after step {step}" in done.stderr
    rows = np.loadtxt(stats)
    assert rows[:, 0] == pytest.approx(np.arange(step + 21))
    frames = read(tmp_path / "cut-traj.extxyz", ":")
    assert [atoms.info["step"] for atoms in frames] == list(range(0, step + 21, 10))
    if number == signal.SIGTERM:  # the same, never stopped; a chaotic path keeps EMT's last digits for a while only
        whole = rootstock(*MD, "whole", "--steps", "25")
        assert not whole.returncode, whole.stderr
        shared = min(len(rows), 26)
        assert rows[:shared] == pytest.approx(np.loadtxt(tmp_path / "whole-stats.dat")[:shared], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("md", "many.extxyz", "--ensemble", "nve", "--steps", "1"), "holds 2 structures.\nPick one, such as"),
        (("md", "there.xyz", "--ensemble", "nve", "--steps", "1"), "there-nve-stats.dat exists.\nGo on with --restart"),
        (("relax", "there.xyz", "--opt-cell-fully", "--opt-cell-lengths"), "either --opt-cell-lengths or"),
        (("relax", "there.xyz", "--pressure", "1"), "--pressure is for a cell that is relaxed"),
        (("singlepoint", "many.extxyz", "there.xyz"), "Say so with --out FILE"),
        (("singlepoint", "none.xyz"), "There is no file none.xyz"),
        (("singlepoint", "there.xyz", "--calc-kwargs", "nonsense("), "--calc-kwargs nonsense"),
        (("singlepoint", "there.xyz", "--calc-kwargs", "[1]"), "that is no dict"),
    ],
)
def test_wrong_arguments(rootstock: Command, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    write(tmp_path / "many.extxyz", [crystal(), crystal()])
    crystal().write(tmp_path / "there.xyz")
    (tmp_path / "there-nve-stats.dat").touch()
    before = sorted(os.listdir(tmp_path))
    done = rootstock(*more)
    assert done.returncode == 3
    assert message in done.stderr
    assert sorted(os.listdir(tmp_path)) == before
