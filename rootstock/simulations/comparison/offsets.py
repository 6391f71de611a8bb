"""Energies of two models differ by an offset for each element, which says nothing: a fit takes it away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase.formula import Formula
from numpy.typing import NDArray

_EXACT = 1e-9  # of numbers between 0 and 1


@dataclass(frozen=True)
class Offsets:
    """What energies differ by because of the elements alone.

    Attributes
    ----------
    elements : dict of str to float [eV]
        Per atom of each element whose offset the structures determine.
    together : dict of str to float [eV]
        Per formula unit, where the structures determine only the offset of several elements together, as in files
        of one composition.
    undetermined : tuple of str
        The elements in `together`.
    fitted : int
        How many numbers were fitted.
    rest : (n,) array [eV/atom]
        What is left of each difference. NaN where the fit takes all of it, whatever it was: of the only structure
        with some element, or of all where there are no more structures than fitted numbers.
    """

    elements: dict[str, float]
    together: dict[str, float]
    undetermined: tuple[str, ...]
    fitted: int
    rest: NDArray[np.float64]


def fit_offsets(symbols: Sequence[str], counts: NDArray[np.int64], differences: NDArray[np.float64]) -> Offsets:
    """Fit an offset for each element: what is left has the least sum of squares, per atom.

    Parameters
    ----------
    symbols : sequence of str
        The elements; each is in a structure at least.
    counts : (n, elements) array
        Atoms of each in each structure.
    differences : (n,) array [eV]
        Between total energies.
    """
    sizes = counts.sum(axis=1)
    fractions, per_atom = counts / sizes[:, None], differences / sizes
    u, s, vt = np.linalg.svd(fractions, full_matrices=False)
    rank = int((s > s[0] * max(fractions.shape) * np.finfo(float).eps).sum())
    u, basis = u[:, :rank], vt[:rank]
    values = basis.T @ ((u.T @ per_atom) / s[:rank])  # where they are not determined, those of least norm
    rest = per_atom - fractions @ values
    rest[(u**2).sum(axis=1) > 1 - _EXACT] = np.nan
    free = np.eye(len(symbols)) - basis.T @ basis  # projects onto what no structure determines
    known = np.diag(free) < _EXACT
    together = {
        formula: float(value) for group in _groups(abs(free) > _EXACT) for formula, value in
        _sums([symbols[k] for k in group], counts[:, group], values[group])
    }  # fmt: skip
    return Offsets(
        {symbol: float(values[k]) for k, symbol in enumerate(symbols) if known[k]}, together,
        tuple(symbol for k, symbol in enumerate(symbols) if not known[k]), rank, rest,
    )  # fmt: skip


def _groups(linked: NDArray[np.bool_]) -> Iterator[list[int]]:
    """Yield the elements whose offsets depend on each other."""
    left = {k for k in range(len(linked)) if linked[k, k]}
    while left:
        group: set[int] = set()
        coming = {min(left)}
        while coming:
            group |= coming
            coming = {k for k in left - group if linked[k, sorted(group)].any()}
        left -= group
        yield sorted(group)


def _sums(
    symbols: Sequence[str], counts: NDArray[np.int64], values: NDArray[np.float64]
) -> Iterator[tuple[str, float]]:
    """Yield formulas whose offsets are determined though those of their elements are not: no more than are needed."""
    chosen: list[list[int]] = []
    rows = {tuple(n // (math.gcd(*row) or 1) for n in row) for row in np.unique(counts, axis=0).tolist()}
    for row in sorted(rows, key=lambda row: (sum(row), row)):
        if np.linalg.matrix_rank(np.array([*chosen, row])) > len(chosen):
            chosen.append([*row])
            parts = {symbol: n for symbol, n in zip(symbols, row, strict=True) if n}
            yield Formula.from_dict(parts).format("metal"), float(np.dot(row, values))
