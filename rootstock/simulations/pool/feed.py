"""What a driver computes next: the pool says so, and is asked ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_LOOK_S = 1.0


class FromPool:
    """Hands out what the pool has sent, and asks for more before the driver needs it, unless it takes one at a time.

    Parameters
    ----------
    want : callable
        Asks the pool for structures of so many atoms.
    back : callable
        Tells the pool that a structure was not computed.
    settle : callable
        Is called before a wait: what was computed is recorded, for the pool may wait for that.
    atoms_of : numpy.ndarray
        How many atoms each structure of the run has.

    Attributes
    ----------
    stopped : bool
        Whether what is being computed is to end soon.
    """

    def __init__(
        self, want: Callable[[int], object], back: Callable[[int], object], settle: Callable[[], object],
        atoms_of: NDArray[np.int64],
    ) -> None:  # fmt: skip
        self._want, self._back, self._settle, self._atoms_of = want, back, settle, atoms_of
        self._ready: deque[int] = deque()
        self._asked = self._over = self.stopped = False
        self._news = threading.Condition()

    def come(self, indices: Sequence[int]) -> None:
        """Take what the pool sends; nothing: there will be no more.

        Parameters
        ----------
        indices : sequence of int
        """
        with self._news:
            self._ready.extend(indices)
            self._asked, self._over = False, not indices
            self._news.notify()

    def stop(self) -> None:
        """Hand out no more."""
        with self._news:
            self.stopped = True
            self._news.notify()

    def give_back(self, index: int) -> None:
        """Let the pool give a structure to somebody else.

        Parameters
        ----------
        index : int
        """
        self._back(index)

    def take(self, atoms: int, *, wait: bool) -> Sequence[int]:
        """Return the indices of the next structures; see `rootstock.simulations.runs.feed.Feed.take`.

        Parameters
        ----------
        atoms : int
        wait : bool
        """
        with self._news:
            self._ask(atoms)
            idle = wait and not (self._ready or self._over or self.stopped)
        if idle:
            self._settle()
        with self._news:
            while wait and not (self._ready or self._over or self.stopped):
                self._news.wait(_LOOK_S)
            taken: list[int] = []
            room = atoms
            while self._ready and not self.stopped and (not taken or room >= self._atoms_of[self._ready[0]]):
                room -= int(self._atoms_of[self._ready[0]])
                taken.append(self._ready.popleft())
            if atoms > 1:  # who takes one at a time computes it for long: the next may go to somebody else meanwhile
                self._ask(atoms)
            return taken

    def _ask(self, atoms: int) -> None:
        if not (self._ready or self._asked or self._over or self.stopped):
            self._asked = True
            self._want(atoms)
