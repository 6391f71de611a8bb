"""For commands that run for hours: progress that does not fill logs, and an end between two steps."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rootstock.cli.common import show_progress
from rootstock.cli.signals import handle_signals
from rootstock.root.lock import Report
from rootstock.root.signals import SIGNALS_TO_END, start_thread

SECONDS_BETWEEN = {True: 0.2, False: 30.0}  # on a terminal a line is replaced, elsewhere it stays


@contextmanager
def show_rarely(title: str = "") -> Iterator[Report]:
    """Yield what shows progress, now and then, after a title."""
    last = time.monotonic()
    with show_progress() as report:

        def show(text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= SECONDS_BETWEEN[sys.stderr.isatty()]:
                last = time.monotonic()
                report(title + text)

        yield show


@contextmanager
def show_meanwhile(first_after: float, between: float | None = None) -> Iterator[Report]:
    """Yield what takes the present state as text; a thread shows it now and then.

    So what was said last before a long wait is shown, too. Where lines stay, they also say for how long nothing has
    changed.

    Parameters
    ----------
    first_after : float
        Seconds before something is shown for the first time, at most.
    between : float, optional
        Seconds after which it is shown again; by default what suits a terminal, or a log.
    """
    state = shown = ""
    ended = threading.Event()

    def show(text: str) -> None:
        nonlocal state
        state = text

    with show_progress() as report:

        def tell() -> None:
            nonlocal shown
            rest, since = between or SECONDS_BETWEEN[sys.stderr.isatty()], time.monotonic()
            wait = min(rest, first_after)
            while not ended.wait(wait):
                if state != shown:
                    report(shown := state)
                    wait, since = rest, time.monotonic()
                elif shown and not sys.stderr.isatty():
                    report(f"{shown} (no news for {time.monotonic() - since:.0f} s)")

        thread = threading.Thread(target=tell, name="rootstock-progress", daemon=True)
        start_thread(thread)
        try:
            yield show
        finally:
            ended.set()
            thread.join()


@contextmanager
def stop_gently() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether Ctrl-C or a signal to end came; Ctrl-C after that interrupts at once."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # as signal wants it
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    with handle_signals(note, signal.SIGINT, *SIGNALS_TO_END):
        yield lambda: bool(came)
