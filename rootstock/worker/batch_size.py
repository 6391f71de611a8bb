"""How much a model computes together: as much as pays, and fits into its memory."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

FIRST_ATOMS = {False: 64, True: 2048}  # on a processor, and on a GPU
_GAIN = 1.1  # twice as much at once must be so much faster
_SAMPLES = 3  # parts of a size; one may have been slow for reasons of its own
_CLEAN, _AGAIN = 50, 1.2  # after so many parts without trouble, so much more is tried


class BatchSize:
    """The limit of what one part costs, in any unit: what its memory follows.

    Parameters
    ----------
    first : float
        Where to begin.
    shapes : sequence of float
        The only limits that there are, ascending; none: any.
    known : bool
        Whether a worker before has found `first`: it grows slowly then, as after a lack of memory.
    """

    def __init__(self, first: float, shapes: Sequence[float] = (), *, known: bool = False) -> None:
        self._shapes = shapes
        self.limit = self._allowed(first)
        self._rates: list[float] = []
        self._best = (0.0, self.limit)  # cost a second, and the limit that it was reached with
        self._settled, self._cut, self._clean = False, known, -1  # the first part compiles, and loads

    def at_least(self, first: float) -> None:
        """Begin with more, as long as nothing was learned: there are structures of which an atom costs more."""
        if not (self._rates or self._best[0] or self._settled or self._cut):
            self.limit = max(self.limit, self._allowed(first))
            self._best = 0.0, self.limit

    def took(self, cost: float, seconds: float) -> None:
        """Learn from a part that was computed.

        Parameters
        ----------
        cost, seconds : float
        """
        self._clean += 1
        if not self._clean or cost < self.limit / 2:
            return
        if self._cut:
            if self._clean >= _CLEAN:
                self._clean, self.limit = 0, self._allowed(self._larger(_AGAIN))
        elif not self._settled:
            self._rates.append(cost / max(seconds, 1e-9))
            if len(self._rates) == _SAMPLES:
                self._compare(median(self._rates))

    def _compare(self, rate: float) -> None:
        self._rates.clear()
        if rate < _GAIN * self._best[0]:
            self.limit, self._settled = self._best[1], True
            return
        self._best = rate, self.limit
        larger = self._allowed(self._larger(2.0))
        self._settled = larger == self.limit
        self.limit = larger

    def too_large(self, cost: float) -> None:
        """Learn from a part of several structures that did not fit into the memory.

        Parameters
        ----------
        cost : float
        """
        self.limit = self._allowed(min(self.limit, cost) / 2)
        self._cut, self._clean = True, 0

    def _larger(self, factor: float) -> float:
        return next((shape for shape in self._shapes if shape > self.limit), self.limit * factor)

    def _allowed(self, limit: float) -> float:
        if not self._shapes:
            return limit
        return max((shape for shape in self._shapes if shape <= limit), default=self._shapes[0])
