"""Which structures of a run a pool has yet to compute, and what becomes of those that a lost driver had."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

_GROUPS = 8  # into which what a lost driver had is divided: each is then computed with nothing else
_BACK = 3  # how often a structure may come back uncomputed, and then stays so
_NONE = np.empty(0, np.int64)


class Work:
    """Structures to be computed, the largest first.

    Parameters
    ----------
    indices : sequence of int
        In the order in which they are handed out.
    atoms_of : numpy.ndarray
        How many atoms each structure of the run has.
    drivers : int
        Among how many drivers they are divided.

    Attributes
    ----------
    given_up : int
        How many came back too often, and stay uncomputed.
    """

    def __init__(self, indices: Sequence[int] = (), atoms_of: NDArray[np.int64] = _NONE, drivers: int = 1) -> None:
        self._todo, self._atoms_of, self._drivers = deque(indices), atoms_of, drivers
        self._atoms = int(atoms_of[np.asarray(indices, np.int64)].sum())
        self._suspects: deque[list[int]] = deque()
        self._came_back: Counter[int] = Counter()
        self.given_up = 0

    def __len__(self) -> int:
        return len(self._todo) + sum(map(len, self._suspects))

    def suspects(self) -> list[int]:
        """Return structures with which a driver was lost, for a driver that has nothing else meanwhile; or none."""
        return self._suspects.popleft() if self._suspects else []

    def take(self, atoms: int) -> list[int]:
        """Return structures of so many atoms; towards the end fewer, so that all drivers end at about the same time.

        Parameters
        ----------
        atoms : int
        """
        if self._drivers > 1:
            atoms = min(atoms, self._atoms // (2 * self._drivers))
        taken: list[int] = []
        while self._todo and (not taken or atoms >= self._atoms_of[self._todo[0]]):
            size = int(self._atoms_of[self._todo[0]])
            taken.append(self._todo.popleft())
            atoms, self._atoms = atoms - size, self._atoms - size
        return taken

    def back(self, indices: Iterable[int]) -> None:
        """Take back structures that were not computed, by no fault of their own. The second time each is tried alone.

        After the third time they stay uncomputed.

        Parameters
        ----------
        indices : iterable of int
        """
        for index in indices:
            self._came_back[index] += 1
            if self._came_back[index] == 1:
                self._todo.append(index)
                self._atoms += int(self._atoms_of[index])
            elif self._came_back[index] < _BACK:
                self._suspects.append([index])
            else:
                self.given_up += 1

    def put_back(self, indices: Iterable[int]) -> None:
        """Take back structures that are not computed any more, for somebody has ended all.

        Parameters
        ----------
        indices : iterable of int
        """
        self._todo.extend(indices)

    def lost(self, indices: Sequence[int], *, with_nothing_else: bool) -> int | None:
        """Take back what a driver had that was lost, and return the structure that must be the reason.

        Parameters
        ----------
        indices : sequence of int
        with_nothing_else : bool
            Whether they were `suspects`.
        """
        if with_nothing_else and len(indices) == 1:
            return indices[0]
        size = 1 if with_nothing_else else math.ceil(len(indices) / _GROUPS)
        self._suspects.extend([*indices[k : k + size]] for k in range(0, len(indices), size or 1))
        return None
