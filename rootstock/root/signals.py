"""Signals: Python handles them in its first thread only."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def leave_to_first_thread() -> None:
    """Let this thread take no signal that ends a command, so that it interrupts what the first thread waits for.

    The kernel gives a signal of the process to any thread that takes it. Python then runs the handler in the first
    thread, but does not wake that: it may wait for a program that never ends. Programs that a thread starts inherit
    this, unless they are started by `take_again`.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


def take_again() -> None:
    """Let this thread, or a program that is about to run in it, take signals again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let what would end the command wait for the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
