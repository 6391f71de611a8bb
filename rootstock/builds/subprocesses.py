"""Run other programs to their end: uv, and Python's compiler of bytecode."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rootstock.errors import BuildError, SiteError
from rootstock.root.disk_usage import free_space
from rootstock.root.lock import Report, quiet
from rootstock.root.signals import take_again, thread_pool

_LITTLE_SPACE, _FEW_FILES = 2**20, 100  # what is left of a file system when hardly anything can be installed any more
_SHOWN = 25  # lines of a program's output that are part of an error
_WHAT_CAN_GO = "rootstock-site gc --dry-run shows what can go."
MAKE_ROOM = f"Make room: {_WHAT_CAN_GO}"


class NoRoomError(SiteError):
    """A file system, or a user's part of it, is full."""


# What uv and Python say where nothing more can be written, and what to do then.
_NO_ROOM = {
    r"No space left on device|os error 28\b": MAKE_ROOM,
    r"Disk quota exceeded|os error 122\b": f"Your quota there is used up. Ask for more, or make room: {_WHAT_CAN_GO}",
}
_TOO_LARGE = r"File too large|os error 27\b"


class Programs:
    """The programs that a command runs at the same time, so that they can be ended together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._over = False

    def end(self) -> None:
        """End all of them, and let none start any more."""
        with self._lock:
            self._over = True
            for process in self._running:
                process.kill()

    @contextlib.contextmanager
    def threads(self, number: int) -> Iterator[ThreadPoolExecutor]:
        """Yield threads that run such programs. An error in the block, such as an interruption, ends the programs.

        When the block is left, nothing that was begun runs any more, and nothing else begins.

        Parameters
        ----------
        number : int
            How many at a time.
        """
        with thread_pool(max(1, number)) as pool:
            try:
                yield pool
            except BaseException:
                self.end()
                raise
            finally:
                pool.shutdown(cancel_futures=True)

    def run(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        log: Report = quiet,
        umask: int = -1,
        folder: Path | None = None,
    ) -> str:
        """Run a program and return what it printed.

        Parameters
        ----------
        command : sequence of str
        variables : Mapping[str, str]
            Its environment.
        log : callable
            Is given every line that it prints.
        umask : int
            For the files that it makes; -1 is the caller's own.
        folder : Path, optional
            Where it runs.

        Raises
        ------
        BuildError
            If it fails; with its last lines.
        SiteError
            If it fails because nothing more can be written.
        """
        lines: list[str] = []
        with self._started(command, variables, umask, folder) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    lines.append(line.rstrip())
                    log(lines[-1])
            except BaseException:
                process.kill()
                raise
        with self._lock:
            self._running.discard(process)
        if process.returncode:
            name = f"{os.path.basename(command[0])} {command[1]}"
            shown = "\n".join(lines[-_SHOWN:])
            if process.returncode == -signal.SIGXFSZ:
                shown += os.strerror(errno.EFBIG)
            message = f"{name} failed (exit code {process.returncode}):\n{shown}"
            for pattern, hint in _NO_ROOM.items():
                if re.search(pattern, shown):
                    raise NoRoomError(message, hint)
            if re.search(_TOO_LARGE, shown):
                raise SiteError(message, "A limit of this shell forbids files of that size: ulimit -f shows it.")
            raise BuildError(message)
        return "\n".join(lines)

    def _started(
        self, command: Sequence[str], variables: Mapping[str, str], umask: int, folder: Path | None
    ) -> subprocess.Popen[str]:
        with self._lock:
            if self._over:
                raise BuildError("Interrupted.")
            process = subprocess.Popen(
                command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", umask=umask, cwd=folder, preexec_fn=_before_it_runs(),
            )  # fmt: skip
            self._running.add(process)
            return process


def _before_it_runs() -> Callable[[], None] | None:
    """Return what makes a new process take signals, and end with this one, where the system can do that.

    If we are killed, uv must not go on writing behind the back of the next run. What runs in the new process before uv
    takes no lock that another thread may have held.
    """
    if sys.platform != "linux":
        return None
    import ctypes

    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1

    def prepare() -> None:
        prctl(set_parent_death_signal, signal.SIGKILL)
        take_again()

    return prepare


def short_of_space(folder: Path) -> str:
    """Say how little is left on a file system that is as good as full, and what to do; nothing if it is not."""
    left = free_space(folder)
    if left.bytes > _LITTLE_SPACE and (left.files is None or left.files > _FEW_FILES):
        return ""
    return f"The file system of {folder} is nearly full: it has room for {left}. {MAKE_ROOM}"
