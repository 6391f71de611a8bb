"""Cells as i-PI wants them: the first vector along x, the second in the xy plane."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from ase.cell import Cell
from numpy.typing import NDArray

from rootstock.errors import ConfigurationError

Array = NDArray[np.float64]

# Around atoms without a cell, on each side. Programs that know no atoms without a box see their images this far away.
_VACUUM = 100.0


@dataclass(frozen=True)
class Frame:
    """How atoms are shown to a driver.

    Attributes
    ----------
    cell : ndarray, shape (3, 3) [Å]
        The cell that is sent, vectors as rows.
    rotation : ndarray, shape (3, 3), or None
        ``sent @ rotation`` are the caller's vectors. None: they are the same.
    """

    cell: Array
    rotation: Array | None

    @functools.cached_property
    def volume(self) -> float:
        """Its volume [Å^3]."""
        return abs(float(np.linalg.det(self.cell)))

    def out(self, vectors: Array) -> Array:
        """Rotate the caller's vectors, one in each row."""
        return vectors if self.rotation is None else vectors @ self.rotation.T

    def back(self, vectors: Array) -> Array:
        """Rotate the driver's vectors, one in each row."""
        return vectors if self.rotation is None else vectors @ self.rotation

    def tensor_back(self, tensor: Array) -> Array:
        """Rotate the driver's tensor."""
        return tensor if self.rotation is None else self.rotation.T @ tensor @ self.rotation


def frame_of(cell: Array, positions: Array, rotate: bool) -> Frame:
    """Return how to show atoms to a driver.

    Parameters
    ----------
    cell : ndarray, shape (3, 3) [Å]
        Cell vectors as rows. Those that are zero are replaced by long ones: a driver needs a volume.
    positions : ndarray, shape (n_atoms, 3) [Å]
    rotate : bool
        Whether to bring the cell into i-PI's form. If not, it is sent as it is.

    Raises
    ------
    ConfigurationError
        If the vectors are left-handed, so that no rotation brings them into that form, or span no volume.
    """
    full = Cell(cell)
    missing = ~full.mask()
    if missing.any():
        full = full.complete()
        full[missing] *= np.ptp(positions, axis=0).max() + 2 * _VACUUM
    if not (signed := float(np.linalg.det(full.array))):
        raise ConfigurationError(f"The cell vectors span no volume: {cell.tolist()}.")
    if not rotate or (not np.triu(full.array, 1).any() and (np.diag(full.array) > 0).all()):
        return Frame(full.array.copy(), None)
    if signed < 0:
        raise ConfigurationError(
            "The cell is left-handed, and i-PI's form of a cell (first vector along x, second in the xy plane, "
            "third upwards) cannot be reached by rotating it.",
            "Exchange two cell vectors; or pass rotate=False if the client takes any cell.",
        )
    lower, rotation = full.standard_form()
    return Frame(np.tril(lower.array), rotation)
