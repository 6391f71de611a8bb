"""What a model is given of an Atoms object, frozen."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rootstock.errors import NonFiniteError

_FLOAT, _INT = np.dtype("f8"), np.dtype("i8")


class Inputs(NamedTuple):
    """The bytes of each section of `rootstock.channel.memory.INPUTS` (None: the atoms have none), and their info.

    Two of them are equal exactly if a model sees no difference. Comparing bytes is exact, and for the small arrays of
    most simulations many times faster than comparing arrays.
    """

    positions: bytes
    numbers: bytes
    cell: bytes
    pbc: bytes
    initial_charges: bytes | None
    initial_magmoms: bytes | None
    initial_magmom_vectors: bytes | None
    tags: bytes | None
    info: str

    @property
    def atoms(self) -> int:
        """The number of atoms."""
        return len(self.numbers) // _INT.itemsize


def freeze(atoms: Any) -> Inputs:
    """Return what a model is given of `atoms`.

    Parameters
    ----------
    atoms : ase.Atoms
        Entries of ``atoms.info`` that JSON can hold (numbers, strings, lists, arrays of them) are taken;
        others stay with the caller.

    Raises
    ------
    NonFiniteError
        If a position, the cell, or an initial charge or magnetic moment is NaN or infinite.
    """
    arrays = atoms.arrays
    get = arrays.get
    magmoms = get("initial_magmoms")
    scalar = magmoms is not None and magmoms.ndim == 1
    return Inputs(
        _floats(arrays["positions"], "positions"),
        _ints(arrays["numbers"]),
        _floats(atoms.cell.array, "cell"),
        atoms.pbc.tobytes(),
        _floats(get("initial_charges"), "initial_charges"),
        _floats(magmoms, "initial_magmoms") if scalar else None,
        _floats(magmoms, "initial_magmoms") if not scalar else None,
        _ints(get("tags")),
        _portable_info(atoms.info) if atoms.info else "",
    )


def _floats(array: NDArray[Any] | None, name: str) -> bytes | None:
    if array is None:
        return None
    if array.dtype != _FLOAT:
        array = array.astype(_FLOAT)
    if not np.isfinite(array).all():
        raise NonFiniteError(f"The {name} of the atoms hold NaN or infinity{first_bad(array)}; nothing was computed.")
    return array.tobytes()


def _ints(array: NDArray[Any] | None) -> bytes | None:
    if array is None:
        return None
    return (array if array.dtype == _INT else array.astype(_INT)).tobytes()


def first_bad(array: NDArray[Any]) -> str:
    """Say which atom holds the first number that is not finite, for an array with one row for each of several atoms."""
    bad = np.argwhere(~np.isfinite(array))
    return f" (first at index {', '.join(map(str, bad[0]))})" if bad.size and array.ndim else ""


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
