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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from rootstock.client.scratch import last_lines, open_log, shorten
from rootstock.errors import WorkerDiedError, WorkerError
from rootstock.worker.channel.running_time import poll_until, running_time

logger = logging.getLogger("rootstock")

REAP_S = 2.0  # a dying process closes its socket a little before it can be reaped
_KILL_S = 5.0  # after SIGKILL; a process that hangs in the kernel takes longer, or for ever

E = TypeVar("E", bound=WorkerError)

_given_up: list[subprocess.Popen[bytes]] = []


class ChildProcess:
    """A program that runs in a session of its own, so that Ctrl-C in the terminal reaches this process only.

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
    log : Path
    exit_fd : int
        Readable once the program has ended, although a child of it may hold its sockets open.
    """

    _ends_with_children = True

    def __init__(self, description: str, name: str, log: Path | None) -> None:
        self._description = description
        self._keep_log = self._others_log = log is not None
        self._over = False
        # Whatever goes wrong here, also an interruption, closes what was opened so far.
        with contextlib.ExitStack() as held, contextlib.ExitStack() as inherited:
            self.log, output = open_log(name, log)
            inherited.callback(os.close, output)
            try:
                self._start(output, held, inherited)
            except BaseException:
                self.drop_log()
                raise
            self._held = held.pop_all()

    def _start(self, output: int, held: contextlib.ExitStack, inherited: contextlib.ExitStack) -> None:
        """Open what is needed, and `_run` the program: its own descriptors are closed here when it has started."""
        raise NotImplementedError

    def _run(self, command: Sequence[str], output: int, held: contextlib.ExitStack, **options: Any) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )
        self.pid = self._process.pid
        try:
            self.exit_fd = _exit_descriptor(self._process)
        except BaseException:
            self._process.kill()
            self._process.wait(_KILL_S)
            raise
        held.callback(os.close, self.exit_fd)

    def wait(self, timeout: float) -> int | None:
        """Return the exit code, or None if the process lives on after `timeout` seconds."""
        return self._process.wait() if self._exits(timeout) else None

    def _exits(self, timeout: float) -> bool:
        """Wait until the process has ended, and leave it to be reaped."""
        poll = select.poll()
        poll.register(self.exit_fd, select.POLLIN)
        return bool(poll_until(poll, running_time() + timeout))

    def end(self, patience: float) -> int | None:
        """End the process and let go of everything; waits `patience` seconds before SIGKILL, and a few after it.

        Returns
        -------
        int or None
            Its exit code; None if even SIGKILL did not end it (it hangs in the kernel, as on a dead file system).
        """
        if self._over:
            return self._process.returncode
        exited = False
        try:
            exited = self._exits(patience)
        finally:  # also if waiting was interrupted
            # It, and what processes it started. They are one session, whose number is theirs until it is reaped.
            if self._ends_with_children or not exited:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
            exited = self._exits(_KILL_S)
            self._over = True
            self._held.close()
        if exited:
            return self._process.wait()
        _given_up.append(self._process)  # Python reaps it some day, and does not complain that nobody did
        logger.warning(
            "%s (process %d) does not end, not even by SIGKILL: it hangs in the kernel, as on a dead file system. "
            "It was given up. Its output: %s", self._description, self.pid, self.log,
        )  # fmt: skip
        return None

    def drop_log(self) -> None:
        """Remove the log, unless somebody wants it."""
        if not self._keep_log:
            self.log.unlink(missing_ok=True)

    def shorten_log(self) -> None:
        """Keep the log short; called now and then. One that the caller named may hold more than this process wrote."""
        if not self._others_log:
            shorten(self.log)

    def explain(self, error: E) -> E:
        """Add to an error where the output is and how it ends, and how the process ended."""
        error.log, error.tail = str(self.log), last_lines(self.log)
        if isinstance(error, WorkerDiedError):
            error.returncode = self._process.returncode
        return error


def _exit_descriptor(process: subprocess.Popen[bytes]) -> int:
    """Return a descriptor that is readable once a child has ended."""
    try:
        return os.pidfd_open(process.pid)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    reader, writer = os.pipe()  # Linux before 5.3, a sandbox, macOS
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
