"""A worker's process and its end of the channel, and what a fork of this process must not touch."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootstock.client.child_process import REAP_S, ChildProcess
from rootstock.client.exit_status import HOW_IS_UNKNOWN, cannot_start, describe_exit
from rootstock.config.packaged import PACKAGE
from rootstock.errors import UnsupportedPropertyError, WorkerError, WorkerStartError
from rootstock.root.layout import RootLayout
from rootstock.worker.channel.endpoint import Endpoint
from rootstock.worker.channel.failures import Failure
from rootstock.worker.channel.frames import Frame
from rootstock.worker.channel.memory import SharedMemory
from rootstock.worker.channel.wakeup import CLIENT, WakeupFlag
from rootstock.worker.signals import OF_A_JOB

WORKER_ENTRY = PACKAGE / "worker" / "__main__.py"
_GUARD_S = 5.0  # for a worker's end, and that of its children
FRAME_S = 30.0  # for the rest of a frame that has begun


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
    home : Path or None
        The worker's own home, if it has one; what is a link there lies in the root's cache.
    """

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str] = field(repr=False)
    environment_file: Path
    layout: RootLayout
    mode: str
    build: Path | None = None
    entry: Path = WORKER_ENTRY
    home: Path | None = None


class WorkerProcess(ChildProcess):
    """A running worker: its process, its end of the channel, and its log.

    Parameters
    ----------
    launch : Launch
    log : Path or None
        Where its output goes. None: a file in the user's private scratch folder, removed when the worker ends well.

    Attributes
    ----------
    title : str
        What this is a worker of, for messages.
    answers : bool
        Whether it has sent anything yet: then it has a guard, which ends the worker's children.
    """

    def __init__(self, launch: Launch, log: Path | None = None) -> None:
        super().__init__(f"Worker of {launch.name}", launch.name, log)
        self.launch = launch
        self.title = f"of environment {launch.name!r}"
        self.answers = False

    def _cannot_start(self, error: OSError) -> WorkerStartError:
        return cannot_start(self.launch.command[0], error)

    def _open(self, output: int, inherited: contextlib.ExitStack) -> None:
        held = self._held
        self.memory = SharedMemory.create()
        held.callback(self.memory.close)
        flag = WakeupFlag(self.memory.fd, CLIENT)
        held.callback(flag.close)
        sock, their_socket = socket.socketpair()
        held.enter_context(sock)
        inherited.enter_context(their_socket)
        reader, self._lifeline = os.pipe()
        inherited.callback(os.close, reader)
        _lifelines.add(self._lifeline)
        held.callback(_let_go, self._lifeline)  # a process that was started ends without it
        descriptors = (their_socket.fileno(), self.memory.fd, reader)
        command = [*self.launch.command, str(self.launch.entry), *map(str, descriptors)]
        # This thread's mask is inherited, also through uv: a worker's first moments are as safe as all others. (In
        # Popen's preexec_fn nothing is safe in a program with threads, and large processes would be forked slowly.)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, OF_A_JOB)
        try:
            self._run(command, output, env=dict(self.launch.variables), pass_fds=descriptors)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.endpoint = Endpoint(sock, flag, self.exit_fd, self.shorten_log)

    def hear(self, timeout: float) -> tuple[Frame, dict[str, Any]]:
        """Return what the worker tells of its start; see `Endpoint.receive`."""
        told = self.endpoint.receive(timeout)
        self.answers = True
        return told

    def _stop(self) -> bool:
        """End the worker, by its lifeline first: then its guard ends all that it has started."""
        if not self._exits(0.0):
            with contextlib.suppress(BrokenPipeError, BlockingIOError):
                os.write(self._lifeline, b".")  # as good as closing it, though somebody may hold a copy of this end
            if self.answers and sys.platform == "linux":
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGCONT)  # a guard that was stopped ends nothing
                if not self._exits(_GUARD_S):
                    # The worker was sent SIGKILL, and hangs. Its guard lives on, to end the children after it.
                    return False
        return super()._stop()

    def _end(self) -> None:
        super()._end()
        if self.returncode == 0:
            self.drop_log()  # nobody needs that of a worker which ended well

    def failure(self, kind: type[WorkerError], prefix: str, report: Failure) -> WorkerError:
        """Return the error for an exception that the worker reported.

        Parameters
        ----------
        kind : type of WorkerError
        prefix : str
            The beginning of its message.
        report : Failure
        """
        self._keep_log |= not issubclass(kind, UnsupportedPropertyError)  # the error names it
        return kind(
            f"{prefix}: {report.type}: {report.message}",
            log=str(self.log),
            remote_type=report.type,
            remote_traceback=report.traceback,
        )

    def died(self, kind: type[WorkerError], when: str) -> WorkerError:
        """Return the error for a worker whose end of the socket is closed, and let go of it.

        Parameters
        ----------
        kind : type of WorkerError
        when : str
            The end of its message, such as ``during an evaluation``.
        """
        exited = self._over or self._exits(REAP_S)
        self._keep_log = True  # also if it said that all is well, by exit code 0
        code = self.end(patience=0.0)
        how = describe_exit(code) if exited else "closed its channel, and was ended,"
        hint = HOW_IS_UNKNOWN if exited and code is None else ""
        return self.explain(kind(f"The worker {self.title} {how} {when}.", hint))


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
