"""What a model is given of an Atoms object, kept to see what changes."""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from rootstock.channel.memory import INPUTS
from rootstock.errors import NonFiniteError

_FLOAT, _INT = np.dtype("f8"), np.dtype("i8")
_stamps = itertools.count(1)


class Sections(NamedTuple):
    """The sections of `rootstock.channel.memory.INPUTS`: the bytes of each (None: the atoms have none), and the info.

    Positions are the exception. They change in every step and can be large, so they have a buffer of their own
    (`Inputs.positions`), and here is a number that no other positions in this process ever had.
    """

    positions: int
    numbers: bytes
    cell: bytes
    pbc: bytes
    initial_charges: bytes | None
    initial_magmoms: bytes | None
    initial_magmom_vectors: bytes | None
    tags: bytes | None
    info: str


_EMPTY = Sections(0, b"", b"", b"", None, None, None, None, "")


class Inputs:
    """A copy of what a model is given of some atoms.

    Attributes
    ----------
    positions : ndarray, shape (n_atoms, 3) [Å]
    sections : Sections
        Everything else. Equal sections mean that a model sees no difference.
    """

    def __init__(self) -> None:
        self.positions: NDArray[np.float64] = np.empty((0, 3))
        self.sections = _EMPTY

    def __bool__(self) -> bool:
        return self.sections is not _EMPTY

    def __len__(self) -> int:
        return len(self.positions)

    def copy(self) -> Inputs:
        """Return a copy that lives on its own."""
        copy = Inputs()
        copy.positions, copy.sections = self.positions.copy(), self.sections
        return copy

    def update(self, atoms: Atoms) -> list[str]:
        """Take over what `atoms` are now, and return the names of the sections that changed.

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
        arrays, old = atoms.arrays, self.sections
        charges = magmoms = vectors = tags = None
        if len(arrays) > 2:  # more than positions and numbers
            charges, magmoms, tags = (arrays.get(name) for name in ("initial_charges", "initial_magmoms", "tags"))
            if magmoms is not None and magmoms.ndim > 1:
                magmoms, vectors = None, magmoms
        positions = _as_floats(arrays["positions"])
        same = len(positions) == len(self.positions) and positions.data == self.positions.data
        if not same:
            _require_finite(positions, "positions")
        sections = Sections(
            old.positions if same and old.positions else next(_stamps),
            _ints(arrays["numbers"], old.numbers),
            _floats(atoms.cell.array, old.cell, "cell"),
            atoms.pbc.tobytes(),
            None if charges is None else _floats(charges, old.initial_charges, "initial_charges"),
            None if magmoms is None else _floats(magmoms, old.initial_magmoms, "initial_magmoms"),
            None if vectors is None else _floats(vectors, old.initial_magmom_vectors, "initial_magmoms"),
            None if tags is None else _ints(tags, old.tags),
            _portable_info(atoms.info) if atoms.info else "",
        )
        if sections == old:
            return []
        if len(positions) != len(self.positions):
            self.positions = positions.copy()
        elif not same:
            self.positions[...] = positions
        self.sections = sections
        return [name for name, new, before in zip(Sections._fields, sections, old, strict=True) if new != before]

    def atoms(self) -> Atoms:
        """Return the atoms that these inputs were taken from, as far as they were taken."""
        arrays = {
            section.name: np.frombuffer(data, section.dtype).reshape((-1, *section.shape))
            for section, data in zip(INPUTS, self.sections, strict=False)
            if isinstance(data, bytes)
        }
        atoms = Atoms(
            arrays.pop("numbers").copy(),
            self.positions.copy(),
            cell=arrays.pop("cell")[0].copy(),
            pbc=arrays.pop("pbc")[0] != 0,
            info=json.loads(self.sections.info or "{}"),
        )
        for name, value in arrays.items():
            atoms.set_array(name.replace("magmom_vectors", "magmoms"), value.copy())
        return atoms


def all_finite(array: NDArray[Any]) -> bool:
    """Tell whether an array holds neither NaN nor infinity."""
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


def _floats(array: NDArray[Any], old: bytes | None, name: str) -> bytes:
    array = _as_floats(array)
    data = array.tobytes()
    if data == old:
        return old  # the same object, which later comparisons see at once
    _require_finite(array, name)
    return data


def _ints(array: NDArray[Any], old: bytes | None) -> bytes:
    data = (array if array.dtype == _INT else array.astype(_INT)).tobytes()
    return old if old == data else data


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
