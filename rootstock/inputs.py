"""What a model is given of an Atoms object, kept to see what changes."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from rootstock.channel.memory import INPUTS
from rootstock.errors import NonFiniteError

_FLOAT, _INT = np.dtype("f8"), np.dtype("i8")
_SMALL = 4096  # numbers; a larger product BLAS might spread over threads


class Rest(NamedTuple):
    """What a model is given beside positions: the bytes of each section (None: the atoms have none), and the info.

    The fields are those of `rootstock.channel.memory.INPUTS` after the first.
    """

    numbers: bytes
    cell: bytes
    pbc: bytes
    initial_charges: bytes | None
    initial_magmoms: bytes | None
    initial_magmom_vectors: bytes | None
    tags: bytes | None
    info: str


State = tuple[object, Rest]
_NOTHING = Rest(b"", b"", b"", None, None, None, None, "")


class Inputs:
    """A copy of what a model is given of some atoms.

    `state` tells inputs apart. The stamp changes before the positions do, so an update that is interrupted is never
    taken for the atoms before it.

    Attributes
    ----------
    positions : ndarray, shape (n_atoms, 3) [Å]
    stamp : object
        Stands for these positions, which change in every step and can be large; None before there are any.
    rest : Rest
        Everything else; the same object as long as nothing of it changes.
    """

    def __init__(self) -> None:
        self.positions: NDArray[np.float64] = np.empty((0, 3))
        self.stamp: object = None
        self.rest = _NOTHING

    def __bool__(self) -> bool:
        return self.stamp is not None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def state(self) -> State:
        """Stamp and rest: equal states mean that a model sees no difference."""
        return self.stamp, self.rest

    def copy(self) -> Inputs:
        """Return a copy that lives on its own."""
        copy = Inputs()
        copy.positions, copy.stamp, copy.rest = self.positions.copy(), self.stamp, self.rest
        return copy

    def update(self, atoms: Atoms) -> None:
        """Take over what `atoms` are now.

        Parameters
        ----------
        atoms : ase.Atoms
            Entries of ``atoms.info`` that JSON can hold (numbers, strings, lists, arrays of them) are taken;
            others stay with the caller.

        Raises
        ------
        NonFiniteError
            If a position, the cell, or an initial charge or magnetic moment is NaN or infinite. Nothing is taken then.
        """
        arrays, old = atoms.arrays, self.rest
        positions = _as_floats(arrays["positions"])
        same = len(positions) == len(self.positions) and positions.data == self.positions.data and self
        if not same:
            _require_finite(positions, "positions")
        rest = self._rest(atoms, old)
        if not same:
            self.stamp = object()
            if len(positions) != len(self.positions):
                self.positions = positions.copy()
            else:
                self.positions[...] = positions
        if rest is not None:
            self.rest = rest

    @staticmethod
    def _rest(atoms: Atoms, old: Rest) -> Rest | None:
        """Return everything but the positions; None if it is as it was."""
        arrays = atoms.arrays
        numbers, cell, pbc = _ints(arrays["numbers"]), _as_floats(atoms.cell.array), atoms.pbc.tobytes()
        cell_data = cell.tobytes()
        charges = magmoms = vectors = tags = None
        if len(arrays) > 2:  # more than positions and numbers
            charges, magmoms, tags = (arrays.get(name) for name in ("initial_charges", "initial_magmoms", "tags"))
            if magmoms is not None and magmoms.ndim > 1:
                magmoms, vectors = None, magmoms
        elif (
            numbers == old.numbers
            and cell_data == old.cell
            and pbc == old.pbc
            and not atoms.info
            and old.initial_charges is old.initial_magmoms is old.initial_magmom_vectors is old.tags is None
            and not old.info
        ):
            return None
        if cell_data != old.cell:
            _require_finite(cell, "cell")
        rest = Rest(
            numbers,
            cell_data,
            pbc,
            None if charges is None else _floats(charges, "initial_charges"),
            None if magmoms is None else _floats(magmoms, "initial_magmoms"),
            None if vectors is None else _floats(vectors, "initial_magmoms"),
            None if tags is None else _ints(tags),
            _portable_info(atoms.info) if atoms.info else "",
        )
        return None if rest == old else rest

    def changes_to(self, atoms: Atoms) -> list[str]:
        """Return the names of the sections in which `atoms` differ from these."""
        other = self.copy()
        other.update(atoms)
        names = [] if self.stamp is other.stamp else ["positions"]
        return names + [name for name, a, b in zip(Rest._fields, self.rest, other.rest, strict=True) if a != b]

    def atoms(self) -> Atoms:
        """Return the atoms that these inputs were taken from, as far as they were taken."""
        arrays = {
            section.name: np.frombuffer(data, section.dtype).reshape((-1, *section.shape))
            for section, data in zip(INPUTS[1:], self.rest, strict=False)
            if isinstance(data, bytes)
        }
        atoms = Atoms(
            arrays.pop("numbers").copy(),
            self.positions.copy(),
            cell=arrays.pop("cell")[0].copy(),
            pbc=arrays.pop("pbc")[0] != 0,
            info=json.loads(self.rest.info or "{}"),
        )
        for name, value in arrays.items():
            atoms.set_array(name.replace("magmom_vectors", "magmoms"), value.copy())
        return atoms


def all_finite(array: NDArray[Any]) -> bool:
    """Tell whether an array holds neither NaN nor infinity."""
    # For a few numbers one product costs less than a test of each. One that overflows decides nothing.
    if array.size <= _SMALL and isfinite(np.vdot(array, array)):
        return True
    return bool(np.isfinite(array).all())


def first_bad(array: NDArray[Any]) -> str:
    """Say where in an array the first number stands that is not finite."""
    bad = np.argwhere(~np.isfinite(array))
    return f" (first at index {', '.join(map(str, bad[0]))})" if bad.size and array.ndim else ""


def _require_finite(array: NDArray[Any], name: str) -> None:
    if not all_finite(array):
        raise NonFiniteError(f"The {name} of the atoms hold NaN or infinity{first_bad(array)}; nothing was computed.")


def _as_floats(array: NDArray[Any]) -> NDArray[np.float64]:
    return array if array.dtype == _FLOAT and array.flags.c_contiguous else np.ascontiguousarray(array, dtype=_FLOAT)


def _floats(array: NDArray[Any], name: str) -> bytes:
    array = _as_floats(array)
    _require_finite(array, name)
    return array.tobytes()


def _ints(array: NDArray[Any]) -> bytes:
    return (array if array.dtype == _INT else array.astype(_INT)).tobytes()


def _portable_info(info: dict[str, Any]) -> str:
    portable = {}
    for key, value in info.items():
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            continue  # an object, such as a space group: no model reads it
        if isinstance(key, str):
            portable[key] = value
    return json.dumps(portable) if portable else ""
