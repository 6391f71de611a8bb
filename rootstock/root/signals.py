"""Signals: Python handles them in its first thread only."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

# By which a batch system announces the end of a job, and the kernel that of a terminal.
SIGNALS_TO_END = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
ENDING = (signal.SIGINT, *SIGNALS_TO_END)


def start_thread(thread: threading.Thread) -> None:
    """Start a thread that takes no signal which ends a command, so that it interrupts what the first thread waits for.

    The kernel gives a signal of the process to any thread that takes it. Python then runs the handler in the first
    thread, but does not wake that: it may wait for a program that never ends. A thread inherits this from the one that
    starts it, as does a program, unless `take_again` is called in it.

    Parameters
    ----------
    thread : threading.Thread
    """
    with held():
        thread.start()


@contextlib.contextmanager
def thread_pool(number: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads as `start_thread` starts them.

    Parameters
    ----------
    number : int
        How many.
    """
    from concurrent.futures import ThreadPoolExecutor

    all_there = threading.Barrier(number)
    with ThreadPoolExecutor(number) as pool:
        try:
            with held():  # the pool starts a thread whenever it is asked for something and all others are busy
                for _ in range(number):
                    pool.submit(all_there.wait)
        except BaseException:
            all_there.abort()
            raise
        yield pool


def take_again() -> None:
    """Let this thread, or a program that is about to run in it, take signals again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let what would end the command wait for the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
