"""ASE's `FrechetCellFilter` for many structures at once.

The equations are those of `ase.filters.FrechetCellFilter` (after C. Ortner's in JuLIP.jl; derived in
https://github.com/lan496/lan496.github.io/blob/main/notes/cell_grad.pdf). With the cell C and the one at the beginning,
C0, both with vectors as rows, the deformation is F = (C0^-1 C)^T. Of a structure of n atoms, the coordinates that are
relaxed are

- its positions without the deformation, r F^-T;
- three more rows, n log(n F), in ASE's scaling: the logarithm of F, and a constant.

With the virial W = -V (stress + pressure), the forces on these are f F, and the derivative of the energy by the
logarithm, whose element ij is L(log F, E_ij) : W F^-T. L(X, E) is the derivative of the exponential, E_ij one in a
single element. ASE takes nine derivatives for that. All nine are one, L((log F)^T, W F^-T), since the transposed
argument gives the adjoint map (N. J. Higham, Functions of Matrices, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from rootstock.simulations.lockstep.matrices import (
    Stack,
    determinants,
    exponential_derivatives,
    exponentials,
    inverses,
    logarithms,
)

Rows = NDArray[np.float64]
_VOIGT = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]  # ASE's order of a stress


class Cells:
    """The cells of some structures, which are relaxed with their atoms.

    Parameters
    ----------
    images : sequence of ase.Atoms
        As they are.
    originals : sequence of ndarray, shape (3, 3) [Å]
        Their cells at the beginning.
    """

    def __init__(self, images: Sequence[Atoms], originals: Sequence[Rows]) -> None:
        self._images = images
        self._counts = np.array([len(atoms) for atoms in images])
        self._ends = np.cumsum(self._counts)
        self._cells = np.array([atoms.cell.array for atoms in images])
        self._deformations = (inverses(np.array(originals)) @ self._cells).swapaxes(1, 2)
        self._inverted = inverses(self._deformations)
        self._logarithms = logarithms(self._deformations)

    def coordinates(self) -> list[Rows]:
        """Return what is relaxed of each structure, shape (n_atoms + 3, 3)."""
        positions = np.concatenate([atoms.positions for atoms in self._images])
        of_atoms = _times(positions, self._inverted.swapaxes(1, 2), self._counts)
        return self._packed(of_atoms, (self._logarithms + _constants(self._counts)) * _column(self._counts))

    def forces(self, forces: Sequence[Rows], stresses: Sequence[Rows], pressure: float, *, shape: bool) -> list[Rows]:
        """Return the forces on the coordinates of each structure, shape (n_atoms + 3, 3).

        Parameters
        ----------
        forces : sequence of ndarray, shape (n_atoms, 3) [eV/Å]
        stresses : sequence of ndarray, shape (6,) [eV/Å³]
        pressure : float [eV/Å³]
        shape : bool
            Whether the shape of the cells is relaxed, or their size alone.
        """
        volumes = np.abs(determinants(self._cells))[:, None, None]
        one = np.eye(3)
        virials = -volumes * (np.array(stresses)[:, _VOIGT] + pressure * one)
        if not shape:
            virials = virials.trace(axis1=1, axis2=2)[:, None, None] / 3.0 * one
        gradients = virials @ self._inverted.swapaxes(1, 2)
        on_cells = exponential_derivatives(self._logarithms.swapaxes(1, 2), gradients)
        of_atoms = _times(np.concatenate(forces), self._deformations, self._counts)
        return self._packed(of_atoms, on_cells / _column(self._counts))

    def _packed(self, of_atoms: Rows, of_cells: Stack) -> list[Rows]:
        starts = self._ends - self._counts
        return [
            np.concatenate((of_atoms[begin:end], cell))
            for begin, end, cell in zip(starts, self._ends, of_cells, strict=True)
        ]


def place(images: Sequence[Atoms], originals: Sequence[Rows], coordinates: Sequence[Rows]) -> dict[int, Exception]:
    """Give structures the positions and the cells of their coordinates, as their constraints allow.

    Parameters
    ----------
    images : sequence of ase.Atoms
        They are changed.
    originals : sequence of ndarray, shape (3, 3) [Å]
        Their cells at the beginning.
    coordinates : sequence of ndarray, shape (n_atoms + 3, 3)

    Returns
    -------
    dict of int to Exception
        What constraints raised, by the place of the structure.
    """
    counts = np.array([len(atoms) for atoms in images])
    logs = np.array([rows[-3:] for rows in coordinates]) / _column(counts)
    # ASE takes the constant off behind the exponential: the same but for rounding.
    deformations = exponentials(logs - _constants(counts)).swapaxes(1, 2)
    cells = np.array(originals) @ deformations
    positions = _times(np.concatenate([rows[:-3] for rows in coordinates]), deformations, counts)
    errors: dict[int, Exception] = {}
    end = 0
    for k, (atoms, cell) in enumerate(zip(images, cells, strict=True)):
        begin, end = end, end + len(atoms)
        if not atoms.constraints:
            atoms.cell[:], atoms.positions[:] = cell, positions[begin:end]
            continue
        try:
            atoms.set_cell(cell, scale_atoms=True)
            atoms.set_positions(positions[begin:end])
        except Exception as error:  # noqa: BLE001  # whatever a constraint raises: the others go on
            errors[k] = error
    return errors


def _column(counts: NDArray[np.int64]) -> Rows:
    return counts[:, None, None].astype(float)


def _constants(counts: NDArray[np.int64]) -> Stack:
    """Return what the coordinates hold beside the logarithm of the deformation: log n in each direction."""
    with np.errstate(divide="ignore"):  # no atoms
        return np.log(_column(counts)) * np.eye(3)


def _times(rows: Rows, matrices: Stack, counts: NDArray[np.int64]) -> Rows:
    """Return each row times the matrix of its structure."""
    x, y, z = rows[:, 0:1], rows[:, 1:2], rows[:, 2:3]
    each = np.repeat(matrices, counts, axis=0)
    return x * each[:, 0] + y * each[:, 1] + z * each[:, 2]
