"""Whether a worker of Parsl's computes something of ours: it says so in a folder of its node.

One that is killed while it waits for work keeps the lock of Parsl's queue for ever, and all others of its node wait for
that; one that is killed while it computes keeps none. The block (`rootstock.simulations.parsl_engine.block`) must
tell which it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

FOLDER = "ROOTSTOCK_PARSL_BUSY"  # the variable that names the folder; without it nobody wants to know


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Say that this process computes, while the block runs."""
    folder = os.environ.get(FOLDER)
    if not folder:
        yield
        return
    mark = Path(folder) / str(os.getpid())
    with contextlib.suppress(OSError):  # a full disk costs nobody a result
        mark.touch()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True)
