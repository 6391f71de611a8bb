"""One client for one or several calculators: started or awaited when it is first needed, replaced when it is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from rootstock.client.exit_status import describe_exit
from rootstock.client.inputs import Inputs
from rootstock.client.peer import PeerSession
from rootstock.errors import ConfigurationError, WorkerDiedError, WorkerStartError
from rootstock.interfaces.ipi.codec import encode_positions
from rootstock.interfaces.ipi.connection import Connection
from rootstock.interfaces.ipi.listener import Listener
from rootstock.interfaces.ipi.messages import ForceReady
from rootstock.interfaces.ipi.process import ClientProcess
from rootstock.worker.channel.running_time import running_time

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


class IPIClientSession(PeerSession):
    """Keeps one client that calculators share.

    Parameters
    ----------
    spec : ClientSpec
    """

    _connection: Connection | None
    _listener: Listener | None

    def __init__(self, spec: ClientSpec) -> None:
        super().__init__()
        self.spec = spec
        self._kind: tuple[Any, ...] = ()  # what the client knows of the atoms, and the protocol cannot change

    def _reset(self) -> None:
        super()._reset()
        self._listener = None

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
        with self.own_lock():
            connection = self._ready(inputs)
            return connection.evaluate(cell, encode_positions(positions), len(inputs), self.spec.timeout)

    def release(self, user: Any) -> None:
        """Let the client go, and stop listening, if `user` was the last that needs it."""
        with self.own_lock():
            super().release(user)
            if not self.users:
                self._stop_listening()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _ready(self, inputs: Inputs) -> Connection:
        """Return a client that has these atoms."""
        rest = inputs.rest  # all but cell, tags and info
        kind = (
            len(inputs),
            rest.numbers,
            rest.pbc,
            rest.initial_charges,
            rest.initial_magmoms,
            rest.initial_magmom_vectors,
        )
        self._settle(self.spec.timeout)
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
            self._stop_listening()
        if self._listener is None:
            private = spec.address is None and spec.port is None
            self._listener = Listener.private() if private else Listener.at(spec.address, spec.host, spec.port)
        listener = self._listener
        if spec.command is None:
            return self._accept(listener, None)
        process = ClientProcess(spec.command, listener.names, spec.directory, spec.log)
        try:
            process.start()
            return self._accept(listener, process)
        except BaseException:
            process.end(0.0)
            raise
        finally:  # the next client gets a socket of its own, and nothing is left behind if this process is killed
            self._stop_listening()

    def _accept(self, listener: Listener, process: ClientProcess | None) -> Connection:
        deadline = running_time() + self.spec.start_timeout
        while (sock := listener.accept(deadline - running_time(), process)) is not None:
            connection = Connection(sock, process)
            try:
                connection.greet(deadline - running_time())
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
        error = WorkerStartError(
            f"The {process.title} {f'{describe_exit(code)} before it connected' if code else late}.",
            "Its command must name the socket: {address} for programs that follow i-PI, {socket} for a path.",
        )
        raise process.explain(error)


def _where(listener: Listener) -> str:
    names = listener.names
    return names.get("socket") or f"{names['host']}:{names['port']}"
