"""The index of a part: one record of fixed size for each result or failure, which costs only itself when damaged."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rootstock.errors import ConfigurationError
from rootstock.root.plain_files import open_regular

ENTRY = np.dtype(
    [
        ("status", "<u4"),
        ("content", "<u4"),  # CRC-32 of the frame, or of the line of the failure
        ("index", "<u8"),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("more", "<u4"),  # see `entry`
        ("check", "<u4"),  # CRC-32 of all bytes before
    ]
)
_PACKED = struct.Struct("<IIQQQI")  # the same without `check`
_CHECKED = _PACKED.size
_BLOCK = 2**16  # entries that are read at once: their arrays stay in the processor's cache
_FEW = 256  # for which numpy's calls take longer than Python's
_ONES = np.uint32(0xFFFFFFFF)


class Status(IntEnum):
    """What is recorded of a structure.

    Attributes
    ----------
    MISSING
        Nothing.
    DONE
        Its results.
    NOT_CONVERGED
        The last step of a relaxation that did not reach its aim.
    FAILED_STRUCTURE
        A failure that is final.
    FAILED_RESOURCE
        A failure that is final on GPUs of one kind.
    PARTIAL
        Where a relaxation was that goes on from there. Its structure is still missing.
    """

    MISSING = 0
    DONE = 1
    NOT_CONVERGED = 2
    FAILED_STRUCTURE = 3
    FAILED_RESOURCE = 4
    PARTIAL = 5


WITH_RESULTS = (Status.DONE, Status.NOT_CONVERGED)
WITH_FRAME = (*WITH_RESULTS, Status.PARTIAL)


@dataclass(frozen=True)
class Read:
    """Entries of one part that are whole, in the order in which they were written.

    Attributes
    ----------
    part : str
        The name of the part, without ending.
    entries : numpy.ndarray
        Of type `ENTRY`.
    places : numpy.ndarray
        Where in the index each of them begins.
    damaged : int
        How many others there are.
    """

    part: str
    entries: NDArray[Any]
    places: NDArray[np.int64]
    damaged: int


def _table() -> NDArray[np.uint32]:
    """Return the CRC-32 of each byte, as zlib computes it, without what goes in before and comes out after."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, values >> 1 ^ np.uint32(0xEDB88320), values >> 1)
    return values


_TABLE = _table()


def entry(index: int, status: Status, offset: int, content: bytes, more: int = 0) -> bytes:
    """Return the record of a frame or of the line of a failure.

    Parameters
    ----------
    index : int
    status : Status
    offset : int
        Where `content` begins in its file.
    content : bytes
        The frame or the line.
    more : int
        With a frame of a relaxation, how many steps it took; of a failure for lack of memory, the `gpu_number` of what
        lacked it.
    """
    values = (status, zlib.crc32(content), index, offset, len(content), more)
    record = _PACKED.pack(*values)
    return record + zlib.crc32(record).to_bytes(4, "little")


def gpu_number(gpu: str) -> int:
    """Return the number by which entries name a kind of GPU.

    Parameters
    ----------
    gpu : str
    """
    return zlib.crc32(gpu.encode()) if gpu else 0


def read_index(folder: Path, part: str, structures: int) -> Iterator[Read]:
    """Yield the whole entries of a part, a block at a time.

    Parameters
    ----------
    folder : Path
    part : str
        The name of the part, without ending.
    structures : int
        How many structures the run has: an entry of another one is damaged.

    Raises
    ------
    ConfigurationError
        If the index cannot be read: what it holds must not be computed again.
    """
    path, frames, failures = folder / f"{part}.index", -1, -1
    try:
        with open_regular(path) as file:
            begin = 0
            while len(block := read_at(file.fileno(), begin, _BLOCK * ENTRY.itemsize)) >= ENTRY.itemsize:
                entries = np.frombuffer(block, ENTRY, len(block) // ENTRY.itemsize)  # without one that is cut off
                if frames < 0:
                    frames = _size(folder / f"{part}.extxyz")
                if failures < 0 and (entries["status"] > Status.NOT_CONVERGED).any():
                    failures = _size(folder / f"{part}.failed.jsonl")
                good = _whole(entries, frames, max(failures, 0), structures)
                places = begin + ENTRY.itemsize * np.flatnonzero(good)
                yield Read(part, entries[good], places, len(good) - len(places))
                begin += entries.nbytes
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> ConfigurationError:
    """Return the error of a file of a run that cannot be read.

    Parameters
    ----------
    path : Path
    error : OSError
    """
    return ConfigurationError(f"Cannot read {path}: {error.strerror}.", "Make it readable, and run the command again.")


def _size(path: Path) -> int:
    """Return the size of a file; opened, for on NFS that is what asks the server."""
    try:
        with open_regular(path) as file:
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise unreadable(path, error) from error


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Return bytes of a file; fewer where it ends.

    Parameters
    ----------
    descriptor, offset, length : int
    """
    content = os.pread(descriptor, length, offset)
    while 0 < len(content) < length and (more := os.pread(descriptor, length - len(content), offset + len(content))):
        content += more
    return content


def _whole(entries: NDArray[Any], frames: int, failures: int, structures: int) -> NDArray[np.bool_]:
    """Tell which entries are as they were written, and lie within their files."""
    status = entries["status"]
    size = np.where(np.isin(status, WITH_FRAME), frames, failures).astype(np.uint64)
    good = (status >= Status.DONE) & (status <= Status.PARTIAL) & (entries["index"] < structures)
    good &= (entries["length"] > 0) & (entries["offset"] <= size)
    good &= entries["length"] <= size - np.minimum(entries["offset"], size)
    return np.asarray(good & (checks_of(entries) == entries["check"]))


def checks_of(entries: NDArray[Any]) -> NDArray[np.uint32]:
    """Return the CRC-32 that each entry should have, as zlib computes it.

    Parameters
    ----------
    entries : numpy.ndarray
        Of type `ENTRY`.
    """
    if len(entries) < _FEW:
        rows = memoryview(entries.tobytes())
        starts = range(0, len(rows), ENTRY.itemsize)
        return np.array([zlib.crc32(rows[start : start + _CHECKED]) for start in starts], np.uint32)
    columns = np.ascontiguousarray(entries).view(np.uint8).reshape(len(entries), ENTRY.itemsize).T
    crc = np.full(len(entries), _ONES)
    for column in columns[:_CHECKED]:
        crc = _TABLE[(crc ^ column) & 0xFF] ^ (crc >> 8)
    return np.asarray(crc ^ _ONES)
