"""One client for one or several calculators: started or awaited when it is first needed, replaced when it is lost."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from rootstock.client.child_process import REAP_S
from rootstock.client.exit_status import describe_exit
from rootstock.client.inputs import Inputs
from rootstock.client.peer import PeerSession
from rootstock.client.uninterrupted import uninterrupted
from rootstock.errors import ConfigurationError, WorkerError, WorkerStartError
from rootstock.interfaces.ipi.candidates import Candidates
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
        Seconds until it has connected and answers, and for one evaluation.
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
            try:
                return connection.evaluate(cell, encode_positions(positions), len(inputs), self.spec.timeout)
            except WorkerError:
                self._settle(0.0)  # raises if Python ends: that is the reason
                raise

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
            self._stop_listening()  # clients that wait there have read the input files of the old atoms
        if self._connection is None:
            if self.spec.prepare is not None:
                self._kind = kind  # also if no client comes in time: a late one has read the files of these atoms
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
            at = functools.partial(Listener.at, spec.address, spec.host, spec.port)
            self._listener = uninterrupted(Listener.private if private else at)
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
        within = f"within {self.spec.start_timeout:.0f} s"
        deadline = running_time() + self.spec.start_timeout
        with Candidates(listener, process) as candidates:
            if (sock := candidates.find(deadline)) is not None:
                return Connection(sock, process)
            others = str(candidates)
        if process is None:
            raise WorkerStartError(
                f"No i-PI client connected to {listener.place} {within}.{others}",
                "Start it there, or pass a larger start_timeout=.",
            )
        code = process.wait(REAP_S if others else 0.0)
        if code:
            event = f"{describe_exit(code)} before it {'answered' if others else 'connected'}"
        elif others and listener.exclusive:
            event = f"connected to {listener.place}, and does not speak i-PI's protocol"
        else:
            event = f"did not connect to {listener.place} {within}"
        hint = "Its command must name the socket: {address} for programs that follow i-PI, {socket} for a path."
        raise process.explain(WorkerStartError(f"The {process.title} {event}.{others}", hint))
