"""Ask an ASE calculator once for all that a simulation needs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from rootstock.errors import ConfigurationError, ModelError, NonFiniteError
from rootstock.worker.results import real_numbers

_VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])  # where xx, xy, ... stand in ASE's six numbers


class Evaluation(NamedTuple):
    """What a calculator computed.

    Attributes
    ----------
    energy : float [eV]
        The free energy, whose derivative the forces are, where the calculator knows one.
    forces : ndarray, shape (n_atoms, 3) [eV/Å]
    stress : ndarray, shape (3, 3) [eV/Å^3], or None
        None if it was not asked for.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None


def require(calculator: Any, *, stress: bool, remedy: str) -> None:
    """Refuse a calculator that lacks energy, forces or stress.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
    stress : bool
        Whether a stress is needed.
    remedy : str
        What the user does if only the stress is missing.

    Raises
    ------
    ConfigurationError
        If it does not compute one of them.
    """
    properties = ["energy", "forces", *(["stress"] if stress else [])]
    if missing := [name for name in properties if name not in calculator.implemented_properties]:
        raise ConfigurationError(
            f"The calculator computes no {missing[0]}.", remedy if missing == ["stress"] else "Use another model."
        )


def evaluate(calculator: Any, atoms: Atoms, changes: list[str], *, stress: bool) -> Evaluation:
    """Compute energy, forces and perhaps stress with one call of ``calculate``.

    ASE's three getters would compare all atoms with those of the last call three times, which costs more than what
    is around it.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
    atoms : ase.Atoms
    changes : list of str
        What changed since the last call, by ASE's names.
    stress : bool
        Whether it is wanted.

    Raises
    ------
    ModelError
        If a result is no real number, or an energy is more than one.
    NonFiniteError
        If a result is NaN or infinite.
    """
    calculator.results = {}
    calculator.calculate(atoms, ["energy", "forces", "stress"] if stress else ["energy", "forces"], changes)
    results = calculator.results
    free = results.get("free_energy")
    try:
        evaluation = Evaluation(
            float(real_numbers("energy", results["energy"] if free is None else free).item()),
            real_numbers("forces", results["forces"]).astype(float, copy=False),
            _full(real_numbers("stress", results["stress"]).astype(float, copy=False)) if stress else None,
        )
    except ValueError as error:
        raise ModelError(f"{error}") from error
    for name, value in zip(Evaluation._fields, evaluation, strict=True):
        if value is not None and not math.isfinite(value if isinstance(value, float) else value.sum()):
            raise NonFiniteError(f"The model returned NaN or infinity in {name}.")
    return evaluation


def _full(stress: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a stress as a matrix: calculators give six numbers or nine."""
    return stress[_VOIGT] if stress.ndim == 1 else stress
