"""What is to be done when a program ends, in whatever way but by the kernel."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

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

    def take_back() -> None:
        atexit.unregister(once)
        _handle(_exit, signal.SIG_DFL)

    atexit.register(once)
    _handle(signal.SIG_DFL, _exit)
    return take_back


def _handle(before: Any, after: Any) -> None:
    """Give signals another handler, where they have the one of before."""
    if threading.current_thread() is threading.main_thread():  # no other one may do so
        for number in _SIGNALS:
            if signal.getsignal(number) is before:
                signal.signal(number, after)


def _exit(number: int, _: object) -> None:
    """End the program as the signal would, but with what is to be done at its end."""
    sys.exit(128 + number)
