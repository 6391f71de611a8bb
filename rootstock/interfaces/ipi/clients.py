"""One client for one or several calculators: started or awaited when it is first needed, replaced when it is lost."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from ase import Atoms

from rootstock.client.exit_status import describe_exit
from rootstock.client.inputs import Inputs
from rootstock.errors import ConfigurationError, WorkerDiedError, WorkerError, WorkerStartError
from rootstock.interfaces.ipi.codec import encode_positions
from rootstock.interfaces.ipi.connection import Connection
from rootstock.interfaces.ipi.listener import Listener
from rootstock.interfaces.ipi.messages import ForceReady
from rootstock.interfaces.ipi.process import ClientProcess

Prepare = Callable[[Atoms], object]


@dataclass(frozen=True)
class ClientSpec:
    """How to get a client.

    Attributes
    ----------
    command : tuple of str or None
        What starts one; None: somebody else does.
    prepare : callable or None
        Called with the atoms before each start.
    address, host, port : str or None, str, int or None
        Where to listen; see `rootstock.interfaces.ipi.listener`.
    directory, log : Path or None
        Where the client runs, and where its output goes.
    start_timeout, timeout : float
        Seconds until it has connected, and for one evaluation.
    """

    command: tuple[str, ...] | None
    prepare: Prepare | None
    address: str | None
    host: str
    port: int | None
    directory: Path | None
    log: Path | None
    start_timeout: float
    timeout: float


class IPIClientSession:
    """Keeps one client that calculators share.

    Parameters
    ----------
    spec : ClientSpec
    """

    def __init__(self, spec: ClientSpec) -> None:
        self.spec = spec
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self._listener: Listener | None = None
        self._connection: Connection | None = None
        self._kind: tuple[Any, ...] = ()  # what the client knows of the atoms, and the protocol cannot change
        self._lock = threading.RLock()
        self._owner = os.getpid()

    def evaluate(self, inputs: Inputs, cell: bytes, positions: Any) -> ForceReady:
        """Compute, with a client that is there or is got first.

        Parameters
        ----------
        inputs : Inputs
            The atoms.
        cell : bytes
            The encoded cell.
        positions : ndarray, shape (n_atoms, 3) [Å]
            As they are sent.

        Raises
        ------
        ConfigurationError
            If these are other atoms than the client has.
        WorkerError
            If there is no client, or it is lost; the next call starts or awaits another.
        """
        with self._own_lock():
            connection = self._ready(inputs)
            return connection.evaluate(cell, encode_positions(positions), len(inputs), self.spec.timeout)

    def release(self, user: Any) -> None:
        """Let the client go if `user` was the last that needs it."""
        self.users.discard(user)
        with self._own_lock():
            if not self.users:
                self._drop()
                if self._listener is not None:
                    self._listener.close()
                    self._listener = None

    def _own_lock(self) -> Any:
        if self._owner != os.getpid():  # forked: client, listener, and whoever holds the lock, are the parent's
            self._lock, self._owner = threading.RLock(), os.getpid()
            self._connection = self._listener = None
        return self._lock

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ready(self, inputs: Inputs) -> Connection:
        """Return a client that has these atoms."""
        if not self.users:
            raise WorkerError("This calculator is closed.", "Make a new one, or enter it again (with calc: ...).")
        rest = inputs.rest  # all but cell, tags and info
        kind = (
            len(inputs),
            rest.numbers,
            rest.pbc,
            rest.initial_charges,
            rest.initial_magmoms,
            rest.initial_magmom_vectors,
        )
        if self._connection is not None and not self._connection.settle(self.spec.timeout):
            self._drop()
        if self._kind and kind != self._kind:
            if self.spec.prepare is None:
                raise ConfigurationError(
                    "These atoms differ from those of the i-PI client in more than positions and cell (number, "
                    "species, periodicity, initial charges or magnetic moments), which the protocol cannot tell it.",
                    "Use a calculator for each; or pass prepare=, a function that writes the client's input files: "
                    "the client is then started again.",
                )
            self._drop()
        if self._connection is None:
            self._connection = self._get(inputs)
            self._kind = kind
        return self._connection

    def _get(self, inputs: Inputs) -> Connection:
        spec = self.spec
        if spec.prepare is not None:
            spec.prepare(inputs.atoms())
        if self._listener is not None and not self._listener.reachable:
            self._listener.close()
            self._listener = None
        if self._listener is None:
            own = spec.address is None and spec.port is None
            self._listener = Listener.private() if own else Listener.at(spec.address, spec.host, spec.port)
        listener = self._listener
        if spec.command is None:
            return self._accept(listener, None)
        process = ClientProcess(spec.command, listener.names, spec.directory, spec.log)
        try:
            return self._accept(listener, process)
        except BaseException:
            process.end(0.0)
            raise
        finally:  # the next client gets a socket of its own, and nothing is left behind if this process is killed
            listener.close()
            self._listener = None

    def _accept(self, listener: Listener, process: ClientProcess | None) -> Connection:
        deadline = monotonic() + self.spec.start_timeout
        while (sock := listener.accept(deadline - monotonic(), process)) is not None:
            connection = Connection(sock, process)
            try:
                connection.greet(deadline - monotonic())
            except WorkerDiedError:
                if process is not None:
                    raise
                continue  # it only looked whether anybody listens
            return connection
        if process is None:
            raise WorkerStartError(
                f"No i-PI client connected to {_where(listener)} within {self.spec.start_timeout:.0f} s.",
                "Start it there, or pass a larger start_timeout=.",
            )
        code = process.wait(0.0)
        late = f"did not connect to {_where(listener)} within {self.spec.start_timeout:.0f} s"
        raise WorkerStartError(
            f"The i-PI client {process.program!r} {f'{describe_exit(code)} before it connected' if code else late}.",
            "Its command must name the socket: {address} for programs that follow i-PI, {socket} for a path.",
            log=str(process.log),
            tail=process.tail(),
        )


def _where(listener: Listener) -> str:
    names = listener.names
    return names.get("socket") or f"{names['host']}:{names['port']}"
