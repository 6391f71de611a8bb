"""Waiting awake for a moment, where that has helped lately.

To wake a process that sleeps takes 10 µs, in a virtual machine 50: as long as the whole call of a small system. So an
end that waits may look again and again before it sleeps. That helps where both ends have a processor to themselves
and the answer comes quickly. Elsewhere it takes time from whoever needs the processor, so after a try in vain
an end sleeps at once for twice as many times as after the last.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

_TRY_S = 2e-4  # the other end may be asleep itself, and has to be woken first
_LONGEST_PAUSE = 256  # so a model that takes long costs a microsecond of each evaluation


class AdaptiveSpin:
    """Tries for a moment, or does not, as earlier tries went.

    Parameters
    ----------
    processors : int, optional
        How many this process may use; on one alone it never tries. None: as the kernel says.
    """

    def __init__(self, processors: int | None = None) -> None:
        self._pause: float = 0 if (processors or _processors()) > 1 else math.inf
        self._next_pause = 1

    def until(self, ready: Callable[[], T]) -> T | None:
        """Call `ready` until it returns something true, and return that; None when it is time to sleep."""
        if self._pause:
            self._pause -= 1
            return None
        end = perf_counter() + _TRY_S
        while not (result := ready()):
            os.sched_yield()  # two ends on one processor do not wait for each other's time slice
            if perf_counter() > end:
                self._pause = self._next_pause
                self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
                return None
        self._next_pause = max(self._next_pause // 2, 1)
        return result


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
