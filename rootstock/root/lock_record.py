"""The lock where a file system has no flock: whoever creates the record has it.

A record is written under a name of its own and then linked to its place. So nobody sees one that is half written, and
of many who try one succeeds, on NFS too. Records that nobody removes stay: that of a process that was killed.
It is replaced, in one rename, by whoever holds the *turn*: a second record beside it, created in the same way. Who has
the turn reads the record again. While it names a process that has ended, nobody else replaces it, and nobody can
create it: it is there.

A process may be killed at each step. Before its record is linked, it leaves a file that nobody looks at (`gc` removes
it). While it holds the lock, its record is one more that can be replaced. While it holds the turn, which takes a few
system calls, the turn stays, and an admin removes it with ``--break-lock``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rootstock.root.holder import Holder, read_holder

# A file system without hard links; some say EPERM.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


def take(record: Path, me: Holder, mode: int) -> bool:
    """Take the lock if it is free, or if its holder was a process of this machine that has ended.

    Parameters
    ----------
    record : Path
    me : Holder
    mode : int
        The record's permissions.
    """
    with _private(record, me, mode) as mine:
        if _create(record, mine):
            return True
        holder = read_holder(record)
        if holder is None or not holder.ended or not _create(turn(record), mine):
            return False
        try:
            if read_holder(record) != holder:  # another one had the turn before
                return False
            os.replace(mine, record)
            return True
        finally:
            turn(record).unlink(missing_ok=True)


def turn(record: Path) -> Path:
    """Return the record of who may replace the record of a process that has ended.

    Parameters
    ----------
    record : Path
    """
    return record.with_name(f"{record.name}.next")


@contextlib.contextmanager
def _private(record: Path, me: Holder, mode: int) -> Iterator[Path]:
    """Write a record under a name that nobody else has."""
    descriptor, name = tempfile.mkstemp(prefix=f".{record.name}.", dir=record.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(me.to_json().encode())
            os.fchmod(descriptor, mode)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _create(record: Path, mine: Path) -> bool:
    """Give what was written a name that is not taken; tell whether it was free."""
    try:
        os.link(mine, record)
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
            return record.samefile(mine)  # NFS: the answer was lost, and the client asked again
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_without_links(record, mine)
    return True


def _create_without_links(record: Path, mine: Path) -> bool:
    """The same; others may see the record empty, which is of nobody known: they leave it alone."""
    try:
        with record.open("xb") as file:
            os.fchmod(file.fileno(), mine.stat().st_mode)
            file.write(mine.read_bytes())
    except FileExistsError:
        return False
    return True
