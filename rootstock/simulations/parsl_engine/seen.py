"""What a head sees of its run between the ends of shards, what is recorded and who computes; and whom it tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rootstock.simulations.runs.folder import RunFolder

_COMPUTES = "computing"


@dataclass
class Hears:
    """Whom a head tells what happens, and asks.

    Attributes
    ----------
    recorded : callable
        Is given indices that are on the disk.
    states : callable
        Is given what each worker does, by its place, when that changes.
    warn : callable
        Is given text for people.
    signals : callable
        Returns how many signals to end have come.
    """

    recorded: Callable[[Sequence[int]], object]
    states: Callable[[Mapping[str, str]], object] = lambda _: None
    warn: Callable[[str], object] = lambda _: None
    signals: Callable[[], int] = lambda: 0


class Recorded:
    """What is recorded of a run since the head began; of each structure that is told once.

    Parameters
    ----------
    folder : RunFolder
    tell : callable
        Is given indices that are on the disk.
    """

    def __init__(self, folder: RunFolder, tell: Callable[[Sequence[int]], object]) -> None:
        self._folder, self._tell = folder, tell
        self._before = folder.progress().statuses
        self._told = np.zeros(len(self._before), np.bool_)

    def tell(self, indices: Iterable[int]) -> bool:
        """Tell what was not told yet, and return whether there was anything.

        Parameters
        ----------
        indices : iterable of int
            Of structures that are recorded.
        """
        new = [index for index in dict.fromkeys(indices) if not self._told[index]]
        self._told[new] = True
        if new:
            self._tell(new)
        return bool(new)

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Return those of some structures of which nothing new is recorded.

        Parameters
        ----------
        indices : sequence of int
        """
        fresh = {*self.look(indices)}
        return [index for index in indices if index not in fresh]

    def look(self, indices: Iterable[int]) -> list[int]:
        """Return those of some structures of which something new is recorded.

        Parameters
        ----------
        indices : iterable of int
        """
        asked: NDArray[np.int64] = np.fromiter(indices, np.int64)
        if not len(asked):
            return []
        found: list[int] = asked[self._folder.progress().statuses[asked] != self._before[asked]].tolist()
        return found


class Places:
    """What workers do, by their places. Where one is, it says with the first shard that it ends.

    Attributes
    ----------
    closed : dict of str to str
        Why places get no more.
    """

    def __init__(self) -> None:
        self.closed: dict[str, str] = {}
        self._blocks: dict[str, str] = {}  # of places that have said something
        self._busy: dict[str, int] = {}  # how many workers of each block have a shard
        self._given_up: set[str] = set()

    def computes(self, place: str, block: str) -> None:
        """Take note of a worker that says something.

        Parameters
        ----------
        place, block : str
            As `Told` has them.
        """
        self._blocks[place] = block

    def close(self, place: str, block: str, why: str) -> None:
        """Take note of a place that gets no more, and of its job, which ends.

        Parameters
        ----------
        place, block : str
        why : str
        """
        self.closed[place] = why
        self._blocks.pop(place, None)
        self._given_up.add(block)

    def look(self, managers: Iterable[Mapping[str, Any]]) -> None:
        """Count workers that have a shard, and forget those whose job has ended.

        Parameters
        ----------
        managers : iterable of Mapping
            As Parsl's interchange knows them.
        """
        self._busy = {}
        for each in managers:  # one that was replaced is there for a while yet
            busy = min(each["tasks"], each["worker_count"])
            self._busy[each["block_id"]] = max(self._busy.get(each["block_id"], 0), busy)
        self._blocks = {place: block for place, block in self._blocks.items() if block in self._busy}

    def states(self) -> dict[str, str]:
        """Return what each worker does, by its place; of one that has not said it yet, by its job of Parsl's."""
        said = Counter(self._blocks.values())
        unsaid = {
            f"block {block}, worker {number}": _COMPUTES
            for block, busy in self._busy.items() if block not in self._given_up for number in range(said[block], busy)
        }  # fmt: skip
        return dict.fromkeys(self._blocks, _COMPUTES) | unsaid | self.closed
