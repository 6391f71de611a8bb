"""Where each frame of a file in extended XYZ is, found in one pass that keeps no text; and what its bytes mean."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.extxyz import read_xyz

from rootstock.errors import ConfigurationError
from rootstock.root.plain_files import MEGABYTE, open_regular
from rootstock.simulations.runs.input_table import InputTable

_LONGEST = 1000  # bytes of a line that holds one number
_BETWEEN = 10_000  # structures between two reports
_AT_ONCE = 1000  # lines that are held
_VECTORS = b"VEC"  # lines behind the atoms that hold the cell, in ADF's files


class _Hashed(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._file.readinto(buffer)
        if count:
            self.hash.update(memoryview(buffer)[:count])
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def find_frames(path: Path, report: Callable[[str], object]) -> InputTable:
    """Return where the frames of a file in extended XYZ are, without labels.

    Parameters
    ----------
    path : Path
    report : callable
        Is told how many were found, now and then.

    Raises
    ------
    ConfigurationError
        If the file is empty, is cut short, or has something else where a number of atoms belongs. It names the frame.
    OSError
        If it cannot be read.
    """
    hashed = _Hashed(open_regular(path))
    with io.BufferedReader(hashed, MEGABYTE) as file:
        frames = _walk(file, path, report)
    frames.sha256 = hashed.hash.hexdigest()
    return frames


def read_frame(data: bytes) -> Atoms:
    """Return what ASE reads from the bytes of a frame.

    Parameters
    ----------
    data : bytes

    Raises
    ------
    ValueError
        If they are no frame. It says why.
    """
    try:
        # Line ends and letters as where ASE opens the file.
        atoms: Atoms = next(read_xyz(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"), 0))
    except Exception as error:  # whatever the text leads to
        raise ValueError(" ".join(f"{type(error).__name__}: {error}".split())) from error
    return atoms


def _walk(file: io.BufferedIOBase, path: Path, report: Callable[[str], object]) -> InputTable:
    frames = InputTable()
    position = line = 0  # of the next line
    vectors = 0
    while header := file.readline(_LONGEST):
        line += 1
        if len(frames) and header.lstrip().startswith(_VECTORS) and vectors < 3:
            vectors += 1
            position += len(header)
            frames.lengths[-1] += len(header)
            frames.checks[-1] = zlib.crc32(header, frames.checks[-1])
            continue
        if not header.strip():
            _check_rest(file, path, len(frames), line)
            break
        count = _count(header, path, len(frames), line)
        lines, size, check = _pass(file, count + 1, header)
        if lines < count + 1:
            raise ConfigurationError(
                f"{path}: frame {len(frames)} (line {line}) is cut short: the file ends after {max(lines - 1, 0)} of "
                f"its {count} atoms.",
                "Copy the file again, or remove that frame.",
            )
        frames.offsets.append(position)
        frames.lengths.append(size)
        frames.atoms.append(count)
        frames.checks.append(check)
        vectors = 0
        position += size
        line += lines
        if not len(frames) % _BETWEEN:
            report(f"indexing {path.name}: {len(frames):,} structures")
    if not any(frames.atoms):
        what = "holds no atoms" if os.path.getsize(path) else "is empty"
        raise ConfigurationError(f"Cannot read {path}: the file {what}.")
    return frames


def _pass(file: io.BufferedIOBase, count: int, before: bytes) -> tuple[int, int, int]:
    """Return how many lines there are of those that are wanted, their length with what was before, and its CRC-32."""
    lines, size, check = 0, len(before), zlib.crc32(before)
    while block := list(itertools.islice(file, min(count - lines, _AT_ONCE))):
        text = b"".join(block)
        lines += len(block)
        size += len(text)
        check = zlib.crc32(text, check)
    return lines, size, check


def _count(header: bytes, path: Path, number: int, line: int) -> int:
    """Return the number of atoms that the first line of a frame says."""
    try:
        count = int(header)
    except ValueError:
        count = -1
    if count >= 0:  # one without atoms is a structure that fails
        return min(count, sys.maxsize - 1)  # of which nobody has as many
    shown = header.strip().decode(errors="replace")[:60]
    before = f" The number of atoms of frame {number - 1} may be wrong." if number else ""
    raise ConfigurationError(
        f"{path}: frame {number} (line {line}) does not begin with a number of atoms, but with {shown!r}.{before}",
        "If the file is in another format, name that with --format; `ase info --formats` lists all formats.",
    )


def _check_rest(file: io.BufferedIOBase, path: Path, number: int, line: int) -> None:
    """Refuse frames behind an empty line: ASE takes it for the end of the file."""
    while block := file.read(MEGABYTE):
        if block.strip():
            raise ConfigurationError(
                f"{path}: an empty line follows {f'frame {number - 1}' if number else 'no frame'} (line {line}), and "
                "more text after it. Readers stop there.",
                "Remove the empty line, or write the number of atoms of the frame before as it is.",
            )
