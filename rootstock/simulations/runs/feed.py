"""Which structures of a run are computed next: those of a list, or what a pool hands out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Feed(Protocol):
    """Says which structures are computed next.

    Attributes
    ----------
    stopped : bool
        Whether what is being computed is to end soon: nothing is handed out any more.
    """

    @property
    def stopped(self) -> bool:
        """Return whether to end soon."""

    def give_back(self, index: int) -> None:
        """Take back a structure that could not be computed, by no fault of its own.

        Parameters
        ----------
        index : int
        """

    def take(self, atoms: int, *, wait: bool) -> Sequence[int]:
        """Return the indices of the next structures.

        Parameters
        ----------
        atoms : int
            How many atoms they may have together; a single structure may have more.
        wait : bool
            Whether to wait until there are some.

        Returns
        -------
        sequence of int
            Empty: there are none now; after waiting, there will be none.
        """


class Listed:
    """Hands out a list from its first to its last.

    Parameters
    ----------
    indices : numpy.ndarray
    atoms_of : numpy.ndarray
        How many atoms each structure of the run has.
    stopped : callable
        Returns whether to end soon.
    """

    def __init__(
        self, indices: NDArray[np.int64], atoms_of: NDArray[np.int64], stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._indices, self._next, self._stopped = indices, 0, stopped
        self._ends = np.cumsum(atoms_of[indices])  # how many atoms all those up to each have

    def give_back(self, index: int) -> None:
        """Leave a structure uncomputed.

        Parameters
        ----------
        index : int
        """

    @property
    def stopped(self) -> bool:
        """Whether to end soon."""
        return self._stopped()

    def take(self, atoms: int, *, wait: bool) -> Sequence[int]:  # noqa: ARG002  # all of them are there
        """Return the indices of the next structures; see `Feed.take`.

        Parameters
        ----------
        atoms : int
        wait : bool
        """
        if self.stopped:
            return []
        begin = self._next
        before = int(self._ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(self._ends, before + atoms, side="right")))
        self._next = min(end, len(self._indices))
        taken: list[int] = self._indices[begin : self._next].tolist()
        return taken
