"""A program that this process started, its log and its end: a worker, or an i-PI client of somebody else's."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rootstock.client.scratch import last_lines, open_log, shorten
from rootstock.client.uninterrupted import uninterrupted
from rootstock.errors import WorkerDiedError, WorkerError, WorkerStartError
from rootstock.worker.channel.descriptors import above_standard_streams
from rootstock.worker.channel.running_time import poll_until, running_time

logger = logging.getLogger("rootstock")

REAP_S = 2.0  # a dying process closes its socket a little before it can be reaped
_KILL_S = 5.0  # after SIGKILL; a process that hangs in the kernel takes longer, or for ever

E = TypeVar("E", bound=WorkerError)

_running: set[ChildProcess] = set()
_given_up: list[subprocess.Popen[bytes]] = []


class _Ender:
    """Lives as long as a call that ends a process."""


class ChildProcess:
    """A program that runs in a session of its own, so that Ctrl-C in the terminal reaches this process only.

    It is started and ended where no signal handler can cut that in two. Whoever makes one sees to its `end` before
    calling `start`: then there is no moment at which a process is there that nobody will end.

    Parameters
    ----------
    description : str
        What it is, for the log of this process.
    name : str
        Name of its log.
    log : Path or None
        Where its output goes. None: a file in the user's private scratch folder, until `drop_log`.

    Attributes
    ----------
    pid : int
        Zero before the start.
    log : Path
    exit_fd : int
        Readable once the program has ended, although a child of it may hold its sockets open.
    returncode : int or None
        How it ended, as `subprocess` says it; None before that, and if it is not known: somebody else asked first, or
        this process ignores SIGCHLD.
    owner : weakref.ref or None
        Who ends it. If nobody is there any more, for an interruption cut the end, it is ended with the next start.
    """

    _ends_with_children = True
    _lingers = False

    def __init__(self, description: str, name: str, log: Path | None) -> None:
        self._description, self._name, self._given_log = description, name, log
        self._keep_log = log is not None
        self._over = False
        self._turn = threading.Lock()  # one thread starts or ends it at a time
        self._held = contextlib.ExitStack()
        self.pid = 0
        self.returncode: int | None = None
        self.owner: Callable[[], object | None] | None = None

    def start(self) -> None:
        """Start the program.

        Raises
        ------
        WorkerStartError
            If that is not possible. Nothing is left of it then.
        """
        for process in _running.copy():  # to which other threads add meanwhile
            if process.owner is not None and process.owner() is None:
                process.end(0.0)
        try:
            uninterrupted(self._begin, self._wait_for_exit if self._lingers else None)
        except OSError as error:
            raise self._cannot_start(error) from error

    def _begin(self) -> None:
        with self._turn, above_standard_streams(), contextlib.ExitStack() as inherited:
            if self._over:  # interrupted and ended before it began
                return
            self.log, output = open_log(self._name, self._given_log)
            inherited.callback(os.close, output)
            try:
                self._open(output, inherited)
            except BaseException:
                self._over = True
                self._held.close()
                self.drop_log()
                raise
            _running.add(self)

    def _cannot_start(self, error: OSError) -> WorkerStartError:
        """Return the error for a program that cannot be started."""
        raise NotImplementedError

    def _open(self, output: int, inherited: contextlib.ExitStack) -> None:
        """Open what is needed, and `_run` the program; `inherited` is closed here when it has started."""
        raise NotImplementedError

    def _run(self, command: Sequence[str], output: int, **options: Any) -> None:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )
        try:
            self.exit_fd = _exit_descriptor(process)
        except BaseException:
            process.kill()
            process.wait(_KILL_S)
            raise
        self._held.callback(os.close, self.exit_fd)
        self._process, self.pid = process, process.pid

    def _wait_for_exit(self) -> None:
        if self.pid and hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def wait(self, timeout: float) -> int | None:
        """Return the exit code, zero if it is not known; None if the process lives on after `timeout` seconds."""
        if not self._exits(timeout):
            return None
        code = self.returncode if self._over else self._exit_code()
        return code or 0

    def _exits(self, timeout: float) -> bool:
        """Wait until the process has ended, and leave it to be reaped."""
        if self._over:
            return True
        poll = select.poll()
        poll.register(self.exit_fd, select.POLLIN)
        return bool(poll_until(poll, running_time() + timeout))

    def _exit_code(self) -> int | None:
        """Return how the process ended, and leave it to be reaped; None if that is not known."""
        if not hasattr(os, "waitid"):
            return self._process.wait()
        try:
            # By a descriptor, for the number may be another's by now, if somebody else has reaped it.
            status = os.waitid(os.P_PIDFD, self.exit_fd, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return None
        except (AttributeError, OSError):  # Linux before 5.4, or the descriptor is none of a process
            try:
                status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                return None
        if status is None:
            return None
        return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status

    def end(self, patience: float) -> int | None:
        """End the process and let go of everything; waits `patience` seconds before SIGKILL, and a few after it.

        Returns
        -------
        int or None
            Its exit code; None if that is not known, or if even SIGKILL did not end it (it hangs in the kernel, as on a
            dead file system).
        """
        ender = _Ender()
        self.owner = weakref.ref(ender)  # so that another start does not cut the patience short
        try:
            if patience and self.pid:
                self._exits(patience)
        finally:  # also if waiting was interrupted
            uninterrupted(self._end)
        return self.returncode

    def _end(self) -> None:
        with self._turn:
            if self._over or not self.pid:
                self._over = True
                return
            exited = self._stop()
            if exited:
                self.returncode = self._exit_code()
                self._process.wait()
            self._over = True
            _running.discard(self)
            self._held.close()
        if not exited:
            _given_up.append(self._process)  # Python reaps it some day, and does not complain that nobody did
            logger.warning(
                "%s (process %d) does not end, not even by SIGKILL: it hangs in the kernel, as on a dead file system. "
                "It was given up. Its output: %s", self._description, self.pid, self.log,
            )  # fmt: skip

    def _stop(self) -> bool:
        """End the program at once, and tell whether it has ended."""
        exited = self._exits(0.0)
        # It, and what processes it started. They are one group, whose number is theirs until it is reaped.
        if not exited or (self._ends_with_children and self._exit_code() is not None):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return self._exits(_KILL_S)

    def drop_log(self) -> None:
        """Remove the log, unless somebody wants it."""
        if not self._keep_log:
            self.log.unlink(missing_ok=True)

    def shorten_log(self) -> None:
        """Keep the log short; called now and then. One that the caller named may hold more than this process wrote."""
        if self._given_log is None:
            shorten(self.log)

    def explain(self, error: E) -> E:
        """Add to an error where the output is and how it ends, and how the process ended."""
        error.log, error.tail = str(self.log), last_lines(self.log)
        if isinstance(error, WorkerDiedError):
            error.returncode = self.returncode
        return error


def _exit_descriptor(process: subprocess.Popen[bytes]) -> int:
    """Return a descriptor that is readable once a child has ended."""
    try:
        return os.pidfd_open(process.pid)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.EPERM, errno.ESRCH):
            raise
    reader, writer = os.pipe()  # Linux before 5.3, a sandbox, macOS; or it has ended, and somebody else has reaped it
    threading.Thread(target=_signal_exit, args=(process, writer), daemon=True).start()
    return reader


def _signal_exit(process: subprocess.Popen[bytes], writer: int) -> None:
    with contextlib.suppress(ChildProcessError):
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        else:
            process.wait()
    with contextlib.suppress(BrokenPipeError):
        os.write(writer, b".")
    os.close(writer)


os.register_at_fork(after_in_child=_running.clear)  # they are the parent's
