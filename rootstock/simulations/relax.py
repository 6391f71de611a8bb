"""Single points and relaxations of structures with a calculator, by ASE's means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import ase.optimize
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.units import GPa

from rootstock.config.model_string import did_you_mean
from rootstock.errors import ConfigurationError, NotConvergedError, RootstockError
from rootstock.simulations.extra_results import add_extra_results, extra_results
from rootstock.simulations.optimizers import OPTIMIZERS
from rootstock.simulations.provenance import naming_source, note_calculator, without_notes
from rootstock.simulations.writing import add_structure


def has_stress(atoms: Atoms) -> bool:
    """Return whether these atoms have one: a cell of three vectors and a periodic direction."""
    return bool(atoms.cell.rank == 3 and atoms.pbc.any())


def has_whole_cell(atoms: Atoms) -> bool:
    """Return whether these atoms are periodic in all directions: then nothing of the cell is vacuum."""
    return bool(atoms.cell.rank == 3 and atoms.pbc.all())


def singlepoint(atoms: Atoms, calculator: Any, properties: Sequence[str] = ()) -> Atoms:
    """Compute properties of a structure.

    Parameters
    ----------
    atoms : ase.Atoms
    calculator : ase.calculators.calculator.Calculator
    properties : sequence of str
        By ASE's names. By default energy, forces, and stress if the model knows it and the atoms have one.

    Returns
    -------
    ase.Atoms
        A copy that holds the results.

    Raises
    ------
    ConfigurationError
        If the model does not know one of them, or these atoms have none.
    """
    offered = calculator.implemented_properties
    if unknown := [name for name in properties if name not in offered]:
        raise ConfigurationError(f"The model does not compute {unknown[0]}; it computes {', '.join(offered)}.")
    if not properties:
        usual = ("energy", "forces", "stress") if has_stress(atoms) else ("energy", "forces")
        properties = [name for name in usual if name in offered]
    with naming_source(atoms):
        try:
            calculator.calculate(without_notes(atoms), list(properties))
        except PropertyNotImplementedError as error:
            raise ConfigurationError(f"{atoms.get_chemical_formula()}: {error}") from error
    found = {name: calculator.results[name] for name in properties}
    computed = with_results(atoms, calculator, found, extra_results(calculator))
    computed.info.pop("converged", None)  # of a relaxation before
    return computed


_CELLS = ("fixed", "lengths", "full")


@dataclass(frozen=True)
class Relaxation:
    """How to relax.

    Attributes
    ----------
    optimizer : str
        A class of `ase.optimize`.
    fmax : float [eV/Å]
        Converged when no force is larger.
    steps : int
        How many to take at most.
    cell : {'fixed', 'lengths', 'full'}
        What of the cell is relaxed with the atoms: nothing; its size, without changing its shape; all.
    pressure : float [GPa]
        The pressure it is relaxed to.

    Raises
    ------
    ConfigurationError
        If one of them means nothing.
    """

    optimizer: str = "LBFGS"
    fmax: float = 0.1
    steps: int = 1000
    cell: str = "fixed"
    pressure: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            meant = did_you_mean(str(self.optimizer), OPTIMIZERS)
            raise ConfigurationError(
                f"optimizer={self.optimizer!r} is none of ASE's that relax.{meant}",
                f"Use one of {', '.join(OPTIMIZERS)}.",
            )
        if self.cell not in _CELLS:
            raise ConfigurationError(
                f"cell={self.cell!r} must be 'fixed', 'lengths' or 'full'.", "For example: cell='full'"
            )
        for name in ("fmax", "pressure"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not math.isfinite(value) or (name == "fmax" and value <= 0):
                raise ConfigurationError(f"{name}={value!r} is no such number.", f"For example: {name}=0.05")
        if not isinstance(self.steps, Integral) or self.steps < 0:
            raise ConfigurationError(f"steps={self.steps!r} is no number of steps.", "For example: steps=500")
        if self.pressure and self.cell == "fixed":
            raise ConfigurationError(
                f"pressure={self.pressure} is for a cell that is relaxed.", "For example: cell='full', pressure=1.0"
            )

    def run(
        self,
        atoms: Atoms,
        calculator: Any,
        *,
        on_step: Callable[[int, Atoms, float], None] = lambda step, atoms, force: None,  # noqa: ARG005
        trajectory: Path | None = None,
    ) -> Atoms:
        """Relax a structure.

        Parameters
        ----------
        atoms : ase.Atoms
        calculator : ase.calculators.calculator.Calculator
        on_step : callable
            Is given the number of each step, the atoms, and the largest force [eV/Å] of what is relaxed.
        trajectory : Path, optional
            A file to which each step is added.

        Returns
        -------
        ase.Atoms
            The last step, with its results; ``info['converged']`` says whether `fmax` was reached.

        Raises
        ------
        ConfigurationError
            If the cell of these atoms cannot be relaxed.
        NotConvergedError
            If the optimizer gave up by itself.
        """
        with naming_source(atoms):
            return self._relax(atoms.copy(), calculator, on_step, trajectory)

    def _relax(
        self, atoms: Atoms, calculator: Any, on_step: Callable[[int, Atoms, float], None], trajectory: Path | None
    ) -> Atoms:
        atoms.calc = calculator
        moving: Any = atoms
        if self.cell != "fixed":
            require_whole_cell(atoms)
            moving = FrechetCellFilter(
                atoms, hydrostatic_strain=self.cell == "lengths", scalar_pressure=self.pressure * GPa
            )
        optimizer = getattr(ase.optimize, self.optimizer)(moving, logfile=None)
        converged = False
        for reached in self._steps(optimizer):
            converged = bool(reached)
            if trajectory is not None:
                add_structure(trajectory, with_forces(atoms, calculator, ()))
            on_step(optimizer.nsteps, atoms, float(np.linalg.norm(moving.get_forces(), axis=1).max()))
        relaxed = with_forces(atoms, calculator, ("stress",) if self.cell != "fixed" else ())
        relaxed.info["converged"] = converged  # not in what the model reads, which would be asked again
        return relaxed

    def _steps(self, optimizer: Any) -> Iterator[bool]:
        try:
            yield from optimizer.irun(fmax=self.fmax, steps=self.steps)
        except RootstockError:
            raise
        except (ArithmeticError, ValueError, RuntimeError) as error:  # such as a search along a line that failed
            raise gave_up(self.optimizer, optimizer.nsteps, error) from error


Relaxation.__module__ = "rootstock"  # where it is imported from; dataclasses need the true one before


def require_whole_cell(atoms: Atoms) -> None:
    """Refuse to relax the cell of atoms that are not periodic in all directions.

    Parameters
    ----------
    atoms : ase.Atoms

    Raises
    ------
    ConfigurationError
    """
    if not has_whole_cell(atoms):
        raise ConfigurationError(
            "The cell of these atoms cannot be relaxed: they are not periodic in all three directions, and "
            "what is vacuum would shrink.",
            "Relax the atoms alone.",
        )


def gave_up(optimizer: str, steps: int, error: Exception) -> NotConvergedError:
    """Return the error for a relaxation whose optimizer cannot go on.

    Parameters
    ----------
    optimizer : str
    steps : int
        How many it has taken.
    error : Exception
        What it raised.
    """
    return NotConvergedError(f"{optimizer} gave up in step {steps}: {error}", "Use another --optimizer.")


def with_forces(atoms: Atoms, calculator: Any, more: tuple[str, ...]) -> Atoms:
    """Return a copy of atoms that were computed, with their energy and forces.

    Parameters
    ----------
    atoms : ase.Atoms
    calculator : ase.calculators.calculator.Calculator
        That of `atoms`.
    more : tuple of str
        Other properties that the copy is to have.
    """
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(apply_constraint=False)}
    results |= {name: calculator.get_property(name, atoms) for name in more}
    return with_results(atoms, calculator, results, extra_results(calculator), moved=True)


def with_results(
    atoms: Atoms, calculator: Any, results: dict[str, Any], extra: Mapping[str, Any], *, moved: bool = False
) -> Atoms:
    """Return a copy of atoms that carries results, and notes of what computed them.

    Parameters
    ----------
    atoms : ase.Atoms
    calculator : ase.calculators.calculator.Calculator
        What computed.
    results : dict
        By ASE's names.
    extra : Mapping of str to Any
        Others.
    moved : bool
        As of `add_extra_results`.
    """
    copy: Atoms = atoms.copy()
    note_calculator(copy, calculator)
    add_extra_results(copy, extra, calculator, moved=moved)
    copy.calc = SinglePointCalculator(copy, **results)
    return copy
