"""Temporary files on the node's own disk, readable by their user only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import threading
import weakref
from pathlib import Path

from rootstock.errors import WorkerStartError
from rootstock.worker.channel.descriptors import above_standard_streams

_TAIL_BYTES = 8000
_TAIL_LINES = 30
_CONTENT = {"cache", "home", "log"}  # of a folder of ours
_KEPT_LOGS = 50  # of workers that failed
_PART = 2**19  # bytes of the beginning, and of the end, of a log that became too long
_LONGEST = 4 * _PART
_LINE = 2**12  # longer lines, as progress bars write, are cut in two
_CUT = b"... (here the middle of this log was taken out, since it became too long)\n"


def private_scratch() -> Path:
    """Return a folder of this user on the node's own disk, readable by nobody else.

    It is ``rootstock-<uid>`` in the job's scratch folder or the temporary folder. Should somebody else have taken that
    name, or be able to write there, it is a folder of this process, which is removed at its end.

    Raises
    ------
    WorkerStartError
        If no temporary folder can be written to.
    """
    job = os.environ.get("SLURM_TMPDIR", "")
    try:
        parent = Path(job if job and os.access(job, os.W_OK | os.X_OK) else tempfile.gettempdir())
        folder = parent / f"rootstock-{os.getuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        return folder if _is_private(folder) else _folder_of_this_process(folder)
    except OSError as error:
        raise WorkerStartError(
            f"There is no temporary folder to write to ({error.strerror}).",
            "Set TMPDIR to a folder on this node that you can write, and that is not full.",
        ) from error


def _is_private(folder: Path) -> bool:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        return False
    if status.st_mode & 0o777 != 0o700:  # where others could only read, nothing is doubtful
        folder.chmod(0o700)
    return True


_own_folders: dict[tuple[Path, int], Path] = {}  # by the folder they stand for, and the process
_making = threading.RLock()  # a signal handler may come here, too


def _after_fork() -> None:
    global _making
    _making = threading.RLock()  # a thread of the parent may hold that of the parent


os.register_at_fork(after_in_child=_after_fork)


def _folder_of_this_process(taken: Path) -> Path:
    """Return a folder that this process has for itself."""
    key = taken, os.getpid()
    with _making, above_standard_streams():
        if key not in _own_folders or not _own_folders[key].is_dir():
            _remove_abandoned(taken)
            _own_folders[key], lock = _make_locked(taken)
            # Made before any worker of this process, it goes after them.
            weakref.finalize(private_scratch, _remove_own, _own_folders[key], lock, os.getpid())
        return _own_folders[key]


def _make_locked(taken: Path) -> tuple[Path, int]:
    """Make a folder, and lock it: whose folder is locked lives. Forked children hold the lock, too."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{taken.name}-", dir=taken.parent))
        with contextlib.suppress(FileNotFoundError):  # others have taken it for abandoned
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # a file system without locks: nobody removes it but this process
                fcntl.flock(lock, fcntl.LOCK_SH)
            if folder.is_dir():
                return folder, lock
            os.close(lock)


def _remove_abandoned(taken: Path) -> None:
    """Remove the folders of processes that were killed."""
    for folder in taken.parent.glob(f"{taken.name}-*"):
        with contextlib.suppress(OSError):
            if _CONTENT.issuperset(os.listdir(folder)) and _is_private(folder):
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
                finally:
                    os.close(lock)


def _remove_own(folder: Path, lock: int, process: int) -> None:
    if process == os.getpid():  # not in a forked child
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def open_log(name: str, path: Path | None) -> tuple[Path, int]:
    """Open the log of a process, and return its path and a descriptor.

    Parameters
    ----------
    name : str
        The beginning of a new log's name.
    path : Path or None
        The log. None: a new file in the user's scratch folder, where the last `_KEPT_LOGS` logs stay.

    Raises
    ------
    WorkerStartError
        If it cannot be written.
    """
    try:
        if path is not None:
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        folder = private_scratch() / "log"
        folder.mkdir(mode=0o700, exist_ok=True)
        safe = "".join(c if c.isalnum() or c in "._@-" else "_" for c in name)[:60]
        fd, text = tempfile.mkstemp(prefix=f"{safe}-", suffix=".log", dir=folder)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # `shorten` moves its end
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH)  # the worker inherits it: whose log is locked lives
        with contextlib.suppress(OSError):  # no descriptor is left: the start says so, not this
            _prune(folder)
        return Path(text), fd
    except OSError as error:
        raise WorkerStartError(
            f"Cannot write a log for the worker ({error.filename or path or folder}: {error.strerror}).",
            "Set TMPDIR to a folder on this node that you can write, or pass log=PATH.",
        ) from error


def _prune(folder: Path) -> None:
    """Remove the oldest logs of workers that are gone."""
    logs = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # of a worker that ended well just now
            logs.append((path.lstat().st_mtime, path))
    if len(logs) <= _KEPT_LOGS:
        return  # as in nearly every start
    ended = [path for _, path in sorted(logs, reverse=True) if _is_free(path)]
    for path in ended[_KEPT_LOGS:]:
        path.unlink(missing_ok=True)


def _is_free(path: Path) -> bool:
    """Tell whether no worker holds a log."""
    try:
        with path.open("r+b") as log:  # as NFS wants it
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def shorten(log: Path) -> None:
    """Take the middle out of a log that became too long, while processes append to it.

    What they append in this moment may be lost; they are never held up.
    """
    with contextlib.suppress(OSError):
        if (size := log.stat().st_size) <= _LONGEST:
            return
        with log.open("r+b", buffering=0) as file:
            begin = os.pread(file.fileno(), _PART + len(_CUT), 0)
            end = os.pread(file.fileno(), _PART, size - _PART)
            cut = begin.find(_CUT)  # since it was shortened before
            file.truncate(cut if cut >= 0 else begin.rfind(b"\n", _PART - _LINE, _PART) + 1 or _PART)
            fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
            file.write(_CUT + end[end.find(b"\n", 0, _LINE) + 1 :])


def last_lines(log: Path) -> str:
    """Return the end of what a process printed."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError:
        return ""
