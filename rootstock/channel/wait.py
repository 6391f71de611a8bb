"""Waiting for the other end: a bounded spin where that pays, then a blocking poll."""

from __future__ import annotations

import os
import select
from time import perf_counter

# Waking a sleeping process costs 10 to 100 microseconds, as much as a cheap evaluation takes altogether. Each turn of
# the spin gives the processor away, so two processes on one core do not wait for each other's time slice.
SPIN_S = 200e-6
# Spin only while waits are about this short; a model that takes milliseconds is waited for asleep.
SHORT_S = 300e-6


class Waiter:
    """Waits until one of some descriptors is readable, or has reached its end.

    Parameters
    ----------
    *fds : int
        Descriptors: the socket, and the process descriptor (pidfd) of the other end where there is one.
    """

    def __init__(self, *fds: int) -> None:
        self._poll = select.poll()
        for fd in fds:
            self._poll.register(fd, select.POLLIN)
        self._may_spin = processors() > 1
        self._spins = False

    def wait(self, timeout: float) -> list[int]:
        """Return the descriptors that are ready; none of them if `timeout` seconds have passed."""
        poll, start = self._poll.poll, perf_counter()
        ready: list[tuple[int, int]] = []
        if self._spins:
            end = start + SPIN_S
            while not (ready := poll(0)) and perf_counter() < end:
                os.sched_yield()
        if not ready:
            ready = poll(max(0.0, timeout) * 1000)
        self._spins = self._may_spin and perf_counter() - start < SHORT_S
        return [fd for fd, _ in ready]


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
