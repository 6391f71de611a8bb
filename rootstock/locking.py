"""The lock that keeps two admins from changing one root at the same time.

Nothing depends on it for correctness: builds have unique names and pointers move by one rename. It spares the second
admin surprises, and says who is at work. Readers never take it.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import time
from collections.abc import Callable, Iterator

import filelock

from rootstock.errors import LockBusyError, RootError
from rootstock.layout import RootLayout
from rootstock.records import write_file

_POLL_S = 1.0


@contextlib.contextmanager
def admin_lock(
    layout: RootLayout, command: str, *, wait: float = 0.0, report: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Hold the root's lock.

    Parameters
    ----------
    layout : RootLayout
    command : str
        What is being done, for whoever finds the lock taken.
    wait : float
        Seconds to wait for another holder.
    report : callable
        Is given a line when there is somebody to wait for.

    Raises
    ------
    LockBusyError
        If somebody else holds it; with their name.
    RootError
        If this file system refuses locks.
    """
    lock = filelock.FileLock(layout.admin_lock, timeout=0, mode=0o664, fallback_to_soft=False)
    deadline = time.monotonic() + wait
    told = False
    while True:
        try:
            lock.acquire()
            break
        except filelock.Timeout:
            if time.monotonic() >= deadline:
                raise LockBusyError(
                    f"{layout.root} is being changed by {_holder(layout)}.", "Wait for it with --wait SECONDS."
                ) from None
            if not told:
                report(f"waiting for {_holder(layout)}")
                told = True
            time.sleep(_POLL_S)
        except OSError as error:
            raise RootError(
                f"Cannot lock {layout.admin_lock}: {error.strerror or error}.",
                "The file system must support flock, and you must be allowed to write there.",
            ) from error
    try:
        owner = {
            "user": getpass.getuser(),
            "host": platform.node(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": command,
        }
        write_file(layout.admin_owner, (json.dumps(owner) + "\n").encode(), 0o664)
        yield
    finally:
        layout.admin_owner.unlink(missing_ok=True)
        lock.release()


def _holder(layout: RootLayout) -> str:
    try:
        owner = json.loads(layout.admin_owner.read_text(encoding="utf-8"))
        return "{user} on {host} (process {pid}, since {since}: {command})".format(**owner)
    except (OSError, ValueError, KeyError):
        return "another process"
