"""A client of somebody else's, started by us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rootstock.client.process import KILL_S, give_up
from rootstock.client.scratch import last_lines, open_log
from rootstock.errors import WorkerStartError


class ClientProcess:
    """The process of a client.

    Parameters
    ----------
    command : sequence of str
        Program and arguments; ``{socket}``, ``{address}``, ``{host}`` and ``{port}`` are filled in.
    names : Mapping[str, str]
        What is filled in.
    directory : path or None
        Where it runs.
    log : path or None
        Where its output goes. None: a file in the user's private scratch folder, removed if it ends well.

    Raises
    ------
    WorkerStartError
        If the program cannot be started, or the command asks for a name that there is not.
    """

    def __init__(
        self, command: Sequence[str], names: Mapping[str, str], directory: Path | None, log: Path | None
    ) -> None:
        self.program = os.path.basename(command[0])
        self._keep_log = log is not None
        filled = [_fill(argument, names) for argument in command]
        self.log, output = open_log(self.program, log)
        self.fds: tuple[int, ...] = ()
        try:
            # Its own session: Ctrl-C in the terminal reaches us only.
            self._process = subprocess.Popen(
                filled, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            self._drop_log()
            raise self._not_started(filled[0], directory, error) from error
        finally:
            os.close(output)
        try:
            # Readable when the process has ended.
            self.fds = (os.pidfd_open(self._process.pid),) if hasattr(os, "pidfd_open") else ()
        except OSError as error:
            self.end(0.0, well=True)
            raise self._not_started(filled[0], directory, error) from error

    def _not_started(self, program: str, directory: Path | None, error: OSError) -> WorkerStartError:
        return WorkerStartError(
            f"Cannot start {program} in {directory or Path.cwd()}: {error.strerror}.",
            "command= names the program and its arguments; no shell reads it.",
        )

    def _drop_log(self) -> None:
        if not self._keep_log:
            self.log.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, timeout: float) -> int | None:
        """Return the exit code, or None if the process lives on after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def end(self, patience: float, *, well: bool = False) -> int | None:
        """End the process, waiting for it to do so by itself first; return its exit code if it has one.

        What it printed is kept unless `well` says that nothing went wrong.
        """
        code = self.wait(patience)
        if code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            code = self.wait(KILL_S)
            if code is None:
                give_up(self._process, f"i-PI client {self.program!r}", self.log)
        for fd in self.fds:
            os.close(fd)
        self.fds = ()
        if well:
            self._drop_log()
        return code

    def tail(self) -> str:
        """Return the last lines that it printed."""
        return last_lines(self.log)


def _fill(argument: str, names: Mapping[str, str]) -> str:
    for name in ("socket", "address", "host", "port"):
        if f"{{{name}}}" in argument:
            if name not in names:
                raise WorkerStartError(
                    f"The command wants {{{name}}}, which there is not for this kind of socket.",
                    "{socket} and {address} are for Unix sockets, {host} and {port} for TCP (port=0: any free one).",
                )
            argument = argument.replace(f"{{{name}}}", names[name])
    return argument
