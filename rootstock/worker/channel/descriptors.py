"""Descriptors that are not mistaken for standard input, output or error."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def above_standard_streams() -> Iterator[None]:
    """Let what is opened in the block have descriptors above 2, where standard streams are closed, too.

    A program may be started without them, as daemons are, and the kernel gives out the lowest number that is free.
    What somebody's code in C prints would then go into a socket or into the shared memory.
    """
    taken = []
    try:
        for fd in range(3):
            try:
                os.fstat(fd)
            except OSError:
                with contextlib.suppress(OSError):
                    taken.append(os.open(os.devnull, os.O_RDWR))
        yield
    finally:
        for fd in taken:
            os.close(fd)
