"""Of each structure of a run: where its text is, how many atoms it has, and which frame of which file it is."""

from __future__ import annotations

import os
import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rootstock.errors import RootError

INDEX, CONVERTED = "input.npz", "input.extxyz"
_NUMBERED = re.compile(r"(.*[@=])(0|[1-9]\d{0,17})", re.DOTALL)
_ARRAYS = ("offsets", "lengths", "atoms", "sources", "frames")


@dataclass
class InputTable:
    """Where the structures of a run are; in the order of their indices.

    Attributes
    ----------
    offsets, lengths : array of int
        Of the text, in bytes. No length: the structure could not be read.
    atoms : array of int
        How many.
    sources, frames : array of int
        The label in `labels`, and the number of the frame that completes it; -1 if the label is complete.
        Empty where there is one label, and every frame is taken.
    labels : dict
        The number of each label.
    """

    offsets: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    atoms: array[int] = field(default_factory=lambda: array("q"))
    sources: array[int] = field(default_factory=lambda: array("q"))
    frames: array[int] = field(default_factory=lambda: array("q"))
    labels: dict[str, int] = field(default_factory=dict)

    def add(self, offset: int, length: int, atoms: int, source: str) -> None:
        """Add a structure.

        Parameters
        ----------
        offset, length, atoms : int
        source : str
            File and frame: ``run.traj@30``.
        """
        found = _NUMBERED.fullmatch(source)
        label, frame = (found[1], int(found[2])) if found else (source, -1)
        self.offsets.append(offset)
        self.lengths.append(length)
        self.atoms.append(atoms)
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


def load_table(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an `InputTable`, by their names.

    Parameters
    ----------
    folder : Path
        The run folder.

    Raises
    ------
    RootError
        If its file is missing or damaged.
    """
    path = folder / INDEX
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _ARRAYS}
    except Exception as error:  # zip files have errors of many kinds
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is damaged"
        raise RootError(f"Cannot read {path}: {reason}.", "Begin anew, in another run folder.") from error
    sizes = {name: array.shape for name, array in arrays.items()}
    whole = sizes["offsets"]
    kinds = {array.dtype for array in arrays.values()}
    if len(whole) != 1 or kinds != {np.dtype(np.int64)} or not set(sizes.values()) <= {whole, (0,)}:
        raise RootError(f"Cannot read {path}: it is damaged.", "Begin anew, in another run folder.")
    return arrays
