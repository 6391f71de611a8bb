"""A clock of the time in which this process ran, and waiting by it.

A batch system suspends a job by stopping all its processes. The clock goes on meanwhile, and a deadline would be over
when they are continued, before the other end has had its time.
"""

from __future__ import annotations

import select
from time import monotonic

SLICE_S = 1.0  # whoever waits looks at the clock this often
_STOPPED_S = 2.0  # a longer gap between two looks is taken for a stop, or for a machine that has no time for us
_COUNTED_S = 0.1  # of such a gap: too little to end a wait soon after a stop, and enough to end it some time

_last_look = (monotonic(), 0.0)  # one tuple, so that threads need no lock: when, and the time that was lost until then


def running_time() -> float:
    """Return seconds as `time.monotonic` does, less the time in which this process was stopped.

    That is what passes between two calls, beyond a few seconds; so only differences within one wait mean something,
    which calls this at least every `SLICE_S`.
    """
    global _last_look
    last, lost = _last_look
    now = monotonic()
    if now - last > _STOPPED_S:
        lost += now - last - _COUNTED_S
    _last_look = (now, lost)
    return now - lost


def poll_until(poll: select.poll, deadline: float) -> list[tuple[int, int]]:
    """Poll until something happens, or the time is over.

    Parameters
    ----------
    poll : select.poll
    deadline : float
        As of `running_time`.

    Returns
    -------
    list of (int, int)
        As `poll.poll`; empty if the time is over.
    """
    while True:
        remaining = deadline - running_time()
        events = poll.poll(1000 * max(0.0, min(SLICE_S, remaining)))
        if events or remaining <= 0:
            return events
