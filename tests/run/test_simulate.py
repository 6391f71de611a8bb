"""Single points, relaxations and molecular dynamics: the commands, and what is under them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms
from ase.db import connect
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import LBFGS
from ase.units import GPa

from rootstock import RootstockCalculator
from rootstock.errors import ConfigurationError
from rootstock.simulations.dynamics import Dynamics, Simulation
from rootstock.simulations.relax import Relaxation, singlepoint
from rootstock.simulations.structures import check_output, read_structures
from rootstock.simulations.velocities import thermal_momenta
from rootstock.simulations.writing import write_structures
from tests.support.commands import ROOTSTOCK, Done, run, started
from tests.support.processes import children

Command = Callable[..., Done]


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
    return lambda: MorsePotential(epsilon=0.34, r0=2.86, rho0=4.0, rcut1=3.0, rcut2=3.5)


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
        assert calc.info()["calls"]["count"] == 21
    frames = read(tmp_path / "md-traj.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == list(range(21))
    assert len({frame.get_potential_energy() for frame in frames}) == 21


def test_initial_velocities(tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * (6, 6, 6)
    momenta = thermal_momenta(atoms, Dynamics("nve", temp=500.0), np.random.default_rng(0))
    assert np.abs(momenta.sum(axis=0)).max() < 1e-10
    atoms.set_momenta(momenta)
    assert atoms.get_temperature() == pytest.approx(500, rel=1e-12)
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
    whole = simulation.files["restart"].read_text()
    with pytest.raises(ConfigurationError, match="something is missing"):
        Simulation.resume(EMT(), Dynamics(**settings), prefix)
    for text, fault in (
        ("", ": "), ("{}", " of this version"), ("[1]", " of this version"), ('{"format": 2}', " of this version"),
        ('{"format": 1}', r": it has no 'settings'\."), ("[" * 100_000, ": "),
        (whole.replace('"step": 1', '"step": "one"'), r": step must be a whole number, not 'one'\."),
    ):  # fmt: skip
        simulation.files["restart"].write_text(text)
        with pytest.raises(ConfigurationError, match="is no restart file" + fault):
            Simulation.resume(EMT(), Dynamics(**settings), prefix)


def test_no_pressure_without_a_cell(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="periodic in all three directions"):
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
    with pytest.raises(ConfigurationError, match="not periodic in all three directions"):
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
    sources = [atoms.info["rootstock_source"] for atoms in found]
    assert sources == [f"{path}@-1", f"{odd}@0", f"{path}@0", f"{path}@1"]


def test_a_format_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "copper.unknown"
    write(path, [bulk("Cu"), bulk("Au")], format="extxyz")
    found = read_structures([f"{path}@1"], "extxyz")
    assert [atoms.symbols[0] for atoms in found] == ["Au"]
    for name in ("nonsense", "png"):  # ASE writes images, and reads none
        with pytest.raises(ConfigurationError, match=f"reads no format named '{name}'.\nList all"):
            read_structures([str(path)], name)


@pytest.mark.parametrize("index", [":", "0", "-1", "1:", "::2", "1:3:2", "-2:", "-9:2", "::-1", "2:0:-1"])
def test_the_frame_of_each_structure(tmp_path: Path, index: str) -> None:
    path = tmp_path / "run.traj"
    write(path, [bulk("Cu", a=3.5 + 0.1 * number) for number in range(4)])
    found = read_structures([f"{path}@{index}"])
    again = [read(atoms.info["rootstock_source"]) for atoms in found]
    assert len(found) and [(a.cell == b.cell).all() for a, b in zip(found, again, strict=True)] == [True] * len(found)


def test_the_frames_of_a_query(tmp_path: Path) -> None:
    with connect(tmp_path / "a.db") as database:
        for symbol in ("Cu", "Au", "Cu"):
            database.write(bulk(symbol))
    found = read_structures([f"{tmp_path}/a.db@Cu=1"])
    assert [atoms.info["rootstock_source"] for atoms in found] == [f"{tmp_path}/a.db@Cu=1"] * 2


def test_a_file_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "kept.xyz"
    path.write_text("kept")
    broken = bulk("Cu")
    broken.info["thing"] = object()
    with pytest.raises(ConfigurationError, match="cannot hold 'thing' of this structure"):
        write_structures(path, [broken])
    assert path.read_text() == "kept"
    assert os.listdir(tmp_path) == ["kept.xyz"]


# -- the commands


def arguments(root: Path, *more: str) -> list[str]:
    return [str(ROOTSTOCK), more[0], "emt", *more[1:], "--root", str(root), "--device", "cpu"]


@pytest.fixture
def rootstock(root: Path, tmp_path: Path) -> Command:
    return lambda *more: run(*arguments(root, *more), cwd=tmp_path)


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


def test_files_hold_every_digit(rootstock: Command, root: Path, tmp_path: Path) -> None:
    """What a file says is what a calculator says of the structure in the file, bit for bit."""
    crystal().write(tmp_path / "a.traj")
    for more in (
        ("singlepoint", "a.traj", "--out", "point.xyz"),
        ("relax", "a.traj", "--fmax", "0.3", "--traj", "steps.extxyz", "--out", "relaxed.extxyz"),
        ("md", "a.traj", "--ensemble", "nve", "--steps", "3", "--traj-every", "1", "--file-prefix", "md"),
    ):
        done = rootstock(*more)
        assert not done.returncode, done.stderr
    with RootstockCalculator("emt", root=root, device="cpu") as calc:
        for name in ("point.xyz", "steps.extxyz", "relaxed.extxyz", "md-traj.extxyz", "md-final.extxyz"):
            for atoms in read(tmp_path / name, ":"):
                calc.reset()  # type: ignore[no-untyped-call]
                energy, forces = calc.get_potential_energy(atoms), calc.get_forces(atoms)
                found = (atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False))
                # EMT's last digits depend on when it last looked for neighbours; eight decimals are further off.
                assert found[0] == pytest.approx(energy, abs=1e-12), name
                assert found[1] == pytest.approx(forces, abs=1e-12), name
    assert (read(tmp_path / "point.xyz").positions == crystal().positions).all()


def test_structures_that_a_file_cannot_hold_are_refused_first(rootstock: Command, tmp_path: Path) -> None:
    atoms = crystal()
    atoms.info["energy"] = 1.0
    atoms.write(tmp_path / "a.traj")
    for more in (
        ("singlepoint",),
        ("relax", "--out", "a.json", "--traj", "b.xyz"),
        ("md", "--ensemble", "nve", "--steps", "1"),
    ):
        done = rootstock(more[0], "a.traj", *more[1:])
        assert (done.returncode, "cannot hold 'energy' of this structure" in done.stderr) == (3, True), done.stderr
        assert os.listdir(tmp_path) == ["a.traj"]


def test_what_was_done_before_a_failure_is_kept(rootstock: Command, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [crystal(), crystal("Au"), bulk("U", "fcc", a=5.0)])
    done = rootstock("singlepoint", "a.extxyz")
    assert done.returncode == 3
    assert "The 2 that were done are in a-results.partial.extxyz" in done.stderr
    assert len(read(tmp_path / "a-results.partial.extxyz", ":")) == 2
    assert not (tmp_path / "a-results.extxyz").exists()


def test_results_that_cannot_be_told_are_computed(root: Path, tmp_path: Path) -> None:
    """Nobody reads on, as behind `| head`."""
    write(tmp_path / "a.extxyz", [crystal(), crystal("Au")])
    reader, writer = os.pipe()
    os.close(reader)
    with started(arguments(root, "singlepoint", "a.extxyz"), cwd=tmp_path, stdout=writer) as process:
        os.close(writer)
        _, said = process.communicate()
    assert (process.returncode, said) == (1, "")
    expected = [with_emt(crystal(symbol)).get_potential_energy() for symbol in ("Cu", "Au")]
    found = [atoms.get_potential_energy() for atoms in read(tmp_path / "a-results.extxyz", ":")]
    assert found == pytest.approx(expected, abs=1e-6)


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


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGKILL],
    ids=lambda number: number.name,
)
def test_md_goes_on_after_a_signal(rootstock: Command, root: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A batch system sends it to all processes of the job, and srun passes it on once more."""
    crystal().write(tmp_path / "a.extxyz")
    restart, stats = tmp_path / "cut-restart.json", tmp_path / "cut-stats.dat"
    with started(arguments(root, *MD, "cut", "--steps", "1000000"), cwd=tmp_path) as process:
        while not (restart.exists() and json.loads(restart.read_text())["step"] >= 10):
            assert process.poll() is None
            time.sleep(0.02)
        all_of_it = [*children(process.pid), process.pid]
        for pid in all_of_it[-1:] if number == signal.SIGINT else all_of_it:  # a second Ctrl-C ends it at once
            os.kill(pid, number)
        if number not in (signal.SIGINT, signal.SIGKILL):
            process.send_signal(number)
        said = process.communicate()[1]
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


def test_md_without_a_terminal(root: Path, tmp_path: Path) -> None:
    """With nohup the end of the terminal is nothing to it."""
    crystal().write(tmp_path / "a.extxyz")
    restart = tmp_path / "cut-restart.json"

    def wait_for_step(process: Any, wanted: int) -> int:
        while not (restart.exists() and (step := int(json.loads(restart.read_text())["step"])) >= wanted):
            assert process.poll() is None
            time.sleep(0.02)
        return step

    words = ["sh", "-c", 'trap "" HUP; exec "$0" "$@"', *arguments(root, *MD, "cut", "--steps", "1000000")]
    with started(words, cwd=tmp_path) as process:
        step = wait_for_step(process, 10)
        for pid in (process.pid, *children(process.pid)):
            os.kill(pid, signal.SIGHUP)
        wait_for_step(process, step + 20)
        process.terminate()
        process.wait()
    assert process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_relax_keeps_what_was_done_before_a_signal(root: Path, tmp_path: Path, number: signal.Signals) -> None:
    """It comes to all of the job, and more than once."""
    write(tmp_path / "a.extxyz", [Atoms("Cu"), crystal("Au")])  # one has no forces, the other always some
    words = arguments(root, "relax", "a.extxyz", "--fmax", "1e-300", "--steps", "1000000", "--traj", "steps.extxyz")
    steps = tmp_path / "steps.extxyz"
    with started(words, cwd=tmp_path) as process:
        while not (steps.exists() and "Au" in steps.read_text()):
            assert process.poll() is None
            time.sleep(0.02)
        for pid in [*children(process.pid), *[process.pid] * 3]:
            os.kill(pid, number)
        said = process.communicate()[1]
    assert process.returncode == 130, said
    assert "The 1 that were done are in a-relaxed.partial.extxyz" in said
    assert read(tmp_path / "a-relaxed.partial.extxyz").symbols[0] == "Cu"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("md", "many.extxyz", "--ensemble", "nve", "--steps", "1"), "holds 2 structures.\nPick one, such as"),
        (
            ("md", "there.xyz", "--ensemble", "nve", "--steps", "1"),
            "there-nve-stats.dat exists.\nContinue with --restart",
        ),
        (("relax", "there.xyz", "--opt-cell-fully", "--opt-cell-lengths"), "either --opt-cell-lengths or"),
        (("relax", "there.xyz", "--pressure", "1"), "--pressure is for a cell that is relaxed"),
        (("singlepoint", "many.extxyz", "there.xyz"), "Name it: --out results.extxyz"),
        (("singlepoint", "none.xyz"), "There is no file none.xyz"),
        (("singlepoint", "there.xyz", "--calc-kwargs", "nonsense("), "--calc-kwargs nonsense"),
        (("singlepoint", "there.xyz", "--calc-kwargs", "[1]"), "is not a dictionary"),
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


# -- what was asked for is what is written


@pytest.mark.parametrize("name", ["steps.extxyz", "steps.traj"])
def test_the_steps_of_a_relaxation(rootstock: Command, tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.extxyz", [crystal(), crystal("Au")])
    (tmp_path / name).write_text("old")
    more = ("relax", "a.extxyz", "--fmax", "0.05", "--traj", name)
    assert "exists" in rootstock(*more).stderr
    for other in (("--traj", "a.extxyz"), ("--out", "same.xyz", "--traj", "same.xyz")):
        refused = rootstock(*more, *other, "--overwrite")
        assert (refused.returncode, "it is another file of this command" in refused.stderr) == (3, True), refused.stderr
    missing = rootstock("relax", "none.xyz", "--traj", name, "--overwrite")
    assert (missing.returncode, (tmp_path / name).read_text()) == (3, "old")  # nothing is lost to a slip
    done = rootstock(*more, "--overwrite")
    assert not done.returncode, done.stderr
    frames = read(tmp_path / name, ":")
    ends = read(tmp_path / "a-relaxed.extxyz", ":")
    energies = [atoms.get_potential_energy() for atoms in frames]
    assert len(frames) > 6
    for end in ends:
        assert min(abs(end.get_potential_energy() - energy) for energy in energies) < 1e-6
    assert abs(ends[1].get_potential_energy() - energies[-1]) < 1e-6


@pytest.mark.parametrize("name", ["POSCAR", "CONTCAR.vasp", "OUTCAR-like.extxyz"])
def test_results_hold_energies_whatever_the_input_is_called(rootstock: Command, tmp_path: Path, name: str) -> None:
    """ASE takes a name with POSCAR in it for one of VASP's files, so the default one has it in small letters."""
    crystal().write(tmp_path / name, format="extxyz" if name.endswith("xyz") else "vasp")
    done = rootstock("singlepoint", name)
    assert not done.returncode, done.stderr
    found = read(tmp_path / f"{Path(name).stem.lower()}-results.extxyz")
    assert found.get_potential_energy() == pytest.approx(with_emt(crystal()).get_potential_energy(), abs=1e-6)
    done = rootstock("md", name, "--ensemble", "nve", "--steps", "2", "--file-prefix", name)
    assert not done.returncode, done.stderr
    assert read(tmp_path / f"{name}-final.extxyz", format="extxyz").get_forces().any()


@pytest.mark.parametrize("name", ["gold.cif", "gold.vasp", "POSCAR", "gold.cfg"])
def test_formats_without_results(rootstock: Command, tmp_path: Path, name: str) -> None:
    crystal("Au").write(tmp_path / "a.traj")
    beside = tmp_path / f"{Path(name).stem.lower()}.results.extxyz"
    done = rootstock("singlepoint", "a.traj", "--out", name)
    assert not done.returncode, done.stderr
    assert f"{name} cannot hold energies and forces: they are in {beside.name}." in done.stderr
    assert read(tmp_path / name).symbols.get_chemical_formula() == "Au4"
    found = read(beside)
    assert found.calc.results.keys() == {"energy", "forces", "stress"}
    assert (found.positions == crystal("Au").positions).all()
    (tmp_path / name).unlink()
    again = rootstock("relax", "a.traj", "--out", name)
    assert (again.returncode, f"{beside.name} exists" in again.stderr) == (3, True), again.stderr
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["gold.db.gz", "gold.json.xz"])
def test_databases_are_not_compressed(rootstock: Command, tmp_path: Path, name: str) -> None:
    crystal("Au").write(tmp_path / "a.traj")
    done = rootstock("singlepoint", "a.traj", "--out", name)
    assert (done.returncode, "ASE does not compress databases" in done.stderr) == (3, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.traj"]


def test_results_of_a_part_are_kept_whatever_the_format(rootstock: Command, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [crystal(), bulk("U", "fcc", a=5.0)])
    done = rootstock("singlepoint", "a.extxyz", "--out", "a.cif")
    assert "The 1 that were done are in a.partial.extxyz" in done.stderr
    assert read(tmp_path / "a.partial.extxyz").get_forces().any()


@pytest.mark.parametrize("name", ["out.extxyz", "out.traj", "out.db", "out.json"])
def test_results_say_where_they_come_from(rootstock: Command, root: Path, tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.extxyz", [crystal(), crystal("Au"), crystal("Ag")])
    with RootstockCalculator("emt", root=root, device="cpu") as calc:
        build = f"emt/{calc.info()['build']}"
    expected = {"rootstock_model": "emt", "rootstock_build": build, "rootstock_device": "cpu"}
    for command, more in (("singlepoint", {}), ("relax", {"converged": True})):
        done = rootstock(command, "a.extxyz@1:", "--out", name, "--overwrite")
        assert not done.returncode, done.stderr
        if name.endswith(("db", "json")):
            with connect(tmp_path / name) as database:
                notes = [row.key_value_pairs for row in database.select()]
        else:
            notes = [{**atoms.info} for atoms in read(tmp_path / name, ":")]
        assert notes == [{**expected, **more, "rootstock_source": f"a.extxyz@{number}"} for number in (1, 2)]
        assert [atoms.get_forces().any() for atoms in read(tmp_path / name, ":")] == [True, True]


def test_frames_say_where_they_come_from(rootstock: Command, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [crystal(), crystal("Au")])
    line = ("md", "a.extxyz@-1", "--ensemble", "nve", "--restart", "--traj-every", "1", "--file-prefix", "x", "--steps")
    for steps in ("1", "2"):
        assert not rootstock(*line, steps).returncode
    for atoms in (*read(tmp_path / "x-traj.extxyz", ":"), read(tmp_path / "x-final.extxyz")):
        assert atoms.info["rootstock_source"] == "a.extxyz@-1"
        assert atoms.info["rootstock_build"].startswith("emt/")


def test_results_survive_a_format_that_cannot_hold_them(rootstock: Command, tmp_path: Path) -> None:
    crystal().write(tmp_path / "a.extxyz")
    done = rootstock("singlepoint", "a.extxyz", "--out", "a.pwi")  # it wants to know pseudopotentials
    assert done.returncode == 3
    assert "Cannot write a.pwi: " in done.stderr and "Traceback" not in done.stderr
    assert "The results are in a.results.extxyz." in done.stderr
    assert read(tmp_path / "a.results.extxyz").get_forces().any()


def test_an_earlier_rescue_is_not_replaced(rootstock: Command, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [crystal(), bulk("U", "fcc", a=5.0)])
    (tmp_path / "a-results.partial.extxyz").write_text("of an earlier run")
    done = rootstock("singlepoint", "a.extxyz")
    assert "The 1 that were done are in a-results.partial-2.extxyz" in done.stderr
    assert (tmp_path / "a-results.partial.extxyz").read_text() == "of an earlier run"


def test_the_vacuum_of_a_slab_is_not_relaxed_away(rootstock: Command, tmp_path: Path) -> None:
    slab = fcc111("Cu", (2, 2, 3), vacuum=8)
    slab.info.clear()
    slab.write(tmp_path / "slab.extxyz")
    for more in (("relax", "slab.extxyz", "--opt-cell-fully"), ("md", "slab.extxyz", "--ensemble", "npt-mtk",
                                                                "--steps", "1")):  # fmt: skip
        done = rootstock(*more)
        assert (done.returncode, "periodic in all three directions" in done.stderr) == (3, True), done.stderr
    assert os.listdir(tmp_path) == ["slab.extxyz"]


def test_a_crystal_with_sites_that_are_shared_is_refused(tmp_path: Path) -> None:
    alloy = bulk("Cu", cubic=True)
    alloy.info["occupancy"] = {str(i): {"Cu": 0.5, "Au": 0.5} for i in range(4)}
    alloy.set_array("spacegroup_kinds", np.arange(4))
    write(tmp_path / "alloy.cif", alloy)
    with pytest.raises(ConfigurationError, match="sites that are occupied in part"):
        read_structures([str(tmp_path / "alloy.cif")])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--ensemble", "nvt-nh"), "nvt-nh knows of no constraints"),
        (("--ensemble", "npt-mtk"), "npt-mtk knows of no constraints"),
        (("--ensemble", "nvt-csvr", "--temp", "0"), "nvt-csvr needs a temperature above 0 K"),
        (("--ensemble", "nve", "--pressure", "1"), "--pressure is for npt-mtk"),
        (("--ensemble", "nvt", "--temp", "nan"), "nan is no number"),
        (("--ensemble", "nvt", "--pressure", "inf"), "inf is no number"),
        (("--ensemble", "nvt-csvr", "--taut", "0"), "0.0 is not in the range"),
        (("--ensemble", "nvt", "--friction", "-1"), "-1.0 is not in the range"),
    ],
)
def test_what_an_ensemble_cannot_do(rootstock: Command, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    atoms = crystal()
    atoms.set_constraint(FixAtoms([0]))
    atoms.write(tmp_path / "a.traj")
    done = rootstock("md", "a.traj", "--steps", "1", *more)
    assert done.returncode in (2, 3)
    assert message in done.stderr and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["a.traj"]


def test_properties_that_these_atoms_do_not_have(rootstock: Command, tmp_path: Path) -> None:
    molecule("H2O").write(tmp_path / "a.xyz")
    done = rootstock("singlepoint", "a.xyz", "--properties", "stress")
    assert (done.returncode, "Stress needs a cell" in done.stderr, "Traceback" in done.stderr) == (3, True, False)


def test_a_restart_is_of_the_same_simulation(rootstock: Command, tmp_path: Path) -> None:
    write(tmp_path / "two.xyz", [crystal(), crystal("Au")])
    line = ("md", "two.xyz@0", "--ensemble", "nvt", "--steps", "3", "--restart", "--file-prefix", "x", "--seed", "1")
    assert not rootstock(*line).returncode
    final = (tmp_path / "x-final.extxyz").read_bytes()
    other = rootstock(*line[:1], "two.xyz@1", *line[2:])
    assert (other.returncode, "began with another structure" in other.stderr) == (3, True), other.stderr
    other = rootstock(*line, "--seed", "2")
    assert (other.returncode, "of a simulation with seed = 1, not 2" in other.stderr) == (3, True), other.stderr
    again = rootstock(*line)  # it is at its end already
    assert not again.returncode, again.stderr
    assert read(tmp_path / "x-final.extxyz").get_potential_energy()
    assert len(final) == (tmp_path / "x-final.extxyz").stat().st_size


def test_a_line_that_failed_at_once_can_be_run_again(rootstock: Command, tmp_path: Path) -> None:
    bulk("U", "fcc", a=5.0, cubic=True).write(tmp_path / "u.xyz")
    line = ("md", "u.xyz", "--ensemble", "nve", "--steps", "3", "--restart")
    for _ in range(2):
        done = rootstock(*line)
        assert (done.returncode, "does not know the element U" in done.stderr) == (3, True), done.stderr
        assert "It knows H C-O Al Ni Cu Pd Ag Pt Au.\n'rootstock list' shows other models.\n" in done.stderr
        assert "Traceback" not in done.stderr
    # Killed between its first files and the restart file.
    crystal().write(tmp_path / "u.xyz")
    (tmp_path / "u-nve-stats.dat").write_text("# step\n0 0.0\n")
    (tmp_path / "u-nve-traj.extxyz").write_text("1\n")
    assert not rootstock(*line).returncode
    assert np.loadtxt(tmp_path / "u-nve-stats.dat").ndim


def test_arguments_that_json_changes_are_the_same_after_a_restart(tmp_path: Path) -> None:
    settings, calc = Dynamics("nve", steps=1), EMT()
    calc.parameters["setup_kwargs"] = {"k": (1, 2)}
    assert Simulation(crystal(), calc, settings, str(tmp_path / "x")).run()
    assert Simulation.resume(calc, settings, str(tmp_path / "x")).step == 1


def test_an_overwritten_simulation_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    settings = Dynamics("nve", steps=2)
    simulation = Simulation(crystal(), EMT(), settings, str(tmp_path / "x"))
    simulation.files["final"].write_text("old")
    assert not simulation.run(on_step=lambda now: False)
    assert not simulation.files["final"].exists()


def test_a_rescue_of_results_for_a_compressed_file(rootstock: Command, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [crystal(), bulk("U", "fcc", a=5.0)])
    done = rootstock("singlepoint", "a.extxyz", "--out", "b.xyz.gz")
    assert done.returncode == 3 and "The 1 that were done are in b.xyz.partial.extxyz" in done.stderr
    assert read(tmp_path / "b.xyz.partial.extxyz").get_forces().any()
