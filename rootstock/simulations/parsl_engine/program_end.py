"""What is to be done when a program ends, in whatever way but by the kernel."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # by which Python ends at once, unless a program says otherwise


def at_end(do: Callable[[], object]) -> Callable[[], object]:
    """See to it that something is done when this program ends, and return what takes that back.

    Parameters
    ----------
    do : callable
        It must not take long.
    """
    program = os.getpid()

    def once() -> None:
        if os.getpid() == program:  # else a fork of it
            with contextlib.suppress(KeyboardInterrupt, SystemExit):  # somebody does not want to wait for it
                do()

    atexit.register(once)
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _exit)
    return partial(atexit.unregister, once)


def _exit(number: int, _: object) -> None:
    """End the program as the signal would, but with what is to be done at its end."""
    sys.exit(128 + number)
