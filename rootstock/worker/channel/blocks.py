"""Arrays of any size behind the fixed layout of the memory: extra results, and what methods return.

They are written to the file and read from it, never mapped: whoever reads can be told too much, and is at worst told
that there is not so much. Their types and shapes travel as JSON.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rootstock.errors import WorkerProtocolError

# Bounds on what one answer may hold, checked before anything is allocated.
MAX_BYTES = 2**32
MAX_ARRAYS = 1000
MAX_HEAD = 2**20  # bytes that describe the arrays of one structure of a batch
_DIMENSIONS = 32
_DTYPE = re.compile(r"[<|][biufc][0-9]{1,2}")
KINDS = "biufc"  # of arrays that travel: truth values and numbers


def size_of(arrays: Sequence[NDArray[Any]]) -> int:
    """Return how many bytes some arrays take."""
    return sum(array.nbytes for array in arrays)


def write_arrays(fd: int, at: int, arrays: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """Write arrays to the file, which grows as it must, and return how they are described.

    Parameters
    ----------
    fd : int
    at : int
        Where the first one begins.
    arrays : sequence of ndarray

    Raises
    ------
    ValueError
        If they are more than may travel.
    OSError
        If there is no memory for them.
    """
    if size_of(arrays) > MAX_BYTES or len(arrays) > MAX_ARRAYS:
        raise ValueError(
            f"{len(arrays)} arrays of {size_of(arrays) / 2**30:.1f} GB in all are more than a worker can hand over: "
            f"{MAX_ARRAYS} of {MAX_BYTES / 2**30:.0f} GB."
        )
    end = at
    for array in arrays:
        data = np.asarray(array, order="C").reshape(-1).view("u1")
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data.data[done:], end + done)
        end += len(data)
    return {"at": at, "arrays": [[array.dtype.str, list(array.shape)] for array in arrays]}


def read_arrays(fd: int, content: Any, begin: int) -> list[NDArray[Any]]:
    """Read the arrays that the other end describes.

    Parameters
    ----------
    fd : int
    content : dict
        As `write_arrays` returns it.
    begin : int
        Where the first one may begin.

    Raises
    ------
    WorkerProtocolError
        If it describes something else, or more than the file holds.
    """
    try:
        at, described = content["at"], [(_dtype(dtype), _shape(shape)) for dtype, shape in content["arrays"]]
        total = sum(dtype.itemsize * prod(shape) for dtype, shape in described)
        if len(described) > MAX_ARRAYS or total > MAX_BYTES:
            raise ValueError("more than may travel")
        if type(at) is not int or at < begin or (total and at > os.fstat(fd).st_size - total):
            raise ValueError("they do not lie where they may")
    except (KeyError, TypeError, ValueError) as error:
        raise WorkerProtocolError(f"Received arrays that cannot be read: {error}: {content!r:.200}.") from error
    arrays = []
    for dtype, shape in described:
        array = np.empty(shape, dtype)
        data = array.reshape(-1).view("u1")
        _read(fd, at, data)
        at += len(data)
        arrays.append(array)
    return arrays


def write_block(fd: int, at: int, content: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> int:
    """Write arrays with their description before them, and return where the next block begins.

    Parameters
    ----------
    fd, at, arrays
        As of `write_arrays`.
    content : dict
        What else is told of them.

    Raises
    ------
    ValueError, OSError
        As `write_arrays`; also if the description is too long.
    """
    longest = len(json.dumps({**content, "at": 2**62, "arrays": [[a.dtype.str, a.shape] for a in arrays]}))
    if longest > MAX_HEAD:
        raise ValueError(f"The description of {len(arrays)} arrays is longer than {MAX_HEAD} bytes.")
    described = write_arrays(fd, at + 8 + longest, arrays)
    head = json.dumps({**content, **described}).encode().ljust(longest)
    written = os.pwrite(fd, longest.to_bytes(8, "little") + head, at)
    if written != 8 + longest:
        raise OSError(errno.ENOSPC, "There is no memory for extra results")
    return -(-(at + 8 + longest + size_of(arrays)) // 64) * 64


def read_block(fd: int, at: int, begin: int) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Read what `write_block` wrote.

    Parameters
    ----------
    fd : int
    at : int
        Where it begins, as the other end says.
    begin : int
        Where it may.

    Raises
    ------
    WorkerProtocolError
        If it is no block.
    """
    if not begin <= at <= os.fstat(fd).st_size:
        raise WorkerProtocolError(f"Received {at} as the place of extra results.")
    size = np.zeros(1, "<u8")
    _read(fd, at, size.view("u1"))
    if size[0] > MAX_HEAD:
        raise WorkerProtocolError(f"Received extra results with a description of {size[0]} bytes.")
    head = np.empty(int(size[0]), "u1")
    _read(fd, at + 8, head)
    try:
        content = json.loads(head.tobytes())
    except (ValueError, RecursionError) as error:
        raise WorkerProtocolError(f"Received extra results whose description is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise WorkerProtocolError("Received extra results whose description is no JSON object.")
    return content, read_arrays(fd, content, begin)


def _read(fd: int, at: int, data: NDArray[Any]) -> None:
    done = 0
    while done < len(data):
        read = os.preadv(fd, [data.data[done:]], at + done)
        if not read:
            raise WorkerProtocolError("The shared memory ends before the arrays that it is said to hold.")
        done += read


def _dtype(text: Any) -> np.dtype[Any]:
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise ValueError(f"{text!r:.50} is no type of numbers")
    return np.dtype(text)


def _shape(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, list) or len(sizes) > _DIMENSIONS:
        raise ValueError("a shape is no list")
    if not all(type(size) is int and 0 <= size <= MAX_BYTES for size in sizes):
        raise ValueError("a shape holds something else than sizes")
    if prod(max(size, 1) for size in sizes) > MAX_BYTES:  # numpy refuses it, also where one of them is 0
        raise ValueError("a shape is too large")
    return tuple(sizes)
