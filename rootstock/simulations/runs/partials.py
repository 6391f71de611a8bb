"""Relaxations of a run that were stopped on their way: where each was, and how many steps it had taken."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

from ase import Atoms

from rootstock.simulations.runs.files import Files
from rootstock.simulations.runs.frames_index import read_frame
from rootstock.simulations.runs.index import Status, read_index
from rootstock.simulations.runs.progress import parts_of


class _Place(NamedTuple):
    steps: int
    part: str
    offset: int
    length: int
    content: int


class Partials:
    """What is recorded of relaxations that are not at their end; of several records of one the farthest counts.

    Parameters
    ----------
    folder : Path
    structures : int
        How many the run has.

    Raises
    ------
    ConfigurationError
        If a file cannot be read.
    """

    def __init__(self, folder: Path, structures: int) -> None:
        self._folder = folder
        self._places: dict[int, _Place] = {}
        for read in (each for part in parts_of(folder) for each in read_index(folder, part, structures)):
            for entry in read.entries[read.entries["status"] == Status.PARTIAL]:
                _, content, index, offset, length, steps, _ = entry.item()
                place = _Place(steps, read.part, offset, length, content)
                self._places[index] = max(place, self._places.get(index, place))

    def __len__(self) -> int:
        return len(self._places)

    def go_on(self, index: int, atoms: Atoms) -> int:
        """Move a structure to where its relaxation was, and return how many steps that had taken.

        Parameters
        ----------
        index : int
        atoms : ase.Atoms
            As the input has it. It stays so if no stop is recorded, or what was recorded is damaged.
        """
        if (place := self._places.get(index)) is None:
            return 0
        with Files(self._folder) as files:
            frame = files.read(f"{place.part}.extxyz", place.offset, place.length)
        if zlib.crc32(frame) != place.content:
            return 0
        found = read_frame(frame)
        if len(found) != len(atoms) or (found.numbers != atoms.numbers).any():
            return 0
        if found.cell.any():  # which the frame of a molecule does not have
            atoms.set_cell(found.cell)
        atoms.positions[:] = found.positions
        return place.steps
