"""What a method returned, as JSON and arrays, and back: numbers, text, arrays, and lists, tuples and dicts of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rootstock.errors import WorkerProtocolError
from rootstock.worker.channel.blocks import KINDS

_ARRAY, _NUMBER, _TUPLE = "__array__", "__number__", "__tuple__"  # each the only key of a JSON object
_RESERVED = (_ARRAY, _NUMBER, _TUPLE)
MAX_DEPTH = 50  # of lists and dicts in each other, also of arguments


def pack(value: Any, arrays: list[NDArray[Any]], where: str, depth: int = 0) -> Any:
    """Return a value as JSON can hold it; its arrays are added to a list, and numbered.

    Parameters
    ----------
    value : object
    arrays : list of ndarray
    where : str
        What it is, for the error.
    depth : int
        How many lists and dicts hold it.

    Raises
    ------
    TypeError
        If it is, or holds, something that does not travel.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if depth > MAX_DEPTH:
        raise TypeError(f"{where} is nested more than {MAX_DEPTH} levels deep, or holds itself.")
    if isinstance(value, np.generic) or (hasattr(value, "__array__") and not isinstance(value, list | tuple | dict)):
        array = np.asarray(value)
        if array.dtype.kind not in KINDS or isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{where} is an array of {array.dtype}: arrays of numbers and truth values travel.")
        arrays.append(array.astype(array.dtype.newbyteorder("<"), copy=False))
        return {_NUMBER if isinstance(value, np.generic) else _ARRAY: len(arrays) - 1}
    if isinstance(value, str):
        return str.__str__(value)  # str() of a member of an enumeration is its name
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, list | tuple):
        items = [pack(item, arrays, f"{where}[{number}]", depth + 1) for number, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str) or key in _RESERVED]:
            raise TypeError(f"A key of {where} is {odd[0]!r:.50}: keys are strings.")
        return {key: pack(item, arrays, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
    raise TypeError(
        f"{where} is of type {type(value).__name__}: numbers, text, arrays, and lists, tuples and dicts of them travel."
    )


def unpack(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """Return what `pack` was given.

    Parameters
    ----------
    value : object
        Out of JSON.
    arrays : list of ndarray

    Raises
    ------
    WorkerProtocolError
        If it speaks of arrays that are not there.
    """
    try:
        return _unpack(value, arrays)
    except (TypeError, LookupError, ValueError, RecursionError) as error:
        raise WorkerProtocolError(f"Received a value that cannot be read: {type(error).__name__}: {error}.") from error


def _unpack(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and (key := next(iter(value))) in _RESERVED:
        held = value[key]
        if key == _TUPLE:
            return tuple(_unpack(item, arrays) for item in held)
        if type(held) is not int or held < 0:
            raise ValueError("an array has no number")
        return arrays[held] if key == _ARRAY else arrays[held].reshape(1)[0]
    return {key: _unpack(item, arrays) for key, item in value.items()}
