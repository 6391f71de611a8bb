"""A client of somebody else's, started by us."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rootstock.client.child_process import ChildProcess
from rootstock.errors import WorkerStartError


class ClientProcess(ChildProcess):
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
        Where its output goes. None: a file in the user's private scratch folder, removed unless the client fails.

    Raises
    ------
    WorkerStartError
        If the command asks for a name that there is not.
    """

    _ends_with_children = False  # it may have handed over to another process, as a batch system's command does
    # Some programs ask to end with their parent (prctl(2), PR_SET_PDEATHSIG): that is the thread which started them.
    _lingers = True

    def __init__(
        self, command: Sequence[str], names: Mapping[str, str], directory: Path | None, log: Path | None
    ) -> None:
        program = os.path.basename(command[0])
        self.title = f"i-PI client {program!r}"
        super().__init__(self.title, program, log)
        self._command = [_fill(argument, names) for argument in command]
        self._directory = directory

    def _cannot_start(self, error: OSError) -> WorkerStartError:
        return WorkerStartError(
            f"Cannot start {self._command[0]} in {self._directory or Path.cwd()}: {error.strerror}.",
            "command= names the program and its arguments; no shell reads it.",
        )

    def _open(self, output: int, inherited: contextlib.ExitStack) -> None:  # noqa: ARG002
        self._run(self._command, output, cwd=self._directory)


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
