"""What a worker and its model print: a log that takes no more is no reason to fail."""

from __future__ import annotations

import io
import sys
from typing import Any


class _Log(io.FileIO):
    """A file that never refuses: what it has no room for is lost."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:  # the disk is full, a quota is used up, the file system is gone
            return memoryview(data).nbytes


def print_what_fits() -> None:
    """Let Python's output streams drop what cannot be written; those of C drop it of themselves."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:  # it is, if its descriptor was closed from the start
            log = _Log(stream.fileno(), "wb", closefd=False)
            log.name = stream.name
            kept = io.TextIOWrapper(log, stream.encoding, "backslashreplace", write_through=True)
            setattr(sys, name, kept)
            setattr(sys, f"__{name}__", kept)
