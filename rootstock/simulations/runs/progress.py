"""What the index files of a run say: what is recorded of each structure, and where the results are."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rootstock.simulations.runs.index import ENTRY, WITH_RESULTS, Status, gpu_number, read_index
from rootstock.simulations.runs.input_table import read_sizes

_PART = re.compile(r"(part-[0-9a-f]{16})\.index")


@dataclass(frozen=True)
class Progress:
    """What is recorded of a run.

    Attributes
    ----------
    statuses : numpy.ndarray
        A `Status` for each structure.
    steps : numpy.ndarray
        How many each relaxation or simulation took that has a result; else 0.
    partial : int
        How many of the missing structures have begun, and go on from where they were stopped.
    twice : int
        How many results there are beside the first of a structure.
    damaged : int
        How many records of the index are damaged; what they were about is missing, unless another one says it.
    """

    statuses: NDArray[np.uint8]
    steps: NDArray[np.uint32]
    partial: int
    twice: int
    damaged: int

    def count(self, *statuses: Status) -> int:
        """Return how many structures have one of some statuses.

        Parameters
        ----------
        *statuses : Status
        """
        return sum(int(np.count_nonzero(self.statuses == status)) for status in statuses)

    def counts(self) -> dict[str, int]:
        """Return how many structures have each status, by its name in small letters."""
        return {status.name.lower(): self.count(status) for status in Status if status is not Status.PARTIAL}

    def failed(self) -> dict[str, int]:
        """Return how many structures failed, by class."""
        return {"structure": self.count(Status.FAILED_STRUCTURE), "resource": self.count(Status.FAILED_RESOURCE)}


@dataclass(frozen=True)
class Damaged:
    """A frame whose bytes are not what was recorded.

    Attributes
    ----------
    index : int
    part : str
    place : int
        Where its record begins in the index of the part.
    """

    index: int
    part: str
    place: int


def can_foresee(kind: str, done: int, todo: int) -> bool:
    """Tell whether the time of the rest of a run follows from the time of what is done.

    Relaxations go on together: for long none ends, then many do.

    Parameters
    ----------
    kind : str
        Of the run.
    done, todo : int
        How many are, and were to be computed in all.
    """
    return kind != "relax" or 2 * done >= todo


def parts_of(folder: Path) -> list[str]:
    """Return the names of the parts of a run, without ending, in their order.

    Parameters
    ----------
    folder : Path
    """
    with os.scandir(folder) as entries:
        return sorted(found[1] for entry in entries if (found := _PART.fullmatch(entry.name)))


def read_progress(folder: Path, structures: int, gpu: str | None = None) -> tuple[Progress, NDArray[np.bool_]]:
    """Read what is recorded, and which structures did not fit into the memory of a kind of GPU.

    Parameters
    ----------
    folder : Path
    structures : int
        How many the run has.
    gpu : str, optional
        The kind.

    Raises
    ------
    ConfigurationError
        If a file cannot be read.
    """
    read_sizes(folder, structures)  # nothing is allocated for a number that is wrong
    failed = np.zeros(structures, np.uint8)
    statuses, final, partial = failed.copy(), np.zeros(structures, bool), np.zeros(structures, bool)
    steps = np.zeros(structures, np.uint32)
    results = damaged = 0
    for read in (each for part in parts_of(folder) for each in read_index(folder, part, structures)):
        entries = read.entries
        damaged += read.damaged
        ok = np.isin(entries["status"], WITH_RESULTS)
        results += int(np.count_nonzero(ok))
        # The first result of a structure counts, as for frames: of one index assigned twice, numpy keeps the last.
        good = entries[ok][::-1]
        fresh = statuses[good["index"]] == Status.MISSING
        statuses[good["index"][fresh]] = good["status"][fresh]
        steps[good["index"][fresh]] = good["more"][fresh]
        partial[entries["index"][entries["status"] == Status.PARTIAL]] = True
        failed[entries["index"][entries["status"] == Status.FAILED_RESOURCE]] |= 1
        failed[entries["index"][entries["status"] == Status.FAILED_STRUCTURE]] |= 2
        if gpu is not None:
            here = (entries["status"] == Status.FAILED_RESOURCE) & (entries["more"] == gpu_number(gpu))
            final[entries["index"][here]] = True
    twice = results - int(np.count_nonzero(statuses))
    lacking = statuses == Status.MISSING
    statuses[lacking & (failed == 1)] = Status.FAILED_RESOURCE
    statuses[lacking & (failed >= 2)] = Status.FAILED_STRUCTURE
    begun = int(np.count_nonzero(partial & (statuses == Status.MISSING)))
    return Progress(statuses, steps, begun, twice, damaged), final


def read_results(folder: Path, structures: int) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int64], list[str]]:
    """Return the records of all results in the order of their parts, the part and place of each, and the parts.

    Parameters
    ----------
    folder : Path
    structures : int
        How many the run has.
    """
    names = parts_of(folder)
    reads = [
        (read.entries[ok], np.full(int(ok.sum()), number, np.int32), read.places[ok])
        for number, part in enumerate(names)
        for read in read_index(folder, part, structures)
        for ok in [np.isin(read.entries["status"], WITH_RESULTS)]
    ]
    empty = (np.empty(0, ENTRY), np.empty(0, np.int32), np.empty(0, np.int64))
    entries, parts, places = (np.concatenate(arrays) for arrays in zip(empty, *reads, strict=True))
    return entries, parts, places, names
