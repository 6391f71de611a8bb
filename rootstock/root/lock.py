"""The lock that keeps two admins from changing one root at the same time.

Nothing depends on it for correctness: builds have unique names and pointers move by one rename. It spares the second
admin surprises, and says who is at work. Readers never take it.

The kernel frees a flock when its holder ends, however that comes about. Beside it lies a record of who holds it. Where
the file system has no flock, that record alone is the lock (`rootstock.root.lock_record`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rootstock.errors import LockBusyError, RootError
from rootstock.root.holder import Holder, read_holder
from rootstock.root.layout import RootLayout
from rootstock.root.lock_record import take, turn
from rootstock.root.ownership import give_to_owner
from rootstock.root.records import write_file

if TYPE_CHECKING:
    import filelock  # takes longer to import than all else of `rootstock --help`

_POLL_S = 0.5
LOCK_MODE = 0o664  # every admin of the group can take the lock; the folder keeps everybody else out
# A file system without flock; no lock daemon behind an NFS mount.
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_HINT = "Wait for it with --wait SECONDS. If it will never end, take the lock from it with --break-lock."

Report = Callable[[str], None]  # is given a line for each step, or every line that programs print


def quiet(line: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class AdminContext:
    """Who changes a root: for how long they wait for another one, and who is told what happens.

    Parameters
    ----------
    command : str
        The command line, for whoever finds the lock taken, and for the records.
    wait : float
        Seconds to wait for another holder of the lock.
    break_lock : bool
        Whether to take the lock from another holder.
    report, log : callable
        Are given a line for each step, and every line that programs print.
    """

    command: str
    wait: float = 0.0
    break_lock: bool = False
    report: Report = quiet
    log: Report = quiet


@contextlib.contextmanager
def admin_lock(layout: RootLayout, admin: AdminContext) -> Iterator[None]:
    """Hold the root's lock.

    Parameters
    ----------
    layout : RootLayout
    admin : AdminContext

    Raises
    ------
    LockBusyError
        If somebody else holds it; with their name.
    RootError
        If you may not lock there.
    """
    if admin.break_lock:
        _break(layout, admin.report)
    import filelock

    lock = filelock.FileLock(layout.admin_lock, timeout=0, mode=LOCK_MODE, fallback_to_soft=False)
    me = Holder.of_this_process(admin.command)
    deadline = time.monotonic() + admin.wait
    waits = False
    while not _try(lock, layout, me, admin.report):
        if time.monotonic() >= deadline:
            raise LockBusyError(f"{layout.root} is being changed by {_who(layout)}.", _HINT)
        if not waits:
            admin.report(f"waiting for {_who(layout)}")
            waits = True
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        if read_holder(layout.admin_owner) == me:  # not if somebody broke the lock
            layout.admin_owner.unlink(missing_ok=True)
        lock.release()


def _who(layout: RootLayout) -> str:
    """Say who has the lock that could not be taken."""
    holder, next_one = read_holder(layout.admin_owner), read_holder(turn(layout.admin_owner))
    if holder is None:
        return "another process"
    if not holder.ended:
        return str(holder)
    if next_one is not None and next_one.ended:  # killed while it took the lock over
        return f"nobody, but {turn(layout.admin_owner)} is in the way: {next_one} was killed"
    return f"another process, which has just begun; before it {holder} was killed"


def who_changes(layout: RootLayout) -> Holder | None:
    """Return who is changing a root; None if nobody is, or nobody says so.

    A record may be of a process that was killed. On this machine one can look; of others, a lock that is free tells.
    Where there is no flock, only the record says.

    Parameters
    ----------
    layout : RootLayout
    """
    holder = read_holder(layout.admin_owner)
    return None if holder is None or holder.ended or _is_free(layout.admin_lock) else holder


def _is_free(path: Path) -> bool:
    """Tell whether a lock is known to be held by nobody."""
    try:
        with open(path, "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held; or it cannot be known
        return False
    return True


def _break(layout: RootLayout, report: Report) -> None:
    holder = read_holder(layout.admin_owner)
    if holder is not None:
        report(f"removed the record of {holder}, which was killed" if holder.ended else f"took the lock from {holder}")
    # Whoever holds a flock on the old file keeps it; the next one locks a new file of that name.
    for path in (layout.admin_owner, turn(layout.admin_owner), layout.admin_lock):
        path.unlink(missing_ok=True)


def _try(lock: filelock.BaseFileLock, layout: RootLayout, me: Holder, report: Report) -> bool:
    """Take the lock if it is free."""
    try:
        lock.acquire()
    except TimeoutError:  # filelock's own is a kind of it
        return False
    except (OSError, NotImplementedError) as error:
        if _has_no_flock(error):
            with contextlib.suppress(OSError):  # another admin's has it already
                os.chmod(layout.admin_lock, LOCK_MODE)
                give_to_owner(layout.admin_lock, layout)
            if taken := take(layout.admin_owner, me, LOCK_MODE):
                report(
                    f"the file system of {layout.root} has no flock: the record {layout.admin_owner.name} is the lock, "
                    "and stays when this process is killed (--break-lock)"
                )
            return taken
        raise RootError(
            f"Cannot lock {layout.admin_lock}: {getattr(error, 'strerror', None) or error}.",
            "You must be allowed to write there: install as one of the root's admins.",
        ) from error
    give_to_owner(layout.admin_lock, layout)
    write_file(layout.admin_owner, me.to_json().encode(), LOCK_MODE)
    return True


def _has_no_flock(error: OSError | NotImplementedError) -> bool:
    """Tell whether filelock says by this error that the file system knows no flock."""
    number = getattr(error, "errno", None) or getattr(error.__cause__, "errno", None)
    return number in NO_FLOCK or isinstance(error, NotImplementedError)


def probe_lock(layout: RootLayout) -> str:
    """Try with two processes whether a lock in the root keeps them apart.

    Returns
    -------
    str
        What keeps them apart: ``flock``, or ``a record`` where the file system has no flock; empty if both held it.

    Raises
    ------
    OSError
        If nothing can be written there, or a lock of the root cannot be taken.
    """
    import filelock

    fd, name = tempfile.mkstemp(prefix=".probe.", dir=layout.locks)
    os.close(fd)
    try:
        # What an admin takes who changes the root, and what uv takes: they may be closed to this one.
        for path in (layout.admin_lock, layout.uv_cache / ".lock"):
            with contextlib.suppress(FileNotFoundError):
                os.close(os.open(path, os.O_RDWR))
        with filelock.FileLock(name, timeout=0, fallback_to_soft=False):
            second = subprocess.run([sys.executable, "-I", "-c", _SECOND, name], check=False, timeout=10)
            return "flock" if second.returncode == _HELD else ""
    except (OSError, NotImplementedError) as error:
        if not _has_no_flock(error):
            raise
        return "a record"
    finally:
        Path(name).unlink(missing_ok=True)


_HELD = 3
_SECOND = f"""
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1], "w"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit({_HELD})
"""
