"""How far two sources agree, in numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import GPa
from numpy.typing import NDArray

from rootstock.simulations.comparison.answers import Answers
from rootstock.simulations.comparison.offsets import Offsets, fit_offsets

NO_FORCE = 1e-4  # eV/Å: shorter ones have no direction, but for rounding


@dataclass(frozen=True)
class EnergyAgreement:
    """Energies of a model against those of the reference.

    Attributes
    ----------
    model : str
    difference : (n,) array [eV/atom]
        Energy of the model minus that of the reference, of each structure; NaN where one of them is missing.
    rest : (n,) array [eV/atom]
        What the offsets leave of it; NaN where they leave nothing to compare, too.
    offsets : Offsets or None
        None if no structure has both energies.
    """

    model: str
    difference: NDArray[np.float64]
    rest: NDArray[np.float64]
    offsets: Offsets | None

    @classmethod
    def between(cls, answers: Answers, reference: Answers, structures: Sequence[Atoms]) -> EnergyAgreement:
        """Compare energies.

        Parameters
        ----------
        answers, reference : Answers
        structures : sequence of ase.Atoms
        """
        energies = [(answers.get(k, "energy"), reference.get(k, "energy")) for k in range(len(structures))]
        both = [k for k, pair in enumerate(energies) if None not in pair]
        difference, rest = np.full((2, len(structures)), np.nan)
        if not both:
            return cls(answers.name, difference, rest, None)
        total = np.array([energies[k][0] - energies[k][1] for k in both])
        numbers = sorted({int(number) for k in both for number in structures[k].numbers})
        counts = np.array([np.bincount(structures[k].numbers, minlength=numbers[-1] + 1)[numbers] for k in both])
        offsets = fit_offsets([chemical_symbols[number] for number in numbers], counts, total)
        difference[both], rest[both] = total / counts.sum(axis=1), offsets.rest
        return cls(answers.name, difference, rest, offsets)


@dataclass(frozen=True)
class PairAgreement:
    """Forces and stresses of two sources, where both have them.

    Attributes
    ----------
    models : tuple of str
        Their names.
    structures, atoms : int
        How many have both forces.
    forces_mae, forces_rmse : float or None [eV/Å]
        Mean over all components of all atoms.
    forces_cosine : float or None
        Cosine of the angle between the two forces on an atom, mean over `cosine_atoms`.
    cosine_atoms : int
        How many atoms have two forces of 0.0001 eV/Å at least.
    stress_structures : int
        How many have both stresses.
    stress_mae : float or None [GPa]
        Mean over their six components.
    largest : (n,) array [eV/Å]
        Of each structure, the length of the largest difference between two forces on an atom; NaN if one is missing.
    """

    models: tuple[str, str]
    structures: int
    atoms: int
    forces_mae: float | None
    forces_rmse: float | None
    forces_cosine: float | None
    cosine_atoms: int
    stress_structures: int
    stress_mae: float | None
    largest: NDArray[np.float64]

    @classmethod
    def between(cls, one: Answers, other: Answers) -> PairAgreement:
        """Compare forces and stresses.

        Parameters
        ----------
        one, other : Answers
        """
        forces = {k: pair for k, pair in enumerate(_pairs(one, other, "forces")) if pair}
        largest = np.full(len(one.results), np.nan)
        for k, (a, b) in forces.items():
            largest[k] = np.linalg.norm(a - b, axis=1).max()
        a, b = (np.concatenate([np.empty((0, 3)), *(pair[side] for pair in forces.values())]) for side in (0, 1))
        long_a, long_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        sure = (long_a >= NO_FORCE) & (long_b >= NO_FORCE)
        cosines = (a[sure] * b[sure]).sum(axis=1) / (long_a[sure] * long_b[sure])
        stresses = [pair for pair in _pairs(one, other, "stress") if pair]
        return cls(
            (one.name, other.name), len(forces), len(a), mean(abs(a - b)), _root(mean((a - b) ** 2)), mean(cosines),
            int(sure.sum()), len(stresses), mean(np.array([abs(s - t) for s, t in stresses]) / GPa), largest,
        )  # fmt: skip


def _pairs(one: Answers, other: Answers, name: str) -> list[tuple[Any, Any] | None]:
    pairs = ((one.get(k, name), other.get(k, name)) for k in range(len(one.results)))
    return [None if pair[0] is None or pair[1] is None else pair for pair in pairs]


def all_pairs(sources: Sequence[Answers]) -> list[PairAgreement]:
    """Compare forces and stresses of each source with those of each other one.

    Parameters
    ----------
    sources : sequence of Answers
    """
    return [PairAgreement.between(one, other) for one, other in itertools.combinations(sources, 2)]


def committee(models: Sequence[Answers]) -> list[Answers]:
    """Return the models that have computed forces.

    Parameters
    ----------
    models : sequence of Answers
    """
    return [model for model in models if any(each and "forces" in each for each in model.results)]


def spread_of_forces(models: Sequence[Answers], index: int) -> NDArray[np.float64] | None:
    """Return how far the forces of models on each atom lie apart: the root of their mean square deviation.

    Parameters
    ----------
    models : sequence of Answers
        A `committee`.
    index : int
        Of the structure.

    Returns
    -------
    (atoms,) array [eV/Å] or None
        None if there are fewer than two models, or one of them lacks the forces of this structure.
    """
    forces = [model.get(index, "forces") for model in models]
    if len(forces) < 2 or any(each is None for each in forces):
        return None
    every = np.array(forces)
    spread: NDArray[np.float64] = np.sqrt(((every - every.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
    return spread


def statistics(values: NDArray[np.float64]) -> dict[str, Any] | None:
    """Return how large numbers are, without those that are NaN; None if there are no others.

    Parameters
    ----------
    values : array
    """
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    size = abs(known)
    return {
        "structures": known.size, "mean": float(known.mean()), "mae": float(size.mean()),
        "rmse": float((size**2).mean() ** 0.5), "max": float(size.max()),
    }  # fmt: skip


def mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of an array; None if it is empty.

    Parameters
    ----------
    values : array
    """
    return float(values.mean()) if values.size else None


def _root(value: float | None) -> float | None:
    return None if value is None else value**0.5
