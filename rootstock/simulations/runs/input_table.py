"""Of each structure of a run: where its text is, how many atoms it has, and which frame of which file it is."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rootstock.errors import ConfigurationError
from rootstock.root.plain_files import open_regular

INDEX, CONVERTED = "input.npz", "input.extxyz"
_NUMBERED = re.compile(r"(.*[@=])(0|[1-9]\d{0,17})", re.DOTALL)
_ARRAYS = ("offsets", "lengths", "atoms", "checks", "sources", "frames")
_MAY_BE_EMPTY = ("sources", "frames")
_ROOM = 2**16  # bytes of the file beside its arrays
_HINT = "Begin anew, in another run folder; the results so far are in the part-*.extxyz of this one."


@dataclass
class InputTable:
    """Where the structures of a run are; in the order of their indices.

    Attributes
    ----------
    offsets, lengths : array of int
        Of the text, in bytes. No length: the structure could not be read.
    atoms : array of int
        How many.
    checks : array of int
        CRC-32 of each text: it is never read as another one.
    sources, frames : array of int
        The label in `labels`, and the number of the frame that completes it; -1 if the label is complete.
        Empty where there is one label, and every frame is taken.
    labels : dict
        The number of each label.
    sha256 : str
        Of the file that holds the texts.
    """

    offsets: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    atoms: array[int] = field(default_factory=lambda: array("q"))
    checks: array[int] = field(default_factory=lambda: array("q"))
    sources: array[int] = field(default_factory=lambda: array("q"))
    frames: array[int] = field(default_factory=lambda: array("q"))
    labels: dict[str, int] = field(default_factory=dict)
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, offset: int, text: bytes, atoms: int, source: str) -> None:
        """Add a structure.

        Parameters
        ----------
        offset : int
        text : bytes
        atoms : int
        source : str
            File and frame: ``run.traj@30``.
        """
        found = _NUMBERED.fullmatch(source)
        label, frame = (found[1], int(found[2])) if found else (source, -1)
        self.offsets.append(offset)
        self.lengths.append(len(text))
        self.atoms.append(atoms)
        self.checks.append(zlib.crc32(text))
        self.sources.append(self.labels.setdefault(label, len(self.labels)))
        self.frames.append(frame)

    def save(self, folder: Path) -> None:
        """Write the file of a run folder; it is on the disk when this returns.

        Parameters
        ----------
        folder : Path
        """
        with (folder / INDEX).open("wb") as file:
            arrays: dict[str, Any] = {name: np.asarray(getattr(self, name), np.int64) for name in _ARRAYS}
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())


def read_sizes(folder: Path, structures: int) -> NDArray[np.int64]:
    """Return how many atoms each structure has, which decides who computes it, and in what order.

    Parameters
    ----------
    folder, structures
        As for `load_table`.

    Raises
    ------
    ConfigurationError
        As from `load_table`.
    """
    return load_table(folder, structures, ["atoms"])["atoms"]


def load_table(folder: Path, structures: int, names: Sequence[str] = _ARRAYS) -> dict[str, NDArray[np.int64]]:
    """Return arrays of an `InputTable`, and read nothing that is larger than it should be.

    Parameters
    ----------
    folder : Path
        The run folder.
    structures : int
        How many there are.
    names : sequence of str
        Of the arrays; by default all.

    Raises
    ------
    ConfigurationError
        If its file is missing or damaged, or is about another number of structures.
    """
    path = folder / INDEX
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > 8 * structures * len(_ARRAYS) + _ROOM:
                raise ValueError(f"it is too large for {structures} structures")
            with zipfile.ZipFile(file) as archive:
                return {name: _array(archive, name, structures) for name in names}
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror or error}.", _HINT) from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ConfigurationError(f"Cannot read {path}: it is damaged ({error}).", _HINT) from error


def _array(archive: zipfile.ZipFile, name: str, structures: int) -> NDArray[np.int64]:
    if archive.getinfo(f"{name}.npy").compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    with archive.open(f"{name}.npy") as member:
        npy.read_magic(member)
        shape, _, kind = npy.read_array_header_1_0(member)
        if kind != np.int64 or len(shape) != 1:
            raise ValueError(f"{name} holds no whole numbers")
        if shape[0] != structures and (shape[0] or name not in _MAY_BE_EMPTY):
            raise ValueError(f"it is about {shape[0]} structures, and run.json about {structures}")
        return np.frombuffer(member.read(8 * structures), np.int64, shape[0])
