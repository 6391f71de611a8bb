"""Start a worker's process, and find out how it ended."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rootstock.client.exit_status import cannot_start, describe_exit
from rootstock.client.scratch import last_lines, open_log
from rootstock.config.packaged import PACKAGE
from rootstock.errors import WorkerDiedError, WorkerError, WorkerStartError
from rootstock.root.layout import RootLayout
from rootstock.worker.channel.endpoint import Endpoint
from rootstock.worker.channel.failures import Failure
from rootstock.worker.channel.memory import SharedMemory
from rootstock.worker.channel.wakeup import CLIENT, WakeupFlag

logger = logging.getLogger("rootstock")

WORKER_ENTRY = PACKAGE / "worker" / "__main__.py"
FRAME_S = 30.0  # for the rest of a frame that has begun
_REAP_S = 2.0  # a dying process closes its socket a little before it can be reaped
KILL_S = 5.0  # after SIGKILL; a process that hangs in the kernel takes longer, or for ever


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
    layout : RootLayout
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
    layout: RootLayout
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
        self._over = False
        # Whatever goes wrong here, also an interruption, closes what was opened so far: without its lifeline a
        # process that was already started ends.
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            self.log, output = open_log(launch.name, log)
            theirs.callback(os.close, output)
            unused_log = contextlib.ExitStack()
            if not self._keep_log:
                ours.enter_context(unused_log).callback(self.log.unlink, missing_ok=True)
            try:
                self._start(output, ours, theirs)
            except OSError as error:
                raise cannot_start(launch.command[0], error) from error
            unused_log.pop_all()
            self._held = ours.pop_all()

    def _start(self, output: int, ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> None:
        self.memory = SharedMemory.create()
        ours.callback(self.memory.close)
        flag = WakeupFlag(self.memory.fd, CLIENT)
        ours.callback(flag.close)
        sock, their_socket = socket.socketpair()
        ours.enter_context(sock)
        theirs.enter_context(their_socket)
        reader, lifeline = os.pipe()
        theirs.callback(os.close, reader)
        _lifelines.add(lifeline)
        ours.callback(_let_go, lifeline)
        descriptors = (their_socket.fileno(), self.memory.fd, reader)
        self._process = subprocess.Popen(
            [*self.launch.command, str(self.launch.entry), *map(str, descriptors)],
            env=dict(self.launch.variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=descriptors,
            # Its own session: Ctrl-C in the terminal reaches the client only, which decides.
            start_new_session=True,
        )
        try:
            # A worker's own children may hold the socket open after its death; this tells the truth.
            self._exit_fd = _exit_descriptor(self._process)
            ours.callback(os.close, self._exit_fd)
            self.endpoint = Endpoint(sock, flag, self._exit_fd)
        except BaseException:
            self._process.kill()
            self._process.wait(KILL_S)
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def _exits(self, timeout: float) -> bool:
        """Wait until the process has ended, and leave it to be reaped."""
        poll = select.poll()
        poll.register(self._exit_fd, select.POLLIN)
        return bool(poll.poll(1000 * timeout))

    def end(self, *, patience: float) -> int | None:
        """End the process and let go of everything; waits `patience` seconds before SIGKILL, and a few after it.

        Returns
        -------
        int or None
            Its exit code; None if even SIGKILL did not end it (it hangs in the kernel, as on a dead file system).
        """
        if self._over:
            return self._process.returncode
        try:
            self._exits(patience)
        finally:  # also if waiting was interrupted
            # It, and what processes a model started. They are one session, whose number is theirs until it is reaped.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            gone = self._exits(KILL_S)
            self.abandon()
        if gone:
            self._process.wait()
        else:
            give_up(self._process, f"Worker of {self.launch.name}", self.log)
        code = self._process.returncode
        if code == 0 and not self._keep_log:
            self.log.unlink(missing_ok=True)
        return code

    def abandon(self) -> None:
        """Let go of the worker without a word: it ends by itself, unless another process holds its lifeline."""
        self._over = True
        self._held.close()

    @property
    def title(self) -> str:
        """What this is a worker of, for messages."""
        return f"of environment {self.launch.name!r}"

    def failure(self, kind: type[WorkerError], what: str, report: Failure) -> WorkerError:
        """Return the error for an exception that the worker reported."""
        self._keep_log |= issubclass(kind, WorkerStartError)  # it ends of itself, as if all were well
        return kind(
            f"{what}: {report.type}: {report.message}",
            log=str(self.log),
            remote_type=report.type,
            remote_traceback=report.traceback,
        )

    def died(self, kind: type[WorkerError], when: str) -> WorkerError:
        """Return the error for a worker whose end of the socket is closed, and let go of it."""
        exited = self._over or self._exits(_REAP_S)
        self._keep_log = True  # also if it said that all is well, by exit code 0
        code = self.end(patience=0.0)
        how = describe_exit(code) if exited else "closed its channel, and was ended,"
        error = kind(f"The worker {self.title} {how} {when}.", log=str(self.log), tail=self.tail())
        if isinstance(error, WorkerDiedError):
            error.returncode = code
        return error

    def tail(self) -> str:
        """Return the last lines that the worker printed."""
        return last_lines(self.log)


def _exit_descriptor(process: subprocess.Popen[bytes]) -> int:
    """Return a descriptor that is readable once a child has ended."""
    try:
        return os.pidfd_open(process.pid)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    reader, writer = os.pipe()  # Linux before 5.3, a sandbox, macOS
    threading.Thread(target=_tell_exit, args=(process, writer), daemon=True).start()
    return reader


def _tell_exit(process: subprocess.Popen[bytes], writer: int) -> None:
    with contextlib.suppress(ChildProcessError):
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        else:
            process.wait()
    with contextlib.suppress(BrokenPipeError):
        os.write(writer, b".")
    os.close(writer)


_given_up: list[subprocess.Popen[bytes]] = []


def give_up(process: subprocess.Popen[bytes], what: str, log: Path) -> None:
    """Leave a process alone that even SIGKILL does not end, and say so."""
    _given_up.append(process)  # Python reaps it some day, and does not complain that nobody did
    logger.warning(
        "%s (process %d) does not end, not even by SIGKILL: it hangs in the kernel, as on a dead file system. "
        "It was given up. Its output: %s", what, process.pid, log,
    )  # fmt: skip


# A forked child inherits the lifelines of its parent's workers and would keep them alive after the parent's death.
_lifelines: set[int] = set()


def _let_go(lifeline: int) -> None:
    if lifeline in _lifelines:
        _lifelines.discard(lifeline)
        os.close(lifeline)


def _after_fork() -> None:
    global _forks
    _forks += 1
    for fd in _lifelines:
        with contextlib.suppress(OSError):
            os.close(fd)
    _lifelines.clear()


_forks = 0
os.register_at_fork(after_in_child=_after_fork)


def forks() -> int:
    """Return how many forks lie between this process and the one that imported this: who differs is another one.

    Asking the kernel for the process's number would cost a system call in every evaluation.
    """
    return _forks
