"""Files in extended XYZ with every digit: ASE reads from them what was written, bit for bit.

ASE's own writer rounds positions and forces to eight decimals. Names, types and quotes are ASE's.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.constraints import FixAtoms, FixCartesian
from ase.io.extxyz import key_val_str_to_dict, parse_properties
from ase.io.formats import open_with_compression
from ase.spacegroup import Spacegroup
from ase.stress import voigt_6_to_full_3x3_stress

from rootstock.errors import ConfigurationError

OF_ATOMS = ("energies", "forces", "stresses", "charges", "magmoms", "born_effective_charges")
# A reader takes these for something else than an entry of `atoms.info` or an array.
_RESERVED = {"Lattice", "Properties", "pbc", "symbols", "move_mask", *all_properties}
_ALIASES = {"symbols": "species", "positions": "pos", "charges": "charge"}
_KINDS = {"f": ("R", "%.17g"), "i": ("I", "%d"), "u": ("I", "%d"), "b": ("L", "%s"), "U": ("S", "%s"), "O": ("S", "%s")}
_INT32 = np.iinfo(np.int32)  # ASE reads whole numbers of atoms into these
_BARE = re.compile(r"[A-Za-z0-9_.:/@+-]+")


def write_extxyz(path: Path, images: Iterable[Atoms], *, append: bool = False) -> None:
    """Write structures with their results.

    Parameters
    ----------
    path : Path
        The file; it is compressed if it ends with ``.gz``, ``.bz2`` or ``.xz``.
    images : iterable of ase.Atoms
    append : bool
        Whether to add to what the file holds.

    Raises
    ------
    ConfigurationError
        If the format cannot hold a structure; see `frame`.
    OSError
        If the file cannot be written.
    """
    with open_with_compression(os.fspath(path), "ab" if append else "wb") as file:
        for atoms in images:
            file.write(frame(atoms).encode())


def frame(atoms: Atoms) -> str:
    """Return the text of a structure with its results.

    Parameters
    ----------
    atoms : ase.Atoms
        Of its constraints, `FixAtoms` and `FixCartesian` are written.

    Raises
    ------
    ConfigurationError
        If ASE would read anything else from the text. It names the array or the entry of ``atoms.info``.
    """
    results = atoms.calc.results if atoms.calc is not None else {}
    arrays = {name: array for name, array in atoms.arrays.items() if name not in ("numbers", "positions")}
    for name in sorted({*atoms.info, *arrays} & _RESERVED):
        raise _refused(name, "readers take it for a result, or for an entry of the format's own")
    columns = [("symbols", "S", "%s", [atoms.get_chemical_symbols()]), _column("positions", atoms.positions)]
    if (free := _movable(atoms)) is not None:
        columns.append(_column("move_mask", free))
    columns += [_column(name, array) for name, array in arrays.items()]
    columns += [_column(name, np.asarray(results[name])) for name in OF_ATOMS if name in results]
    names = tuple((_ALIASES.get(name, name), name, kind, len(lists)) for name, kind, _, lists in columns)
    words = [f"Properties={_properties(names)}"]
    if atoms.cell.any():
        words.insert(0, f'Lattice="{_joined(atoms.cell.array.ravel())}"')
    words += [_entry(name, value) for name, value in atoms.info.items()]
    words += [_entry(name, results[name]) for name in all_properties if name in results and name not in OF_ATOMS]
    words.append(f'pbc="{_joined(atoms.pbc)}"')
    row = " ".join(form for _, _, form, lists in columns for _ in lists) + "\n"
    rows = map(row.__mod__, zip(*(values for *_, lists in columns for values in lists), strict=True))
    return f"{len(atoms)}\n{' '.join(words)}\n{''.join(rows)}"


def _movable(atoms: Atoms) -> Any:
    """Return which atoms, or which of their coordinates, are free to move; None if all are."""
    kept = [constraint for constraint in atoms.constraints if isinstance(constraint, FixAtoms | FixCartesian)]
    free = np.ones((len(atoms), 3))
    for constraint in kept:
        constraint.adjust_forces(atoms, free)
    if free.all():
        return None
    return free.astype(bool)[:, slice(None) if any(isinstance(each, FixCartesian) for each in kept) else 0]


def _column(name: str, array: Any) -> tuple[str, str, str, list[list[Any]]]:
    """Return the name of an array, its type in the file, the format of a value, and the values, column by column."""
    kind, form = _KINDS.get(array.dtype.kind, ("", ""))
    no_place = isinstance(array, np.ma.MaskedArray) or array.ndim not in (1, 2) or 0 in array.shape[1:]
    if not kind or no_place or (kind == "R" and array.itemsize > 8):
        raise _refused(name, f"it is an array of shape {array.shape} and type {array.dtype}")
    if kind == "I" and array.size and not _INT32.min <= array.min() <= array.max() <= _INT32.max:
        raise _refused(name, "it holds whole numbers of more than 32 bits")
    if kind == "S" and not all(isinstance(text, str) and text.split() == [text] for text in array.flat):
        raise _refused(name, "it holds something else than words without spaces")
    if kind == "L":
        array = np.where(array, "T", "F")
    return name, kind, form, array.reshape(len(array), -1 if array.size else 1).T.tolist()


@functools.lru_cache
def _properties(columns: tuple[tuple[str, str, str, int], ...]) -> str:
    """Return the entry that names the columns."""
    for alias, name, kind, count in columns:
        text = f"{alias}:{kind}:{count}"
        try:
            read = key_val_str_to_dict(f"Properties={text}") == {"Properties": text}
            read = read and parse_properties(text)[0] == {alias: (name, count)} and text.isprintable()
        except ValueError:
            read = False
        if not read:
            raise _refused(name, "readers take the name for something else")
    text = ":".join(f"{alias}:{kind}:{count}" for alias, _, kind, count in columns)
    try:
        parse_properties(text)
    except ValueError as error:  # such as an array x of three columns beside one named x0
        raise _refused(text, str(error)) from error
    return text


def _entry(name: Any, value: Any) -> str:
    """Return an entry of the second line; those of texts are kept, for many structures have the same."""
    return _of_text(name, value) if type(name) is type(value) is str else _of_value(name, value)


@functools.lru_cache
def _of_text(name: str, value: str) -> str:
    return _of_value(name, value)


def _of_value(name: Any, value: Any) -> str:
    """Return an entry as ASE writes it if that is read back, and otherwise as JSON."""
    if isinstance(value, Spacegroup):
        value = value.symbol
    if name == "stress" and np.shape(value) == (6,):
        value = voigt_6_to_full_3x3_stress(value)
    plain = _plain(value)
    if isinstance(name, str):
        for text in _spellings(name, value, plain):
            entry = f"{_quoted(name)}={_quoted(text)}"
            # Digits of a number are read as they are: a look at one of its shape is enough, and is taken once.
            known = _is_float(value) and not text.startswith("_") and _takes(name, np.shape(value))
            if known or (entry.isprintable() and _is_read(entry, name, plain)):
                return entry
    raise _refused(name, f"a value such as {str(value)[:60]!r} is not read back")


def _spellings(name: str, value: Any, plain: Any) -> Iterator[str]:
    if isinstance(plain, str):
        if plain.isascii():  # files are read in the encoding of the reader's locale
            yield plain
    elif isinstance(plain, bool | int | float):
        yield _joined(np.array([plain]))
    elif isinstance(value, np.ndarray) and (name in ("stress", "virial") or (value.ndim == 1 and value.size > 1)):
        yield _joined(value.ravel(order="F"))
    try:
        yield f"_JSON {json.dumps(plain)}"
    except (TypeError, ValueError):  # what JSON has no words for; what holds itself
        return


@functools.lru_cache
def _takes(name: str, shape: tuple[int, ...]) -> bool:
    numbers = np.full(shape, 0.5)
    entry = f"{_quoted(name)}={_quoted(_joined(numbers.ravel()))}"
    return entry.isprintable() and _is_read(entry, name, numbers.tolist())


def _is_read(entry: str, name: str, plain: Any) -> bool:
    try:
        read = _plain(key_val_str_to_dict(entry))
        # JSON's list of 1 and 0.5 is read as an array: 1.0 and 0.5. NaN equals nothing.
        return repr(read) == repr({name: plain}) or ("_JSON" in entry and bool(read == {name: plain}))
    except (ValueError, TypeError, IndexError):  # the last for a name that is empty
        return False


def _plain(value: Any) -> Any:
    """Return a value with lists in place of arrays and tuples, and numbers of Python in place of numpy's."""
    if isinstance(value, np.ma.MaskedArray):
        return value  # which is written in no way
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _is_float(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is np.ndarray and value.dtype == float)


def _joined(values: Any) -> str:
    return " ".join("FT"[value] if value is True or value is False else repr(value) for value in values.tolist())


def _quoted(text: str) -> str:
    if _BARE.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _refused(name: Any, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"A file in extended XYZ cannot hold {name!r} of this structure: {why}.",
        "Take it out of atoms.info or atoms.arrays, or give it another name.",
    )
