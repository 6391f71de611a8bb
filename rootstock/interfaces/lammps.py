"""LAMMPS moves the atoms, a model computes: ``fix external`` of an unmodified LAMMPS, through its Python module.

LAMMPS is not imported here: the caller brings an object of its class ``lammps.lammps``.
"""

from __future__ import annotations

import functools
import signal
import threading
import warnings
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from ase.units import Bohr, Hartree, kcal, mol
from numpy.typing import NDArray

from rootstock.errors import ConfigurationError
from rootstock.interfaces.evaluation import evaluate, require

# LAMMPS' unit of length in Angstrom, and of energy in eV.
_UNITS = {"metal": (1.0, 1.0), "real": (1.0, kcal / mol), "electron": (Bohr, Hartree)}
_COMMANDS = ("command", "commands_list", "commands_string", "file")
_NO_VIRIAL = "Pass virial=False: LAMMPS' pressure is then that of the momenta alone, so nothing may depend on it."


def attach(
    lmp: Any,
    calculator: Any,
    types: Mapping[int, str] | Sequence[str],
    *,
    virial: bool = True,
    fix: str = "rootstock",
    info: Mapping[str, Any] | None = None,
) -> Coupling:
    """Let a calculator compute the forces of a LAMMPS simulation.

    It adds ``fix external`` to all atoms, whose forces, energy and virial are the calculator's. They come on top of
    those of LAMMPS' own potentials: ``pair_style zero`` has none. From then on, if the calculator fails, or at Ctrl-C,
    the run ends after the step it is in, and `lmp`'s method that started it (``command``, ``commands_string``,
    ``commands_list``, ``file``) raises what happened.

    Parameters
    ----------
    lmp : lammps.lammps
        With its box, atoms and masses. Units metal, real or electron; three dimensions; one MPI process.
    calculator : ase.calculators.calculator.Calculator
        Such as `rootstock.RootstockCalculator`.
    types : Mapping[int, str] or sequence of str
        The element of each atom type: ``{1: "Cu", 2: "Au"}`` or ``["Cu", "Au"]``.
    virial : bool
        Whether LAMMPS gets a virial, for its pressure and stress. It is computed at those steps only at which LAMMPS
        needs one (output, barostat). Of a system without periodic boundaries it is that of the forces.
    fix : str
        The fix's name.
    info : Mapping[str, Any], optional
        What the model reads in ``atoms.info`` and LAMMPS knows nothing of, such as ``{"charge": 0, "spin": 1}``.

    Returns
    -------
    Coupling
        A context manager that takes the fix away again.

    Raises
    ------
    ConfigurationError
        If this simulation, or this calculator, cannot be coupled.

    Examples
    --------
    >>> from lammps import lammps  # doctest: +SKIP
    >>> lmp = lammps()  # doctest: +SKIP
    >>> lmp.file("in.lammps")  # doctest: +SKIP
    >>> coupling = attach(lmp, RootstockCalculator("mace-medium"), {1: "Cu"})  # doctest: +SKIP
    >>> lmp.command("run 1000")  # doctest: +SKIP
    """
    return Coupling(lmp, calculator, types, virial, fix, info or {})


class Coupling:
    """A LAMMPS simulation whose forces a calculator computes; `attach` makes it.

    Parameters
    ----------
    lmp, calculator, types, virial, fix, info
        As `attach`.

    Attributes
    ----------
    evaluations : int
        How often the calculator was asked.
    """

    __module__ = "rootstock.lammps"  # where it is imported from

    def __init__(
        self, lmp: Any, calculator: Any, types: Mapping[int, str] | Sequence[str], virial: bool, fix: str,
        info: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._length, self._energy = _units(lmp, fix)
        self._numbers = _elements(lmp, types)
        periodic = any(lmp.extract_box()[5])
        require(calculator, stress=virial and periodic, remedy=_NO_VIRIAL)
        self._lmp, self._calculator, self._virial, self._fix, self._info = lmp, calculator, virial, fix, dict(info)
        self._atoms: Atoms | None = None
        self._failure: BaseException | None = None
        self.evaluations = 0
        lmp.command(f"fix {fix} all external pf/callback 1 1")
        lmp.command(f"fix_modify {fix} energy yes virial {'yes' if virial else 'no'}")
        lmp.set_fix_external_callback(fix, self._callback, None)
        for name in _COMMANDS:
            setattr(lmp, name, functools.partial(self._run_command, getattr(lmp, name)))

    def detach(self) -> None:
        """Take the fix away, and leave `lmp` as it was."""
        for name in _COMMANDS:
            vars(self._lmp).pop(name, None)
        if self._lmp.has_id("fix", self._fix):
            self._lmp.command(f"unfix {self._fix}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _run_command(self, command: Any, *arguments: Any) -> None:
        """Run a command of LAMMPS, and raise what happened in the callback meanwhile.

        LAMMPS prints and ignores what a callback raises, and goes on with the forces of the step before.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        catch = in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if catch:
            signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            command(*arguments)
        except Exception as error:
            if self._failure is None:
                raise
            raise self._recover() from error
        finally:
            if catch:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._failure is not None:
            raise self._recover()

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # as signal wants it
        """Note Ctrl-C: raised wherever Python is just then, it could be lost in LAMMPS' own code. The second is."""
        if self._failure is not None:
            raise KeyboardInterrupt
        self._stop(KeyboardInterrupt())

    def _stop(self, failure: BaseException) -> None:
        self._failure = failure
        # The one way to end a run from inside that leaves the process alive.
        self._lmp.lib.lammps_force_timeout(self._lmp.lmp)

    def _recover(self) -> BaseException:
        """Return what happened, and let later runs run again."""
        failure, self._failure = self._failure, None
        type(self._lmp).command(self._lmp, "timer timeout off")
        assert failure is not None
        return failure

    def _callback(self, _: Any, step: int, count: int, tags: NDArray[Any], x: NDArray[Any], f: NDArray[Any]) -> None:
        try:
            if self._failure is None:
                self._compute(step, count, tags, x, f)
                return
        except BaseException as error:  # noqa: BLE001  # nothing that is raised here would arrive anywhere
            self._stop(error)
        # This step is still finished, with no forces and an energy that nobody takes for one.
        f[...] = 0.0
        self._lmp.fix_external_set_energy_global(self._fix, float("nan"))

    def _compute(self, step: int, count: int, tags: NDArray[Any], x: NDArray[Any], f: NDArray[Any]) -> None:
        lmp, order = self._lmp, np.argsort(tags)
        cell, periodic = _box(lmp, self._length)
        types = lmp.numpy.extract_atom("type", nelem=count)
        atoms, changes = self._update(self._numbers[types[order]], x[order] * self._length, cell, periodic)
        # LAMMPS says at the beginning of a step whether anything will ask for the virial.
        tallied = self._virial and lmp.extract_global("vflag_global") == step
        periodic_stress = bool(tallied and any(periodic))
        self._atoms = None  # should it fail, the calculator has not seen these changes
        energy, forces, stress = evaluate(self._calculator, atoms, changes, stress=periodic_stress)
        self._atoms = atoms
        self.evaluations += 1
        f[order] = forces / (self._energy / self._length)
        lmp.fix_external_set_energy_global(self._fix, energy / self._energy)
        if tallied:
            virial = atoms.positions.T @ forces if stress is None else -stress * atoms.get_volume()
            virial = (virial + virial.T) / (2 * self._energy)
            lmp.fix_external_set_virial_global(
                self._fix, [virial[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
            )

    def _update(
        self, numbers: NDArray[Any], positions: NDArray[np.float64], cell: NDArray[np.float64], periodic: list[bool]
    ) -> tuple[Atoms, list[str]]:
        """Bring the atoms up to date, sorted by their tags, and return what changed by ASE's names."""
        atoms = self._atoms
        if atoms is None or not np.array_equal(numbers, atoms.numbers) or list(atoms.pbc) != periodic:
            return Atoms(numbers, positions, cell=cell, pbc=periodic, info=self._info), list(all_changes)
        atoms.arrays["positions"] = positions
        if (atoms.cell.array == cell).all():
            return atoms, ["positions"]
        atoms.cell[...] = cell
        return atoms, ["positions", "cell"]


def _units(lmp: Any, fix: str) -> tuple[float, float]:
    """Return LAMMPS' units of length [Å] and energy [eV], having checked that it can be coupled."""
    if not hasattr(lmp, "fix_external_set_energy_global"):
        raise ConfigurationError("This LAMMPS is too old: its Python module must be of September 2021 or later.")
    if (ranks := lmp.extract_setting("world_size")) > 1:
        raise ConfigurationError(
            f"LAMMPS runs on {ranks} MPI processes; each would ask the model about a part of the atoms.",
            "Run it on one: the model's worker does nearly all of the work, with the threads and GPU it is given.",
        )
    if not lmp.extract_setting("box_exist"):
        raise ConfigurationError("LAMMPS has no box yet.", "Define the system before the model is attached.")
    if (dimension := lmp.extract_setting("dimension")) != 3:
        raise ConfigurationError(f"LAMMPS simulates {dimension} dimensions; models know three.")
    if lmp.has_id("fix", fix):
        raise ConfigurationError(f"LAMMPS has a fix {fix!r} already.", "Detach it first, or pass another fix= name.")
    units = lmp.extract_global("units")
    if units not in _UNITS:
        raise ConfigurationError(f"LAMMPS uses units {units!r}.", f"Use one of {', '.join(_UNITS)}.")
    return _UNITS[units]


def _elements(lmp: Any, types: Mapping[int, str] | Sequence[str]) -> NDArray[Any]:
    """Return the atomic number for each type; there is no type 0."""
    named = dict(types) if isinstance(types, Mapping) else dict(enumerate(types, 1))
    count = lmp.extract_setting("ntypes")
    if sorted(named) != list(range(1, count + 1)):
        raise ConfigurationError(f"LAMMPS has atom types 1 to {count}; types= names {sorted(named)}.")
    if unknown := [name for name in named.values() if name not in atomic_numbers]:
        raise ConfigurationError(f"{unknown[0]!r} is no element.", "types= maps types to chemical symbols: {1: 'Cu'}")
    masses = lmp.extract_atom("mass")
    for kind, name in named.items():
        expected = atomic_masses[atomic_numbers[name]]
        if masses and masses[kind] and abs(masses[kind] / expected - 1) > 0.1:
            nearest = chemical_symbols[int(np.nanargmin(np.abs(atomic_masses - masses[kind])))]
            warnings.warn(
                f"LAMMPS' type {kind} has mass {masses[kind]:g}, as {nearest} has; types= calls it {name}.",
                stacklevel=4,
            )
    return np.array([0, *(atomic_numbers[named[kind]] for kind in range(1, count + 1))])


def _box(lmp: Any, length: float) -> tuple[NDArray[np.float64], list[bool]]:
    """Return the cell vectors [Å] as rows, and along which of them it is periodic."""
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    x, y, z = (b - a for a, b in zip(low, high, strict=True))
    return np.array([[x, 0.0, 0.0], [xy, y, 0.0], [xz, yz, z]]) * length, [bool(flag) for flag in periodic]
