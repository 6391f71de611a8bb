"""One driver as its pool sees it: a process, what it has, and what it has told."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rootstock.client.child_process import ChildProcess
from rootstock.client.own_python import own_python
from rootstock.client.reported import error_class
from rootstock.client.threads import OF_LIBRARIES
from rootstock.errors import RootstockError, WorkerDiedError, WorkerStartError
from rootstock.simulations.pool.wire import Wire

if TYPE_CHECKING:
    from rootstock.simulations.pool.slots import Slot


class _Process(ChildProcess):
    """The process of a driver."""

    def __init__(self, slot: Slot) -> None:
        super().__init__(f"The driver of {slot.name}", f"driver-{slot.name}", None)
        self._variables = slot.variables

    def _open(self, output: int, inherited: contextlib.ExitStack) -> None:
        ours, theirs = socket.socketpair()
        inherited.callback(theirs.close)
        try:
            variables = {**os.environ, **dict.fromkeys(OF_LIBRARIES, "1")}
            for name, value in self._variables.items():
                variables.pop(name, None)
                if value is not None:
                    variables[name] = value
            command = [*own_python("rootstock.simulations.pool.driver", "main"), str(theirs.fileno())]
            self._run(command, output, pass_fds=[theirs.fileno()], env=variables)
        except BaseException:
            ours.close()
            raise
        self.wire = Wire(ours)
        self._held.callback(ours.close)

    def _cannot_start(self, error: OSError) -> WorkerStartError:
        return WorkerStartError(f"Cannot start a driver: {error.strerror}.", "Look at the limits of this job (ulimit).")


class Member:
    """A driver of a pool.

    Parameters
    ----------
    slot : Slot
    begin : Mapping
        What it computes with; see `rootstock.simulations.pool.driver`.

    Attributes
    ----------
    has : dict of int
        The structures that were handed to it and are not recorded, in the order of their handing out.
    with_nothing_else : bool
        Whether these are suspects.
    wants : int
        Structures of how many atoms it waits for; 0: it does not.
    ready : Mapping or None
        What it computes on, once it has told.
    state : str
        What it does, for people.
    error : RootstockError or None
        What has ended it.
    over : bool
        Whether it has said that it ends.
    """

    def __init__(self, slot: Slot, begin: Mapping[str, Any]) -> None:
        self.slot = slot
        self.has: dict[int, None] = {}
        self.with_nothing_else = self.over = False
        self.wants = 0
        self.ready: Mapping[str, Any] | None = None
        self.state = "starting"
        self.error: RootstockError | None = None
        self._process = _Process(slot)
        try:
            self._process.start()
            self.wire = self._process.wire
            self.wire.send(begin=begin)
        except BaseException:
            self.end()
            raise

    @property
    def doing(self) -> str:
        """What it does, for people: `state`, unless it has nothing to do."""
        return "waits for the others" if self.ready and self.wants and not self.has else self.state

    def hand(self, indices: list[int], *, with_nothing_else: bool = False) -> None:
        """Give it structures to compute.

        Parameters
        ----------
        indices : list of int
        with_nothing_else : bool
            Whether it gets no others until these are recorded.
        """
        self.has.update(dict.fromkeys(indices))
        self.with_nothing_else, self.wants = with_nothing_else, 0
        self.wire.send(take=indices)

    def died(self) -> RootstockError:
        """Return the error of a driver that ended without a word, after its end."""
        error = WorkerDiedError(
            f"The driver of {self.slot.name} (process {self._process.pid}) ended unexpectedly.",
            "If this repeats, the node may have too little memory for so many: use fewer --workers.",
        )
        return self._process.explain(error)

    def end(self) -> int | None:
        """End the process and its worker, if they still run; return its exit code."""
        code = self._process.end(2.0 if self.over else 0.0)
        if self.over and self._process.pid:
            self._process.drop_log()
        return code


def as_error(said: Mapping[str, str]) -> RootstockError:
    """Return the error that a driver has told.

    Parameters
    ----------
    said : Mapping
        As `rootstock.simulations.pool.driver.described` returns it.
    """
    error = error_class(said["type"])(said["message"], said["hint"])
    for name in ("log", "tail", "remote_traceback"):
        setattr(error, name, said[name])
    return error
