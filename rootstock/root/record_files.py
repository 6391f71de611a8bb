"""Records of a root as JSON files: dataclasses with types, written and read again.

A record of a later version may have keys that this version knows nothing of; they are left out. What this version
needs must be there, and be of the right kind: nothing that comes from `read_record` surprises whoever uses it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from rootstock import __version__
from rootstock.errors import LaterRecordError, RootError, RootstockError
from rootstock.root.plain_files import RECORD_LIMIT, UnfitFileError, parse_json, read_bytes
from rootstock.root.reachability import refusal

_T = TypeVar("_T")
# What the JSON of a type is in Python, and in words.
_KINDS: Mapping[Any, tuple[type | tuple[type, ...], str]] = {
    str: (str, "a string"), bool: (bool, "true or false"), int: (int, "a whole number"),
    float: ((int, float), "a number"), list: (list, "a list"), tuple: (list, "a list"), dict: (dict, "an object"),
    Mapping: (dict, "an object"),
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """Base of dataclasses of what JSON can hold: texts, numbers, lists, objects, and further dataclasses."""

    def to_json(self) -> str:
        """Return the text of its file."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def read_record(cls: type[_T], path: Path, hint: str) -> _T | None:
    """Return the record in a file; None where there is no file.

    Parameters
    ----------
    cls : type
        A dataclass.
    path : Path
    hint : str
        What to do about a file that is damaged.

    Raises
    ------
    RootError
        If you may not read it, or it holds no such record. It names the key that is missing or wrong.
    """
    data: Any = None
    if (content := read_if_there(path, hint)) is None:
        return None
    try:
        data = parse_json(content)
        return parse_record(cls, data)
    except ValueError as error:
        if writer := _later_version(data):
            hint = f"rootstock {writer} wrote it, this is {__version__}: module load rootstock/{writer}"
            raise LaterRecordError(f"Cannot read {path}: {error}.", hint) from error
        raise RootError(f"Cannot read {path}: {error}.", hint) from error


def read_if_there(path: Path, hint: str) -> bytes | None:
    """Return what a file holds that a program wrote, such as a record or a lock; None where there is no file.

    Parameters
    ----------
    path : Path
    hint : str
        What to do about a file that is none that a program would write.

    Raises
    ------
    RootError
        If you may not read it, or it is such a file.
    """
    try:
        return read_bytes(path, RECORD_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnfitFileError as error:
        raise RootError(f"Cannot read {path}: {error.strerror}.", hint) from error
    except OSError as error:
        raise refusal(path, error) from error


def read_each(
    root: Path, paths: Iterable[Path], read: Callable[[Path], _T | None], damaged: dict[str, RootstockError] | None
) -> Iterator[_T]:
    """Yield the records in files, without those that are gone meanwhile.

    Parameters
    ----------
    root : Path
    paths : iterable of Path
        Files under it.
    read : callable
        As `read_record`, given the path.
    damaged : dict or None
        Takes the errors, by the path under the root; None: the first one ends it.

    Raises
    ------
    RootError
        If one cannot be read, and `damaged` is None.
    """
    for path in paths:
        try:
            record = read(path)
        except RootError as error:
            if damaged is None:
                raise
            damaged[path.relative_to(root).as_posix()] = error
        else:
            if record is not None:
                yield record


def _later_version(data: Any) -> str:
    """Return the version of Rootstock that a record names as its writer, if that is later than this one."""
    from packaging.version import InvalidVersion, Version  # needed for a damaged record only

    writer = data.get("rootstock") if isinstance(data, dict) else None
    with contextlib.suppress(InvalidVersion):
        if isinstance(writer, str) and Version(writer) > Version(__version__):
            return writer
    return ""


def parse_record(cls: type[_T], data: Any, where: str = "") -> _T:
    """Return the record that JSON describes.

    Parameters
    ----------
    cls : type
        A dataclass.
    data
        What `json.loads` returned.
    where : str
        The key that holds `data`, for messages; empty at the top.

    Raises
    ------
    ValueError
        If it describes none. It names the key that is missing or wrong.
    """
    arguments = {}
    _check(dict, data, where)
    for name, (kind, needed) in _fields(cls).items():  # type: ignore[arg-type]  # mypy: a class may have no hash
        if name in data:
            arguments[name] = _value(kind, data[name], f"{where}{'.' if where else ''}{name}")
        elif needed:
            raise ValueError(f"{where or 'it'} has no {name!r}")
    return cls(**arguments)


@functools.cache
def _fields(cls: Any) -> dict[str, tuple[Any, bool]]:
    """Return for each key of a record what it holds, and whether it must be there."""
    kinds = get_type_hints(cls)
    return {
        field.name: (kinds[field.name], field.default is MISSING and field.default_factory is MISSING)
        for field in fields(cls)
    }


def _value(kind: Any, data: Any, key: str) -> Any:
    """Return what a record holds of a value of JSON."""
    origin, inside = get_origin(kind) or kind, get_args(kind)
    if origin is UnionType:  # of something and None
        return None if data is None else _value(inside[0], data, key)
    if is_dataclass(origin):
        return parse_record(kind, data, key)
    if kind is Any:
        return data
    _check(origin, data, key)
    if isinstance(data, dict) and inside:
        return {name: _value(inside[1], item, f"{key}.{name}") for name, item in data.items()}
    if isinstance(data, list) and inside:
        return origin(_value(inside[0], item, f"{key}[{number}]") for number, item in enumerate(data))
    return data


def _check(kind: Any, data: Any, key: str) -> None:
    types, words = _KINDS[kind]
    if not isinstance(data, types) or (isinstance(data, bool) and kind is not bool):
        raise ValueError(f"{key or 'it'} must be {words}, not {reprlib.repr(data)}")
