"""What a model is given of an Atoms object, kept to see what changes."""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes
from numpy.typing import NDArray

from rootstock.errors import ConfigurationError, NonFiniteError
from rootstock.worker.channel.frames import MAX_PAYLOAD
from rootstock.worker.channel.info import decode_info, encode_info
from rootstock.worker.channel.memory import INPUTS

_FLOAT, _INT = np.dtype("f8"), np.dtype("i8")
_MAX_INFO = MAX_PAYLOAD // 2 - 1024  # as text in a payload it may grow: quotation marks are written as two characters
_SMALL = 4096  # numbers; a larger product BLAS might spread over threads
_NUMBERS = "biuf"
# For each array of ASE's the kinds of types, and the shapes; None stands for the number of atoms.
_EXPECTED: dict[str, tuple[str, tuple[tuple[int | None, ...], ...]]] = {
    "positions": (_NUMBERS, ((None, 3),)),
    "numbers": (_NUMBERS, ((None,),)),
    "cell": (_NUMBERS, ((3, 3),)),
    "pbc": ("b", ((3,),)),
    "initial_charges": (_NUMBERS, ((None,),)),
    "initial_magmoms": (_NUMBERS, ((None,), (None, 3))),
    "tags": (_NUMBERS, ((None,),)),
}


class Rest(NamedTuple):
    """What a model is given beside positions: the bytes of each section (None: the atoms have none), and the info.

    The fields are those of `rootstock.worker.channel.memory.INPUTS` after the first.
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

    def moved(self) -> Inputs:
        """Return inputs for the same atoms elsewhere: what is the same then, apart from positions, is not looked at."""
        moved = Inputs()
        moved.positions, moved.rest = np.empty_like(self.positions), self.rest
        return moved

    def update(self, atoms: Atoms) -> None:
        """Take over what `atoms` are now.

        Parameters
        ----------
        atoms : ase.Atoms
            Entries of ``atoms.info`` that `rootstock.worker.channel.info.encode_info` can write are taken; others stay
            with the caller.

        Raises
        ------
        ConfigurationError
            If an array has a shape or a type that means nothing, or if the entries of ``atoms.info`` are larger than
            a worker can be told. Nothing is taken then.
        NonFiniteError
            If a position, the cell, or an initial charge or magnetic moment is NaN or infinite. Nothing is taken then.
        """
        old = self.rest
        try:
            positions = _as_floats(atoms.arrays["positions"])
            same = len(positions) == len(self.positions) and positions.data == self.positions.data and self.stamp
            if not same:
                _require_finite(positions, "positions")
            rest = self._rest(atoms, old)
        except (AttributeError, KeyError, TypeError, ValueError):
            _check_arrays(atoms)  # says it in words
            raise
        # A cell or info that changes in every step needs no look at the arrays.
        if positions.shape != self.positions.shape or (rest and (rest.numbers != old.numbers or rest[2:7] != old[2:7])):
            _check_arrays(atoms)
        if not same:
            self.stamp = object()
            if positions.shape != self.positions.shape:
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
            if cell.shape != (3, 3):
                raise ValueError
            _require_finite(cell, "cell")
        rest = Rest(
            numbers,
            cell_data,
            pbc,
            None if charges is None else _floats(charges, "initial_charges"),
            None if magmoms is None else _floats(magmoms, "initial_magmoms"),
            None if vectors is None else _floats(vectors, "initial_magmoms"),
            None if tags is None else _ints(tags),
            _info(atoms.info) if atoms.info else "",
        )
        return None if rest == old else rest

    def changes_to(self, atoms: Atoms) -> list[str]:
        """Return what differs in `atoms`; see `changes`."""
        try:
            positions = _as_floats(atoms.arrays["positions"])
            same = len(positions) == len(self.positions) and positions.data == self.positions.data
            return changes(self.state, (self.stamp if same else None, self._rest(atoms, self.rest) or self.rest))
        except (AttributeError, KeyError, TypeError, ValueError):
            _check_arrays(atoms)
            raise

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
            info=decode_info(self.rest.info),
        )
        for name, value in arrays.items():
            atoms.set_array(name.replace("magmom_vectors", "magmoms"), value.copy())
        return atoms


def changes(one: State, other: State) -> list[str]:
    """Return what differs between two inputs, by ASE's names for changes: there are none for tags and info.

    Parameters
    ----------
    one, other : State
    """
    pairs = zip(("positions", *Rest._fields), (one[0], *one[1]), (other[0], *other[1]), strict=True)
    names = [name.replace("magmom_vectors", "magmoms") for name, a, b in pairs if a != b]
    return [name for name in all_changes if name in names]


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


def _check_arrays(atoms: Atoms) -> None:
    """Refuse arrays that ASE's methods would not have let in: somebody wrote them into ``atoms.arrays``."""
    arrays: dict[str, Any] = {"cell": getattr(atoms.cell, "array", atoms.cell), "pbc": atoms.pbc, **atoms.arrays}
    shape: tuple[int, ...] = np.shape(arrays.get("positions", ()))
    count, problem = (shape[0] if shape else 0), ""
    for name, (kinds, shapes) in _EXPECTED.items():
        array = arrays.get(name)
        if array is None:
            problem = "" if name.startswith("initial_") or name == "tags" else "it is missing"
        elif not isinstance(array, np.ndarray):
            problem = f"it is a {type(array).__name__}, and no array of numpy"
        elif array.dtype.kind not in kinds:
            problem = f"it is of type {array.dtype}, and must hold {'truth values' if kinds == 'b' else 'numbers'}"
        elif array.shape not in (wanted := [tuple(count if n is None else n for n in shape) for shape in shapes]):
            problem = f"it has the shape {array.shape}, and must have {' or '.join(map(str, wanted))}"
        elif name in ("numbers", "tags") and not _whole(array):
            problem = "it holds numbers that are not whole"
        if problem:
            setter = "" if name == "numbers" else f"atoms.set_{name.replace('magmoms', 'magnetic_moments')}(...)"
            raise ConfigurationError(
                f"The {name} of the atoms cannot be used: {problem}.",
                f"Set them with {setter}, which checks them." if setter else "Make other atoms: Atoms(numbers=...)",
            )


def _whole(array: NDArray[Any]) -> bool:
    return array.dtype.kind != "f" or bool((array == np.floor(array)).all())


def _as_floats(array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype == _FLOAT and array.flags.c_contiguous:
        return array
    if array.dtype.kind not in _NUMBERS:  # numpy would convert texts and complex numbers
        raise TypeError
    return np.ascontiguousarray(array, dtype=_FLOAT)


def _floats(array: NDArray[Any], name: str) -> bytes:
    array = _as_floats(array)
    _require_finite(array, name)
    return array.tobytes()


def _ints(array: NDArray[Any]) -> bytes:
    if array.dtype == _INT:
        return array.tobytes()
    if array.dtype.kind not in _NUMBERS or not _whole(array):
        raise TypeError
    return array.astype(_INT).tobytes()


def _info(info: dict[str, Any]) -> str:
    entries = encode_info(info)
    text = f"{{{', '.join(entries.values())}}}" if entries else ""
    if len(text) > _MAX_INFO:
        name = max(entries, key=lambda key: len(entries[key]))
        raise ConfigurationError(
            f"atoms.info is {len(text) / 2**20:.0f} MB, most of it its entry {name!r}: a worker can be told "
            f"{_MAX_INFO / 2**20:.0f} MB.",
            f"Take that entry out, and keep it elsewhere: big = atoms.info.pop({name!r})",
        )
    return text
