"""Standard output and error of a command, which may be closed or full: that stops no computation, and is told once."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rootstock.errors import SiteError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# What a closed descriptor becomes. Writing to output that is open for reading fails, as it did when it was closed.
_IN_PLACE = {0: os.O_RDONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}


class _Descriptor(io.FileIO):
    """Drops what cannot be written, and remembers why."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let a command run to its end whether or not somebody can read what it says, and then say why nobody could.

    Who stopped reading (``| head``) is told nothing; the command ends with 1 where it would have ended with 0.

    Raises
    ------
    SystemExit
        With the code of a file that could not be written, where the command itself succeeded.
    """
    if sys.stdout is not sys.__stdout__:  # somebody else's, such as a test's
        yield
        return
    _take_closed()
    output = _Descriptor(1, "w", closefd=False)
    sys.stdout = _text(output, sys.stdout, line_buffering=os.isatty(1))
    sys.stderr = _text(_Descriptor(2, "w", closefd=False), sys.stderr, line_buffering=True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  # it lasts as long as the process
    try:
        yield
    except SystemExit as end:
        sys.stdout.flush()
        if (failure := output.failure) is None:
            raise
        quiet = isinstance(failure, BrokenPipeError)
        if not quiet:
            sys.stderr.write(f"Error: Cannot write to standard output: {failure.strerror}.\n")
        raise SystemExit(end.code or (1 if quiet else SiteError.exit_code)) from None


def _take_closed() -> None:
    """Open the descriptors that the caller closed, so that no file of ours gets one of their numbers."""
    for number, flags in _IN_PLACE.items():
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)


def _text(descriptor: _Descriptor, before: TextIO | None, *, line_buffering: bool) -> io.TextIOWrapper:
    """Return a stream of text like the one before; letters that its encoding lacks are written as their codes."""
    return io.TextIOWrapper(
        io.BufferedWriter(descriptor), encoding=getattr(before, "encoding", None), errors="backslashreplace",
        line_buffering=line_buffering,
    )  # fmt: skip
