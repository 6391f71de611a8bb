"""Velocities that a simulation begins with, and atoms that cannot have any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixCom, FixedPlane, MirrorForce
from ase.io import read

from rootstock.errors import ConfigurationError, NonFiniteError
from rootstock.simulations.dynamics import Dynamics, Simulation
from rootstock.simulations.relax import Relaxation
from tests.support.commands import ROOTSTOCK, run

ENSEMBLES = ("nve", "nvt", "nvt-csvr", "nvt-nh", "npt-mtk")


def copper(*constraints: Any, cubic: bool = True) -> Atoms:
    atoms = bulk("Cu", cubic=cubic)
    atoms.set_constraint(list(constraints))
    return atoms


def begin(atoms: Atoms, tmp_path: Path, ensemble: str = "nve", **settings: Any) -> Simulation:
    return Simulation(atoms, EMT(), Dynamics(ensemble, **settings), str(tmp_path / "md"))


def drift(atoms: Atoms) -> Any:
    return atoms.get_momenta().sum(axis=0)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.parametrize("seed", range(3))
def test_drawn_velocities_have_the_temperature(tmp_path: Path, ensemble: str, seed: int) -> None:
    simulation = begin(copper(), tmp_path, ensemble, temp=450.0, seed=seed, steps=1, stats_every=1)
    assert simulation.drawn
    assert simulation.atoms.get_temperature() == pytest.approx(450, rel=1e-12)
    assert drift(simulation.atoms) == pytest.approx(0, abs=1e-12)
    simulation.run()
    assert float(simulation.files["stats"].read_text().splitlines()[1].split()[5]) == 450


@pytest.mark.parametrize(
    ("constraint", "rests"),
    [
        (FixAtoms([0, 1, 2]), ""),
        (FixCartesian([0, 1, 2, 3], (False, False, True)), "xy"),  # z is no direction to drift along
        (FixedPlane([0, 1, 2, 3], (0, 0, 1)), "xy"),
        (FixCom(), "xyz"),
        (FixBondLength(0, 1), "xyz"),
    ],
)
def test_constraints_are_counted(tmp_path: Path, constraint: Any, rests: str) -> None:
    simulation = begin(copper(constraint), tmp_path, "nvt", temp=450.0)
    momenta = simulation.atoms.get_momenta()
    assert simulation.atoms.get_temperature() == pytest.approx(450, rel=1e-9)
    again = simulation.atoms.copy()
    again.set_momenta(momenta)
    assert again.get_momenta() == pytest.approx(momenta, abs=1e-6)
    for axis in rests:
        assert drift(simulation.atoms)["xyz".index(axis)] == pytest.approx(0, abs=1e-6)
    assert momenta.any(axis=1).sum() == (1 if isinstance(constraint, FixAtoms) else 4)


HELD = "No atom of this structure can move: its constraints hold all of them"


@pytest.mark.parametrize(
    ("atoms", "ensembles", "message"),
    [
        (copper(FixAtoms(range(4))), ("nve", "nvt", "nvt-csvr"), HELD),
        (copper(FixCartesian(range(4))), ("nve", "nvt", "nvt-csvr"), HELD),
        (copper(FixCom(), cubic=False), ("nve", "nvt", "nvt-csvr"), HELD),
        (copper(FixAtoms(range(3)), FixAtoms(range(3))), ("nve", "nvt"), "overlap: they leave -6 degrees of freedom"),
        (copper(cubic=False), ("nve", "nvt-csvr", "nvt-nh", "npt-mtk"), "of one atom that nothing holds: "),
        (copper(MirrorForce(0, 1, 9)), ("nve", "nvt"), "with the constraints of this structure: Atoms object has no"),
    ],
)  # fmt: skip
def test_what_cannot_move_is_refused(tmp_path: Path, atoms: Atoms, ensembles: tuple[str, ...], message: str) -> None:
    for ensemble in ensembles:
        with pytest.raises(ConfigurationError, match=f"(?s){message}"):
            begin(atoms, tmp_path, ensemble)
    assert not list(tmp_path.iterdir())


def test_one_atom_moves_with_a_thermostat_that_moves_it(tmp_path: Path) -> None:
    simulation = begin(copper(cubic=False), tmp_path, "nvt", temp=300.0, steps=3, stats_every=1)
    assert simulation.atoms.get_temperature() == pytest.approx(300, rel=1e-12)
    assert simulation.run()
    assert (np.loadtxt(simulation.files["stats"])[:, 5] > 0).all()


def test_at_zero_temperature_atoms_begin_at_rest(tmp_path: Path) -> None:
    for atoms in (copper(), copper(cubic=False), copper(FixAtoms([0]))):
        assert not begin(atoms, tmp_path, "nve", temp=0.0).atoms.get_momenta().any()


def test_momenta_of_atoms_that_are_held(tmp_path: Path) -> None:
    atoms = copper(FixAtoms([0, 1]))
    momenta = np.zeros((4, 3))
    momenta[0] = 9.0
    atoms.set_momenta(momenta, apply_constraint=False)
    simulation = begin(atoms, tmp_path, temp=300.0)
    assert simulation.drawn and simulation.atoms.get_temperature() == pytest.approx(300)
    momenta[2] = 1.0
    atoms.set_momenta(momenta, apply_constraint=False)
    kept = begin(atoms, tmp_path, temp=300.0)
    assert not kept.drawn and (kept.atoms.get_momenta() == [[0] * 3, [0] * 3, [1] * 3, [0] * 3]).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("momenta", np.nan, "momenta of the structure hold NaN or infinity"),
        ("masses", 0.0, "masses above zero"),
        ("masses", -1.0, "masses above zero"),
        ("masses", np.nan, "masses of the structure hold NaN or infinity"),
        ("masses", "a", "masses of the structure are of type <U1"),
        ("momenta", "a", "momenta of the structure are of type <U1"),
    ],
)
def test_numbers_that_no_atom_moves_with(tmp_path: Path, name: str, value: Any, message: str) -> None:
    atoms = copper()
    atoms.arrays[name] = np.full((4, 3) if name == "momenta" else 4, value)
    with pytest.raises(ConfigurationError, match=message):
        begin(atoms, tmp_path)


def test_a_restart_keeps_the_momenta_whatever_they_are(tmp_path: Path) -> None:
    """Atoms at rest, or bonds that a constraint would adjust again: the momenta of the file are the ones."""
    for name, atoms, temp in (("rest", copper(), 0.0), ("bond", copper(FixBondLength(0, 1)), 300.0)):
        settings = Dynamics("nve", temp=temp, steps=4)
        first = Simulation(atoms, EMT(), settings, str(tmp_path / name))
        first.run(on_step=lambda now: False)
        again = Simulation.resume(EMT(), settings, str(tmp_path / name))
        assert not again.drawn
        assert (again.atoms.get_momenta() == first.atoms.get_momenta()).all()


def test_atoms_that_cannot_move_are_relaxed(tmp_path: Path) -> None:
    found = Relaxation(fmax=0.01).run(copper(FixAtoms(range(4))), EMT())
    assert found.info["converged"] and (found.positions == copper().positions).all()


def md(root: Path, folder: Path, *more: str) -> Any:
    common = ("--root", root, "--device", "cpu", "--file-prefix", "x")
    return run(ROOTSTOCK, "md", "emt", "a.traj", *more, *common, cwd=folder)


@pytest.mark.parametrize("ensemble", ["nvt", "nvt-csvr"])
def test_md_of_what_cannot_move(root: Path, tmp_path: Path, ensemble: str) -> None:
    copper(FixAtoms(range(4))).write(tmp_path / "a.traj")
    done = md(root, tmp_path, "--ensemble", ensemble, "--steps", "2")
    assert (done.returncode, HELD in done.stderr, "Velocities" in done.stderr) == (3, True, False), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.traj"]


# -- going on


def test_steps_below_what_is_done(root: Path, tmp_path: Path) -> None:
    copper().write(tmp_path / "a.traj")
    line = ("--ensemble", "nve", "--restart", "--steps")
    assert not md(root, tmp_path, *line, "3").returncode
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = md(root, tmp_path, *line, "2")
    assert done.returncode == 3 and "x-restart.json is of step 3, and the last one is to be 2." in done.stderr
    assert "--steps is the number of all steps" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    done = md(root, tmp_path, *line, "3")
    assert (done.returncode, "Step 3 of 3" in done.stdout) == (0, True), done.stderr


Damage = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data["atoms"].pop("numbers"),
        lambda data: data["atoms"].update(nonsense=1),
        lambda data: data["atoms"].update(positions=[[0, 0]]),
        lambda data: data.update(random="{}"),
        lambda data: data.update(random="nonsense"),
        lambda data: data.update(settings=[]),
        lambda data: data.update(sizes={"unknown": 1}),
        lambda data: data.update(sizes={"stats": "many"}),
    ],
)
def test_a_restart_file_that_is_damaged(tmp_path: Path, damage: Damage) -> None:
    from ase.io.jsonio import decode, encode

    settings = Dynamics("nvt", steps=1)
    simulation = Simulation(copper(), EMT(), settings, str(tmp_path / "x"))
    simulation.run()
    data = decode(simulation.files["restart"].read_text())
    damage(data)
    simulation.files["restart"].write_text(encode(data))
    with pytest.raises(ConfigurationError) as caught:
        Simulation.resume(EMT(), settings, str(tmp_path / "x"))
    assert f"{simulation.files['restart']} is no restart file: " in str(caught.value)
    assert "Begin another simulation with --file-prefix." in str(caught.value)


def test_a_trajectory_that_was_moved(tmp_path: Path) -> None:
    settings = Dynamics("nvt", steps=1)
    simulation = Simulation(copper(), EMT(), settings, str(tmp_path / "x"))
    simulation.run()
    simulation.files["traj"].rename(tmp_path / "moved")
    with pytest.raises(ConfigurationError, match=r"something is missing.\nIf you have moved it, put it back. Begin an"):
        Simulation.resume(EMT(), settings, str(tmp_path / "x"))


def test_a_simulation_that_fails_says_how_to_go_on(root: Path, tmp_path: Path) -> None:
    copper().write(tmp_path / "a.traj")
    line = ("--ensemble", "nve", "--steps", "1000", "--temp", "1e7", "--timestep", "1e9", "--restart-every", "1")
    done = md(root, tmp_path, *line)
    assert done.returncode == 18, done.stderr
    assert "is of step" in done.stderr and "the same command with --restart goes on there." in done.stderr
    assert len(read(tmp_path / "x-traj.extxyz", ":")) >= 1


def test_momenta_of_another_shape(tmp_path: Path) -> None:
    atoms = copper()
    atoms.arrays["momenta"] = np.zeros((4, 2))
    with pytest.raises(ConfigurationError, match=r"shape \(4, 2\); numbers of shape \(4, 3\) were expected"):
        begin(atoms, tmp_path)


def test_a_simulation_that_became_unstable_says_so(tmp_path: Path) -> None:
    class Unstable(EMT):
        def get_forces(self, atoms: Any = None) -> Any:
            if simulation.step:
                raise NonFiniteError("The positions of the atoms hold NaN.")
            return super().get_forces(atoms)

    simulation = Simulation(copper(), Unstable(), Dynamics("nve", steps=3), str(tmp_path / "x"))
    with pytest.raises(NonFiniteError, match=r"hold NaN.\nIf it has become unstable, use a shorter --timestep"):
        simulation.run()
