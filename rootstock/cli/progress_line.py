"""For commands that run for hours: progress that does not fill logs, and an end between two steps."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rootstock.cli.common import Progress
from rootstock.root.lock import Report

SECONDS_BETWEEN = {True: 0.2, False: 30.0}  # on a terminal a line is replaced, elsewhere it stays


@contextmanager
def shown_rarely() -> Iterator[Report]:
    """Yield what shows progress, now and then."""
    progress, terminal = Progress(None), sys.stderr.isatty()
    last = time.monotonic()

    def show(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN[terminal]:
            last = time.monotonic()
            progress.step(text)

    with progress.shown():
        yield show


@contextmanager
def stopped_gently() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether Ctrl-C or SIGTERM came; the second interrupts at once."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # as signal wants it
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
