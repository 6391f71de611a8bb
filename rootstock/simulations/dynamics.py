"""Molecular dynamics that can be stopped and continued at any step, by ASE's means."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase import Atoms
from ase.io import write
from ase.io.jsonio import decode, encode
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.units import GPa, fs, kB

from rootstock.errors import ConfigurationError
from rootstock.root.records import write_file
from rootstock.simulations.relax import has_whole_cell
from rootstock.simulations.structures import write_structures

_FORMAT = 1
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
        Without momenta they get those of the temperature.
    calculator : ase.calculators.calculator.Calculator
    settings : Dynamics
    prefix : str
        The files are ``PREFIX-stats.dat``, ``PREFIX-traj.extxyz``, ``PREFIX-restart.json``, ``PREFIX-final.extxyz``.

    Raises
    ------
    ConfigurationError
        If the ensemble is not for these atoms, or a setting is none for it.
    """

    def __init__(self, atoms: Atoms, calculator: Any, settings: Dynamics, prefix: str) -> None:
        _check(atoms, settings)
        self.files = files_of(prefix)
        self.settings, self.calculator = settings, calculator
        self.rng = np.random.default_rng(settings.seed)
        self.atoms = atoms.copy()
        self.atoms.calc = calculator
        self.drawn = not np.any(self.atoms.get_momenta())
        if self.drawn:
            self.atoms.set_momenta(thermal_momenta(self.atoms, settings.temp, self.rng))
        try:
            self.dynamics = _integrator(self.atoms, settings, self.rng)
        except (ArithmeticError, ValueError, NotImplementedError) as error:  # ASE's own refusals
            raise ConfigurationError(f"{settings.ensemble}: {error}.") from error
        self.start = _fingerprint(atoms)

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
        self.atoms.get_forces()  # if that fails, no file is there yet that would have to be gone on from
        if self.step == 0:
            self.files["final"].unlink(missing_ok=True)  # of a simulation that is overwritten
            self.files["stats"].write_text("# " + "  ".join(_COLUMNS) + "\n")
            self.files["traj"].write_bytes(b"")
            self._record()
            self.save()
        saved = self.step
        while self.step < self.settings.steps:
            self.dynamics.run(1)
            self._record()
            if self.step % self.settings.restart_every == 0:
                self.save()
                saved = self.step
            if not on_step(self):
                break
        if self.step != saved:
            self.save()
        if self.step < self.settings.steps:
            return False
        self.atoms.get_potential_energy()  # known, but for a simulation that had come to its end before
        write_structures(self.files["final"], [self.atoms])
        return True

    def _record(self) -> None:
        if self.step % self.settings.stats_every == 0:
            with self.files["stats"].open("a") as file:
                file.write(self.line() + "\n")
        if self.step % self.settings.traj_every == 0:
            # In the file only: a model may read info, so what changes in it is a new question.
            info = self.atoms.info
            try:
                self.atoms.info = {**info, "step": self.step}
                write(self.files["traj"], self.atoms, format="extxyz", append=True)
            finally:
                self.atoms.info = info

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
        """Write the restart file: everything that the next step depends on, and how long the other files are now."""
        record = {
            "format": _FORMAT,
            "ase": ase.__version__,
            "settings": asdict(self.settings) | _identity(self.calculator),
            "step": self.step,
            "start": self.start,
            "atoms": self.atoms.todict(),
            "random": json.dumps(self.rng.bit_generator.state),
            "integrator": _state(self.dynamics),
            "sizes": {name: self.files[name].stat().st_size for name in ("stats", "traj")},
        }
        write_file(self.files["restart"], encode(record).encode(), 0o666 & ~_umask())

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
        record = _read_restart(files["restart"])
        if start is not None and record.get("start", "") not in ("", _fingerprint(start)):
            raise ConfigurationError(
                f"{files['restart']} is of a simulation that began with another structure.",
                "Begin another simulation with --file-prefix.",
            )
        before = record["settings"] | {"steps": settings.steps}
        settings = replace(settings, seed=before["seed"] if seed is None else seed)
        now = asdict(settings) | _identity(calculator)
        if changed := [name for name in now if before.get(name) != now[name]]:
            name = changed[0]
            raise ConfigurationError(
                f"{files['restart']} is of a simulation with {name} = {before.get(name)}, not {now[name]}.",
                "Go on with the same settings (--steps may differ), or begin another with --file-prefix.",
            )
        self = cls(Atoms.fromdict(record["atoms"]), calculator, settings, prefix)
        self.start = record.get("start", "")
        self.rng.bit_generator.state = json.loads(record["random"])
        _restore(self.dynamics, record["integrator"])
        self.dynamics.nsteps = record["step"]
        for name, size in record["sizes"].items():
            if not files[name].exists() or files[name].stat().st_size < size:
                raise ConfigurationError(
                    f"{files[name]} is shorter than {files['restart']} says: something is missing."
                )
            os.truncate(files[name], size)
        return self


def _check(atoms: Atoms, settings: Dynamics) -> None:
    ensemble = settings.ensemble
    if ensemble == "npt-mtk" and not has_whole_cell(atoms):
        raise ConfigurationError(
            "npt-mtk is for atoms that are periodic in all three directions: what is vacuum would shrink.",
            "Use an ensemble of fixed cell.",
        )
    if ensemble in ("nvt-nh", "npt-mtk") and atoms.constraints:
        raise ConfigurationError(
            f"{ensemble} knows of no constraints: atoms that do not move would be counted as if they did.",
            "Use nvt or nvt-csvr, or take the constraints away.",
        )
    if ensemble in ("nvt-csvr", "nvt-nh", "npt-mtk") and not settings.temp > 0:
        raise ConfigurationError(f"{ensemble} needs a temperature above 0 K.")


def _fingerprint(atoms: Atoms) -> str:
    """Return what tells the structure that a simulation begins with from others."""
    parts = (atoms.numbers.astype("i8"), atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_momenta())
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def files_of(prefix: str) -> dict[str, Path]:
    """Return the files of a simulation."""
    endings = {"stats": "dat", "traj": "extxyz", "restart": "json", "final": "extxyz"}
    return {name: Path(f"{prefix}-{name}.{ending}") for name, ending in endings.items()}


def thermal_momenta(atoms: Atoms, temperature: float, rng: np.random.Generator) -> Any:
    """Return momenta of a Maxwell-Boltzmann distribution, without motion of the centre of mass."""
    masses = atoms.get_masses()[:, None]
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * kB * temperature)
    return momenta - masses * momenta.sum(axis=0) / masses.sum()


def _integrator(atoms: Atoms, s: Dynamics, rng: np.random.Generator) -> Any:
    step = s.timestep * fs
    temperature: dict[str, Any] = {"temperature_K": s.temp}
    if s.ensemble == "nve":
        return VelocityVerlet(atoms, step)
    if s.ensemble == "nvt":
        # Keeping the centre of mass would not sample the right distribution, as ASE says.
        return Langevin(atoms, step, friction=s.friction / fs, fixcm=False, rng=rng, **temperature)
    if s.ensemble == "nvt-csvr":
        return Bussi(atoms, step, taut=s.taut * fs, rng=rng, **temperature)
    if s.ensemble not in ("nvt-nh", "npt-mtk"):
        raise ConfigurationError(f"There is no ensemble {s.ensemble!r}.")
    try:
        from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT
    except ImportError as error:
        raise ConfigurationError(f"ASE {ase.__version__} has no {s.ensemble}.", "It came with ASE 3.24.") from error
    if s.ensemble == "nvt-nh":
        return NoseHooverChainNVT(atoms, step, tdamp=s.thermostat_time * fs, **temperature)
    return IsotropicMTKNPT(
        atoms, step, pressure_au=s.pressure * GPa, tdamp=s.thermostat_time * fs, pdamp=s.barostat_time * fs,
        **temperature,
    )  # fmt: skip


def _identity(calculator: Any) -> dict[str, Any]:
    """Return what must be the same when a simulation goes on, as it is read again."""
    found: dict[str, Any] = decode(
        encode({name: calculator.parameters.get(name) for name in ("model", "setup_kwargs")})
    )
    return found


def _parts(integrator: Any) -> list[tuple[str, Any]]:
    """Return what has numbers of its own: the integrator, thermostat and barostat."""
    inner = [(name, getattr(integrator, name, None)) for name in ("_thermostat", "_barostat")]
    return [("", integrator), *((name, part) for name, part in inner if part is not None)]


def _state(integrator: Any) -> dict[str, Any]:
    """Return every number that an integrator keeps."""
    kinds = (bool, int, float, np.floating, np.ndarray)
    return {
        f"{part}.{name}": float(value) if isinstance(value, np.floating) else value
        for part, owner in _parts(integrator)
        for name, value in vars(owner).items()
        if isinstance(value, kinds) and name not in ("max_steps", "nsteps")
    }


def _restore(integrator: Any, state: dict[str, Any]) -> None:
    if _state(integrator).keys() - state.keys():  # there may be more, which each step computes anew
        raise ConfigurationError("The restart file is of another version of ASE, whose integrator kept other numbers.")
    for part, owner in _parts(integrator):
        for name in [name for name in vars(owner) if f"{part}.{name}" in state]:
            setattr(owner, name, state[f"{part}.{name}"])


def _read_restart(path: Path) -> dict[str, Any]:
    try:
        record = decode(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is no restart file: {error}.") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise ConfigurationError(f"{path} is no restart file of this version of Rootstock.")
    if not {"settings", "step", "atoms", "random", "integrator", "sizes"} <= set(record):
        raise ConfigurationError(f"{path} is no restart file: it is not whole.")
    return record


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
