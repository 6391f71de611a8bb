"""Start a worker's process, and find out how it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootstock.channel.endpoint import Endpoint
from rootstock.channel.memory import SharedMemory
from rootstock.data import PACKAGE
from rootstock.errors import WorkerDiedError, WorkerError, WorkerStartError

WORKER_ENTRY = PACKAGE / "worker" / "__main__.py"
FRAME_S = 30.0  # for the rest of a frame that has begun
_REAP_S = 2.0  # a dying process closes its socket a little before it can be reaped
_TAIL_BYTES = 8000
_TAIL_LINES = 30


@dataclass(frozen=True)
class Launch:
    """How to start a worker.

    Attributes
    ----------
    name : str
        Name of the environment, for messages and the log's name.
    command : tuple of str
        The interpreter and its options; the worker's own entry and arguments follow.
    variables : Mapping[str, str]
        The worker's whole environment.
    environment_file : Path
        The file whose ``setup()`` makes the calculator.
    root : Path
        The root that it belongs to.
    mode : str
        ``build`` or ``uv-run``.
    build : Path or None
        The build's folder.
    entry : Path
        The worker's code. By default that of this package, so that client and worker never differ.
    """

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str] = field(repr=False)
    environment_file: Path
    root: Path
    mode: str
    build: Path | None = None
    entry: Path = WORKER_ENTRY


class WorkerProcess:
    """A running worker: its process, its end of the channel, and its log.

    Parameters
    ----------
    launch : Launch
    log : Path or None
        Where its output goes. None: a file in the user's private scratch folder, removed when the worker ends well.
    """

    def __init__(self, launch: Launch, log: Path | None = None) -> None:
        self.launch = launch
        self._keep_log = log is not None
        self.log, output = open_log(launch.name, log)
        self.memory = SharedMemory.create()
        ours, theirs = socket.socketpair()
        reader, self._lifeline = os.pipe()
        _lifelines.add(self._lifeline)
        try:
            self._process = subprocess.Popen(
                [*launch.command, str(launch.entry), *map(str, (theirs.fileno(), self.memory.fd, reader))],
                env=dict(launch.variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(), self.memory.fd, reader),
                # Its own session: Ctrl-C in the terminal reaches the client only, which decides.
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            self._close_descriptors()
            raise cannot_start(launch.command[0], error, str(self.log)) from error
        finally:
            theirs.close()
            os.close(reader)
            os.close(output)
        # A worker's own children may hold the socket open after its death; the pidfd tells the truth.
        self._pidfd = os.pidfd_open(self._process.pid) if hasattr(os, "pidfd_open") else None
        self.endpoint = Endpoint(ours, *([] if self._pidfd is None else [self._pidfd]))

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, timeout: float) -> int | None:
        """Return the exit code, or None if the process lives on after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def end(self, *, patience: float) -> int | None:
        """End the process and let go of everything; waits at most `patience` seconds before and after SIGKILL.

        Returns
        -------
        int or None
            Its exit code; None if even SIGKILL did not end it (it hangs in the kernel, as on a dead file system).
        """
        code = self.wait(patience)
        if code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            code = self.wait(max(patience, 5.0))
        self.abandon()
        if code == 0 and not self._keep_log:
            self.log.unlink(missing_ok=True)
        return code

    def abandon(self) -> None:
        """Let go of the worker without a word: it ends by itself, unless another process holds its lifeline."""
        self.endpoint.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        if self._lifeline in _lifelines:
            _lifelines.discard(self._lifeline)
            os.close(self._lifeline)
            os.close(self.memory.fd)

    @property
    def title(self) -> str:
        """What this is a worker of, for messages."""
        return f"of environment {self.launch.name!r}"

    def failure(self, kind: type[WorkerError], what: str, report: Mapping[str, Any]) -> WorkerError:
        """Return the error for an exception that the worker reported."""
        return kind(
            f"{what}: {report.get('type')}: {report.get('message')}",
            log=str(self.log),
            remote_type=str(report.get("type", "")),
            remote_traceback=str(report.get("traceback", "")),
        )

    def died(self, kind: type[WorkerError], when: str) -> WorkerError:
        """Return the error for a worker whose end of the socket is closed, and let go of it."""
        code = self.end(patience=_REAP_S)
        error = kind(f"The worker {self.title} {describe_exit(code)} {when}.", log=str(self.log), tail=self.tail())
        if isinstance(error, WorkerDiedError):
            error.returncode = code
        return error

    def tail(self) -> str:
        """Return the last lines that the worker printed."""
        return last_lines(self.log)


# A forked child inherits the lifelines of its parent's workers and would keep them alive after the parent's death.
_lifelines: set[int] = set()


def _close_lifelines() -> None:
    for fd in _lifelines:
        with contextlib.suppress(OSError):
            os.close(fd)
    _lifelines.clear()


os.register_at_fork(after_in_child=_close_lifelines)


def cannot_start(program: str, error: OSError, log: str = "") -> WorkerStartError:
    """Return the error for an interpreter that this user cannot run."""
    return WorkerStartError(
        f"Cannot start {program}: {error.strerror}.",
        "rootstock-site status shows whether the build is there; its interpreter must be executable by you.",
        log=log,
    )


def describe_exit(code: int | None) -> str:
    """Say how a process ended.

    >>> describe_exit(3), describe_exit(-9)
    ('exited with code 3', 'was killed by SIGKILL (out of memory, or someone ended it)')
    """
    if code is None:
        return "is gone, its exit code unknown"
    # A shell, or uv, reports its child's signal as 128 and its number.
    number = -code if code < 0 else code - 128
    if not 0 < number < signal.NSIG:
        return f"exited with code {code}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    causes = {
        "SIGKILL": " (out of memory, or someone ended it)",
        "SIGSEGV": " (a crash in compiled code)",
        "SIGABRT": " (a crash in compiled code)",
        "SIGBUS": " (a file it uses was cut short, or memory ran out)",
        "SIGILL": " (a build for another processor)",
    }
    return f"was killed by {name}{causes.get(name, '')}"


def last_lines(log: Path) -> str:
    """Return the end of what a process printed."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError:
        return ""


def private_scratch() -> Path:
    """Return a folder of this user on the node's own disk, readable by nobody else.

    It is ``rootstock-<uid>`` in the job's scratch folder or the temporary folder. Should that name be taken by
    somebody else, another is made.
    """
    parent = Path(os.environ.get("SLURM_TMPDIR", ""))
    if not os.environ.get("SLURM_TMPDIR") or not parent.is_dir():
        parent = Path(tempfile.gettempdir())
    folder = parent / f"rootstock-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix=f"rootstock-{os.getuid()}-", dir=parent))


def open_log(name: str, path: Path | None) -> tuple[Path, int]:
    """Open a file for what a process prints: `path`, or a new one in the user's private scratch folder."""
    try:
        if path is not None:
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        folder = private_scratch() / "log"
        folder.mkdir(mode=0o700, exist_ok=True)
        safe = "".join(c if c.isalnum() or c in "._@-" else "_" for c in name)[:60]
        fd, text = tempfile.mkstemp(prefix=f"{safe}-", suffix=".log", dir=folder)
        return Path(text), fd
    except OSError as error:
        raise WorkerStartError(
            f"Cannot write a log for the worker ({error.filename or tempfile.gettempdir()}: {error.strerror}).",
            "Set TMPDIR to a folder that you can write, or pass log=PATH.",
        ) from error
