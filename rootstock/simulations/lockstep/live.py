"""One relaxation that goes on, of which each step is ASE's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ase.optimize
import numpy as np
from ase import Atoms
from ase.optimize.optimize import OptimizableAtoms
from numpy.typing import NDArray

from rootstock.client.evaluated import Evaluated, FailureClass
from rootstock.errors import NotConvergedError, RootstockError
from rootstock.simulations.lockstep.relaxed import Relaxed
from rootstock.simulations.provenance import NOTES, naming_source, without_notes
from rootstock.simulations.relax import Relaxation, gave_up, require_whole_cell, with_results

# Whose step() asks for nothing but the forces of the present positions.
OPTIMIZERS = ("LBFGS", "BFGS", "FIRE", "MDMin")


def can_lockstep(optimizer: str) -> bool:
    """Return whether relaxations by an optimizer can go on together.

    Those that search along a line ask for forces within a step, and cannot.

    Parameters
    ----------
    optimizer : str
        A class of `ase.optimize`.
    """
    return optimizer in OPTIMIZERS


class Given:
    """Stands where the atoms have a calculator: says what was computed elsewhere for the atoms as they are.

    So forces, stress and energy go through ASE's own code, with all that constraints do to them.

    Attributes
    ----------
    results : Mapping of str to Any
        By ASE's names.
    """

    def __init__(self) -> None:
        self.results: Mapping[str, Any] = {}

    def get_potential_energy(self, atoms: Atoms, force_consistent: bool = False) -> float:  # noqa: ARG002
        """Return the energy.

        Parameters
        ----------
        atoms, force_consistent
            As ASE passes them.
        """
        return float(self.results["energy"])

    def get_forces(self, atoms: Atoms) -> NDArray[np.float64]:  # noqa: ARG002
        """Return a copy of the forces, which constraints change."""
        return self.results["forces"].copy()  # type: ignore[no-any-return]

    def get_stress(self, atoms: Atoms) -> NDArray[np.float64]:  # noqa: ARG002
        """Return a copy of the stress."""
        return self.results["stress"].copy()  # type: ignore[no-any-return]


class Coordinates:
    """What an optimizer moves where the cell is relaxed, too: it takes this for the atoms.

    Attributes
    ----------
    x, forces : ndarray, shape (n_atoms + 3, 3)
    """

    def __init__(self, count: int) -> None:
        self.x = self.forces = np.zeros((count + 3, 3))

    def __len__(self) -> int:
        return len(self.x)

    def get_positions(self) -> NDArray[np.float64]:
        """Return the coordinates."""
        return self.x.copy()

    def set_positions(self, positions: NDArray[np.float64]) -> None:
        """Take new coordinates. What becomes of the atoms is decided for all structures at once."""
        self.x = positions.copy()

    def get_forces(self) -> NDArray[np.float64]:
        """Return the forces on the coordinates."""
        return self.forces.copy()

    def __ase_optimizable__(self) -> OptimizableAtoms:
        return OptimizableAtoms(self)


class Live:
    """One relaxation that goes on.

    Parameters
    ----------
    key : int
        By which its owner knows it.
    atoms : ase.Atoms
        As it begins.
    steps : int
        How many it has taken before.
    relaxation : Relaxation

    Attributes
    ----------
    atoms : ase.Atoms
        As they are now: perhaps a step that was not computed yet.
    given : Given
        Their calculator.
    coordinates : Coordinates or None
        What is moved, if the cell is relaxed, too.
    original : ndarray, shape (3, 3) [Å]
        The cell at the beginning.

    Raises
    ------
    ConfigurationError
        If the cell of these atoms cannot be relaxed.
    """

    def __init__(self, key: int, atoms: Atoms, steps: int, relaxation: Relaxation) -> None:
        self.key, self._relaxation, self._before = key, relaxation, steps
        self._notes = {name: atoms.info[name] for name in NOTES if name in atoms.info}
        with naming_source(atoms):
            if relaxation.cell != "fixed":
                require_whole_cell(atoms)
        self.atoms = without_notes(atoms)
        self.given = Given()
        self.atoms.calc = self.given
        self.coordinates = Coordinates(len(atoms)) if relaxation.cell != "fixed" else None
        self.original = self.atoms.cell.array.copy()
        self._optimizer: Any = None
        self._extra: Mapping[str, Any] = {}
        # All at once, so that whoever looks at it sees one step, whatever is interrupted.
        self._last = self.atoms.positions.copy(), self.original, steps

    def take(self, results: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """Take over what was computed for the atoms as they are.

        Parameters
        ----------
        results, extra : Mapping of str to Any
            By ASE's names, and others.
        """
        self.given.results, self._extra = results, extra
        self._last = self.atoms.positions.copy(), self.atoms.cell.array.copy(), self.steps

    @property
    def steps(self) -> int:
        """How many were taken."""
        return self._before if self._optimizer is None else self._optimizer.nsteps

    def step(self) -> bool | None:
        """Take a step if one is needed; if none is, return whether this converged.

        Raises
        ------
        NotConvergedError
            If the optimizer, or a constraint, gave up.
        """
        try:
            if self._optimizer is None:
                self._optimizer = self._begin()
            optimizer = self._optimizer
            if _converged(optimizer.optimizable, self._relaxation.fmax):
                return True
            if optimizer.nsteps >= self._relaxation.steps:
                return False
            optimizer.step()
            optimizer.nsteps += 1
        except Exception as error:
            raise self.gave_up(error) from error
        return None

    def _begin(self) -> Any:
        moving = self.atoms if self.coordinates is None else self.coordinates
        optimizer = getattr(ase.optimize, self._relaxation.optimizer)(moving, logfile=None)
        optimizer.nsteps, optimizer.fmax = self._before, self._relaxation.fmax
        return optimizer

    def gave_up(self, error: Exception) -> RootstockError:
        """Return the error for an optimizer or a constraint that raised one.

        Parameters
        ----------
        error : Exception
        """
        if isinstance(error, RootstockError):
            return error
        return gave_up(self._relaxation.optimizer, self.steps, error)

    def finished(self, calculator: Any, *, converged: bool) -> Relaxed:
        """Return what came out.

        Parameters
        ----------
        calculator : ase.calculators.calculator.Calculator
            What computed.
        converged : bool
        """
        atoms, names = self.atoms, ("stress",) if self.coordinates is not None else ()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(apply_constraint=False)}
        results |= {name: self.given.results[name] for name in names}
        structure = with_results(atoms, calculator, results, self._extra, moved=True)
        structure.calc = None
        structure.info = {**self._notes, **structure.info, "converged": converged}
        extra = dict(self._extra)
        return Relaxed(self.key, results, None, structure, None, converged, self.steps, extra_results=extra)

    def failed(self, error: RootstockError, failure: FailureClass | None) -> Relaxed:
        """Return what is said of a relaxation that failed.

        Parameters
        ----------
        error : RootstockError
        failure : FailureClass or None
        """
        atoms, steps = self.last()
        return failed(self.key, atoms, error, failure, steps)

    def answered(self, answer: Evaluated) -> Relaxed | None:
        """Take over what became of the atoms as they are; return what is said if that failed.

        Parameters
        ----------
        answer : Evaluated
        """
        if answer.error is not None:
            return self.failed(answer.error, answer.failure)
        assert answer.results is not None
        self.take(answer.results, answer.extra_results)
        return None

    def last(self) -> tuple[Atoms, int]:
        """Return the last step that was computed, or how it began: atoms with notes, and how many steps that took."""
        positions, cell, steps = self._last
        atoms = self.atoms.copy()
        atoms.positions[:], atoms.cell[:] = positions, cell
        atoms.info = {**self._notes, **atoms.info}
        return atoms, steps


def failed(key: int, atoms: Atoms, error: RootstockError, failure: FailureClass | None, steps: int) -> Relaxed:
    """Return what is said of a relaxation that failed.

    Parameters
    ----------
    key : int
    atoms : ase.Atoms
        The last step that was computed.
    error : RootstockError
    failure : FailureClass or None
    steps : int
    """
    if isinstance(error, NotConvergedError):
        failure = failure or FailureClass.STRUCTURE
    try:
        with naming_source(atoms):
            raise error
    except RootstockError:
        return Relaxed(key, None, error, atoms, failure or FailureClass.STRUCTURE, None, steps)


def _converged(optimizable: Any, fmax: float) -> bool:
    """Ask ASE, which has moved from forces, shape (n, 3), to gradients, shape (3 n), between 3.25 and 3.26."""
    ask = getattr(optimizable, "get_gradient", None) or optimizable.get_forces
    return bool(optimizable.converged(ask(), fmax))
