"""Descriptors that are not mistaken for standard input, output or error."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_lock = threading.RLock()
_blocks = 0  # of all threads
_taken: list[int] = []


@contextlib.contextmanager
def above_standard_streams() -> Iterator[None]:
    """Let what is opened in the block have descriptors above 2, where standard streams are closed, too.

    A program may be started without them, as daemons are, and the kernel gives out the lowest number that is free.
    What somebody's code in C prints would then go into a socket or into the shared memory.
    """
    global _blocks
    with _lock:
        _blocks += 1
        _take_closed()
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                _let_go()


def _take_closed() -> None:
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            with contextlib.suppress(OSError):
                _taken.append(os.open(os.devnull, os.O_RDWR))


def _let_go() -> None:
    while _taken:
        os.close(_taken.pop())


def _after_fork() -> None:
    """Forget the blocks of the parent's threads, one of which may hold the lock."""
    global _lock, _blocks
    _lock, _blocks = threading.RLock(), 0
    _let_go()


os.register_at_fork(after_in_child=_after_fork)
