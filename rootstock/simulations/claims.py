"""Files that a command is writing: two commands that would write one file would mix their results.

Beside each output file lies a record of who writes it, as long as they do. On one node it is a lock, too: the kernel
frees its flock when the process ends, however that comes about, and the record of a process that was killed is
replaced. The record of another node counts, since not every file system passes locks on between nodes, and a node
that is lost may still compute: a person removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rootstock.errors import LockBusyError
from rootstock.root.holder import Holder, read_holder
from rootstock.root.lock import NO_FLOCK
from rootstock.simulations.output import check_name, unusable_folder, unwritten

FRESH = ".lock-"  # begins the names of records that are not at their places yet
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # of a file system without hard links
_MODE = 0o666  # less what the umask takes away
_WRONG_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)


class HeldError(Exception):
    """Somebody else has the record.

    Parameters
    ----------
    holder : Holder or None
        Who, if that is known.
    locked : bool
        Whether the record is locked, so that its process runs, wherever that is.
    """

    def __init__(self, holder: Holder | None, *, locked: bool = False) -> None:
        super().__init__()
        self.holder, self.locked = holder, locked


@contextlib.contextmanager
def claim_files(
    paths: Iterable[Path], command: str, me: Holder | None = None, free: Callable[[Path], object] | None = None
) -> Iterator[None]:
    """Keep other commands from writing some files while the block runs.

    Parameters
    ----------
    paths : iterable of Path
        The files; each is claimed by its own name, and where it is a symbolic link, by that of its target too.
    command : str
        The command line, for whoever finds the files claimed.
    me : Holder, optional
        What records say.
    free : callable, optional
        Is given a record that another process has; it removes that of one which is known to have ended.

    Raises
    ------
    LockBusyError
        If another command writes one of them, or may do so on another node. It names who, and what to do.
    ConfigurationError
        If nothing can be written beside a file, or its name is too long for that.
    OutputError
        If its record cannot be written, as on a full disk.
    """
    paths = list(paths)
    for path in paths:
        check_name(path)
    me = me or Holder.of_this_process(command)
    # Each file, as the user calls it.
    files = {name: path for path in paths for name in (_place(path), Path(os.path.realpath(path)))}
    held: list[tuple[Path, Path, Holder | None]] = []
    with contextlib.ExitStack() as claims:
        for path in sorted(files):
            record = path.with_name(f".{path.name}.lock")
            try:
                claims.callback(_release, record, _take_freed(record, me, free))
            except HeldError as error:
                held.append((path, record, error.holder))
            except OSError as error:
                if error.errno not in _WRONG_FOLDER:
                    raise unwritten(files[path], error) from error
                link = f" {files[path]} is a symbolic link to {path}." if path != _place(files[path]) else ""
                raise unusable_folder(path.parent, error.errno, link) from error
        if held:
            path, _, holder = held[0]
            hint = "Wait until it ends, or end it; or write other files (--file-prefix, --out, --traj)."
            if holder is None or holder.host != me.host or holder.ended:
                left = [name for _, record, _ in held for name in (record, _token(record)) if name.exists()]
                where = f" on {holder.host}" if holder else ""
                hint += (
                    f"\nIf you know that it has ended{where}, as when a node has failed, remove its records, "
                    f"and run the command again:\nrm -f {shlex.join(map(str, left))}"
                )
            raise LockBusyError(f"{path} is being written by {holder or 'another command'}.", hint)
        yield


@contextlib.contextmanager
def claim_record(record: Path, me: Holder) -> Iterator[None]:
    """Keep others from having a record while the block runs.

    Parameters
    ----------
    record : Path
        The file, which is there as long as somebody has it.
    me : Holder
        What it says.

    Raises
    ------
    HeldError
        If another process of this node has it, or one of another node may.
    OSError
        If it cannot be written.
    """
    descriptor = _take(record, me)
    try:
        yield
    finally:
        _release(record, descriptor)


def remove_record(record: Path, holder: Holder) -> None:
    """Remove the record of a process of another node that is known to have ended, unless somebody else has it now.

    Parameters
    ----------
    record : Path
    holder : Holder
        Whom it named.
    """
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(record, os.O_RDWR | os.O_NOFOLLOW)
        try:
            with contextlib.suppress(BlockingIOError):
                _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                there = read_holder(record)
                known = (holder.host, holder.pid, holder.since, holder.start)
                if there and _is_at(descriptor, record) and (there.host, there.pid, there.since, there.start) == known:
                    record.unlink()
        finally:
            os.close(descriptor)


def _place(path: Path) -> Path:
    """Return where a name is, whatever it leads to."""
    return Path(os.path.realpath(path.parent)) / path.name


def _take_freed(record: Path, me: Holder, free: Callable[[Path], object] | None) -> int:
    """Take a record; that of somebody else is freed first, if that can be."""
    try:
        return _take(record, me)
    except HeldError as error:
        if free is None or error.locked:
            raise
    free(record)
    return _take(record, me)


def _take(record: Path, me: Holder) -> int:
    """Take a record, and return the descriptor that has its lock."""
    while True:
        try:
            descriptor = os.open(record, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            if (created := _create(record, me)) is None:
                continue
            return created
        except PermissionError as error:
            if not os.path.lexists(record):  # it is the folder
                raise
            raise HeldError(read_holder(record)) from error  # of another user
        try:
            locked = _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = read_holder(record)
            if not _is_at(descriptor, record):  # its holder has just ended, or somebody has replaced it
                continue
            if holder is None or holder.host != me.host:
                raise HeldError(holder)
            with contextlib.nullcontext() if locked else _turn(record, holder):
                return _put(record, me, os.replace)
        except BlockingIOError as error:
            raise HeldError(read_holder(record), locked=True) from error
        finally:
            os.close(descriptor)


def _create(record: Path, me: Holder) -> int | None:
    """Create a record, and return the descriptor that has its lock; None if somebody else was faster."""
    try:
        return _put(record, me, os.link)
    except FileExistsError:
        return None
    except FileNotFoundError:
        if not record.parent.is_dir():
            raise
        return None  # somebody has cleared the folder meanwhile
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    try:  # others may see it empty, and a process that is killed may leave it so: a person removes it
        return _write(record, me)
    except FileExistsError:
        return None


def _put(record: Path, me: Holder, place: Callable[[Path, Path], object]) -> int:
    """Write a record under a name of its own, and give it its place in one step, so that nobody sees half of it."""
    fresh = record.with_name(f"{FRESH}{secrets.token_hex(8)}")
    descriptor = _write(fresh, me)
    try:
        place(fresh, record)
    except BaseException as error:
        ours = _is_at(descriptor, record)
        if ours and isinstance(error, FileExistsError):  # NFS: the answer was lost, and the client asked again
            return descriptor
        if ours:  # interrupted
            record.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    finally:
        fresh.unlink(missing_ok=True)
    return descriptor


def _write(path: Path, me: Holder) -> int:
    """Create a file that says who holds a record, and lock it first."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
    try:
        # Where it lies at its place already, it waits for those who look who holds it; they give way at once.
        _lock(descriptor, fcntl.LOCK_EX)
        os.pwrite(descriptor, me.to_json().encode(), 0)
        os.fsync(descriptor)  # on NFS, other nodes would see an empty record as long as it is open
    except BaseException:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, operation: int) -> bool:
    """Lock a file; False where the file system has no locks, and the record alone must do."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        return False
    return True


@contextlib.contextmanager
def _turn(record: Path, holder: Holder) -> Iterator[None]:
    """Let one of those who see that a holder on this node has ended come next, where no lock does."""
    token = _token(record)
    try:
        os.close(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE))
    except FileExistsError as error:
        raise HeldError(holder) from error
    try:
        if not holder.ended or read_holder(record) != holder:
            raise HeldError(read_holder(record))
        yield
    finally:
        token.unlink()


def _token(record: Path) -> Path:
    return record.with_name(f"{record.name}.next")


def _is_at(descriptor: int, record: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), record.stat())
    except FileNotFoundError:
        return False


def _release(record: Path, descriptor: int) -> None:
    # A record that cannot be removed names a process that has ended; what ended this one is said, and not that.
    with contextlib.suppress(OSError):
        if _is_at(descriptor, record):  # not if somebody has removed it, and another one has begun
            record.unlink(missing_ok=True)
    os.close(descriptor)
