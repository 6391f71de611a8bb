"""Molecular dynamics that can be stopped and continued at any step, by ASE's means."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from rootstock.errors import ConfigurationError, NonFiniteError, RootstockError
from rootstock.simulations.ensembles import check_ensemble, make_integrator
from rootstock.simulations.output import naming, sync_file, target_of
from rootstock.simulations.relax import with_forces
from rootstock.simulations.restart import (
    Restart,
    cut_back,
    fingerprint,
    identity,
    integrator_state,
    read_restart,
    reading_restart,
    restore_integrator,
    write_restart,
)
from rootstock.simulations.velocities import set_velocities
from rootstock.simulations.writing import add_structure, write_structures

_COLUMNS = ("step", "time [fs]", "potential [eV]", "kinetic [eV]", "total [eV]", "temperature [K]", "volume [A^3]")


@dataclass(frozen=True)
class Dynamics:
    """A simulation.

    Attributes
    ----------
    ensemble : str
        ``nve``: velocity Verlet; ``nvt``: Langevin; ``nvt-csvr``: Bussi's velocity rescaling; ``nvt-nh``: a
        Nose-Hoover chain; ``npt-mtk``: the isotropic barostat of Martyna, Tobias and Klein.
    steps : int
        The last step.
    timestep : float [fs]
    temp : float [K]
    pressure : float [GPa]
    friction : float [1/fs]
        Of ``nvt``.
    taut : float [fs]
        Time constant of ``nvt-csvr``.
    thermostat_time, barostat_time : float [fs]
        Of ``nvt-nh`` and ``npt-mtk``.
    seed : int
        Of initial velocities and of the thermostats that draw random numbers.
    stats_every, traj_every, restart_every : int
        At how many steps a line, a frame and a new restart file are written.
    """

    ensemble: str
    steps: int = 0
    timestep: float = 1.0
    temp: float = 300.0
    pressure: float = 0.0
    friction: float = 0.005
    taut: float = 100.0
    thermostat_time: float = 100.0
    barostat_time: float = 1000.0
    seed: int = 0
    stats_every: int = 100
    traj_every: int = 100
    restart_every: int = 1000


class Simulation:
    """Atoms in motion, and their files.

    Parameters
    ----------
    atoms : ase.Atoms
        Without momenta they get drawn ones, of exactly the temperature.
    calculator : ase.calculators.calculator.Calculator
    settings : Dynamics
    prefix : str
        The files are ``PREFIX-stats.dat``, ``PREFIX-traj.extxyz``, ``PREFIX-restart.json``, ``PREFIX-final.extxyz``.
    begins : bool
        Whether these are atoms to begin with; otherwise they go on with the momenta that they have.

    Attributes
    ----------
    drawn : bool
        Whether the velocities were drawn.
    saved : int or None
        The step of the restart file; None before there is one.

    Raises
    ------
    ConfigurationError
        If the ensemble is not for these atoms, a setting is none for it, or no atom can move.
    """

    def __init__(self, atoms: Atoms, calculator: Any, settings: Dynamics, prefix: str, *, begins: bool = True) -> None:
        check_ensemble(atoms, settings)
        self.files = files_of(prefix)
        self.settings, self.calculator = settings, calculator
        self.rng = np.random.default_rng(settings.seed)
        self.atoms = atoms.copy()
        self.drawn = begins and set_velocities(self.atoms, settings, self.rng)
        self.atoms.calc = calculator
        self.dynamics = make_integrator(self.atoms, settings, self.rng)
        self.start = fingerprint(atoms)
        self.saved: int | None = None

    @property
    def step(self) -> int:
        """How many steps have been done."""
        return int(self.dynamics.nsteps)

    def run(self, *, on_step: Callable[[Simulation], bool] = lambda simulation: True) -> bool:  # noqa: ARG005
        """Go on until the last step.

        Parameters
        ----------
        on_step : callable
            Is given this after each step; False stops.

        Returns
        -------
        bool
            Whether the last step was done. If not, the restart file is for the step that was.
        """
        try:
            return self._run(on_step)
        except RootstockError as error:
            if self.saved is not None:
                error.hint = f"{error.hint}\n{self.how_to_go_on(error)}".strip("\n")
            raise

    def _run(self, on_step: Callable[[Simulation], bool]) -> bool:
        self.atoms.get_forces()  # if that fails, no file is there yet that would have to be gone on from
        if self.step == 0:
            with naming(self.files["final"]):
                target_of(self.files["final"]).unlink(missing_ok=True)  # of a simulation that is overwritten
            with naming(self.files["stats"]):
                self.files["stats"].write_text("# " + "  ".join(_COLUMNS) + "\n")
            with naming(self.files["traj"]):
                self.files["traj"].write_bytes(b"")
            self._record()
            self.save()
        while self.step < self.settings.steps:
            self.dynamics.run(1)
            self._record()
            if self.step % self.settings.restart_every == 0:
                self.save()
            if not on_step(self):
                break
        if self.step != self.saved:
            self.save()
        if self.step < self.settings.steps:
            return False
        write_structures(self.files["final"], [self._frame()])
        return True

    def how_to_go_on(self, error: RootstockError) -> str:
        """Return what an error says about going on from the restart file.

        Parameters
        ----------
        error : RootstockError
        """
        goes_on = f"{self.files['restart']} is of step {self.saved}: the same command with --restart goes on there."
        if isinstance(error, NonFiniteError):
            return f"If it has become unstable, use a shorter --timestep, with another --file-prefix.\n{goes_on}"
        return goes_on

    def _frame(self) -> Atoms:
        return with_forces(self.atoms, self.calculator, ("stress",) if self.settings.ensemble == "npt-mtk" else ())

    def _record(self) -> None:
        if self.step % self.settings.stats_every == 0:
            line = self.line()
            with naming(self.files["stats"]), self.files["stats"].open("a") as file:
                file.write(line + "\n")
        if self.step % self.settings.traj_every == 0:
            frame = self._frame()
            frame.info["step"] = self.step  # in the file only: a model may read info, and would be asked again
            add_structure(self.files["traj"], frame)

    def line(self) -> str:
        """Return where it is, in the columns of the file of statistics."""
        atoms = self.atoms
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        volume = atoms.get_volume() if atoms.cell.rank == 3 else math.nan
        return (
            f"{self.step:>8d} {self.step * self.settings.timestep:>12.3f} {potential:>18.8f} {kinetic:>14.8f} "
            f"{potential + kinetic:>18.8f} {atoms.get_temperature():>10.3f} {volume:>14.5f}"
        )

    # -- stopping and going on

    def save(self) -> None:
        """Write the restart file: everything that the next step depends on, and how long the other files are now.

        They are on the disk before it is: of a node that is lost, it must not say more than they hold.
        """
        for name in ("stats", "traj"):
            sync_file(self.files[name])
        restart = Restart(
            settings=asdict(self.settings) | identity(self.calculator),
            step=self.step,
            start=self.start,
            atoms=self.atoms.todict(),
            random=json.dumps(self.rng.bit_generator.state),
            integrator=integrator_state(self.dynamics),
            sizes={name: self.files[name].stat().st_size for name in ("stats", "traj")},
        )
        write_restart(self.files["restart"], restart)
        self.saved = self.step

    @classmethod
    def resume(
        cls, calculator: Any, settings: Dynamics, prefix: str, *, start: Atoms | None = None, seed: int | None = None
    ) -> Simulation:
        """Go on from a restart file. Lines and frames that were written after it are cut off, and come again.

        Parameters
        ----------
        calculator, settings, prefix
            As of the simulation before; the number of steps may differ, and the seed is that of before.
        start : ase.Atoms, optional
            What the simulation must have begun with.
        seed : int, optional
            What the seed must have been.

        Raises
        ------
        ConfigurationError
            If it is not what it should be, or of another simulation.
        """
        files = files_of(prefix)
        before = read_restart(files["restart"])
        if start is not None and before.start not in ("", fingerprint(start)):
            raise ConfigurationError(
                f"{files['restart']} is of a simulation that began with another structure.",
                "Begin another simulation with --file-prefix.",
            )
        held = before.settings | {"steps": settings.steps}
        settings = replace(settings, seed=held.get("seed", 0) if seed is None else seed)
        for name, value in (asdict(settings) | identity(calculator)).items():
            if held.get(name) != value:
                raise ConfigurationError(
                    f"{files['restart']} is of a simulation with {name} = {held.get(name)}, not {value}.",
                    "Go on with the same settings (--steps may differ), or begin another with --file-prefix.",
                )
        if settings.steps < before.step:
            raise ConfigurationError(
                f"{files['restart']} is of step {before.step}, and the last one is to be {settings.steps}.",
                "--steps is the number of all steps, with those that were done before: give a larger one.",
            )
        with reading_restart(files["restart"]):
            atoms = Atoms.fromdict(before.atoms)
            self = cls(atoms, calculator, settings, prefix, begins=False)
            self.rng.bit_generator.state = json.loads(before.random)
            restore_integrator(self.dynamics, before.integrator)
            sizes = {files[name]: size for name, size in before.sizes.items()}
        self.start, self.saved = before.start, before.step
        self.dynamics.nsteps = before.step
        cut_back(files["restart"], sizes)
        return self


def files_of(prefix: str) -> dict[str, Path]:
    """Return the files of a simulation."""
    endings = {"stats": "dat", "traj": "extxyz", "restart": "json", "final": "extxyz"}
    return {name: Path(f"{prefix}-{name}.{ending}") for name, ending in endings.items()}
