"""Which relaxations go on together: two groups of them, of which one is computed while the other takes its step."""

from __future__ import annotations

from rootstock.simulations.lockstep.live import Live

_FIRST_ATOMS = 256  # in a cohort, as long as nothing is known, or where one structure is computed after the other
_PARTS = 2  # that a worker computes together: it tries larger ones where it is given more than one
_MOST_ATOMS, _MOST = 2**17, 4096  # in a cohort
_WORTH = 0.05  # of the time for which the worker computes: steps that take less can as well be taken before


class Cohorts:
    """Two groups of relaxations.

    Attributes
    ----------
    asked : list of Live
        Those that are computed now, or next.
    stepped : list of Live
        Those that take a step meanwhile, and those that wait for their turn.
    """

    def __init__(self, *, apart: bool) -> None:
        self.asked: list[Live] = []
        self.stepped: list[Live] = []
        self._apart = apart
        self._seconds: dict[str, float] = {}  # that asking and stepping take, for an atom

    def room(self, largest_part: int) -> int:
        """Return how many more atoms there may be.

        Parameters
        ----------
        largest_part : int
            How many atoms were computed together of late.
        """
        most = min(max(_FIRST_ATOMS, _PARTS * largest_part), _MOST_ATOMS)
        cohorts = 2 if self._apart else 1
        live = len(self.asked) + len(self.stepped)
        atoms = _atoms(self.asked) + _atoms(self.stepped)
        if live >= cohorts * _MOST:
            return 0
        return max(0, cohorts * most - atoms)

    def add(self, live: Live) -> None:
        """Take another one."""
        self.asked.append(live)

    def took(self, what: str, atoms: int, seconds: float) -> None:
        """Note how long something took.

        Parameters
        ----------
        what : {'asking', 'stepping'}
        atoms : int
        seconds : float
        """
        if atoms:
            self._seconds[what] = seconds / atoms

    def balance(self) -> None:
        """Move relaxations that are to be asked to the others, if they are better asked together with those."""
        asked, stepped = self.asked, self.stepped
        if not self._apart or self._seconds.get("stepping", 1.0) < _WORTH * self._seconds.get("asking", 1.0):
            if stepped:  # one cohort: all are asked together in the next turn
                stepped += asked
                asked.clear()
            return
        more = _atoms(asked) - _atoms(stepped)
        while asked and more >= 2 * len(asked[-1].atoms):
            more -= 2 * len(asked[-1].atoms)
            stepped.append(asked.pop())

    def turn(self) -> None:
        """Let the others be asked."""
        self.asked, self.stepped = self.stepped, self.asked

    def drop(self, keys: set[int]) -> None:
        """Forget those that have come to their end.

        Parameters
        ----------
        keys : set of int
        """
        self.stepped = [live for live in self.stepped if live.key not in keys]


def _atoms(cohort: list[Live]) -> int:
    return sum(len(live.atoms) for live in cohort)
