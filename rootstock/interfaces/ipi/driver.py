"""Connect to an i-PI server and compute what it asks for."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes

from rootstock.errors import ConfigurationError, WorkerError, WorkerProtocolError
from rootstock.interfaces.evaluation import evaluate, require
from rootstock.interfaces.ipi.codec import Decoder, encode, header
from rootstock.interfaces.ipi.messages import EXIT, GETFORCE, NEEDINIT, POSDATA, STATUS, ForceReady, PosData, Request
from rootstock.interfaces.ipi.states import next_state
from rootstock.worker.channel.running_time import SLICE_S, running_time
from rootstock.worker.channel.spin import AdaptiveSpin

logger = logging.getLogger("rootstock")

_PATIENCE_S = 3600.0  # then it looks again; a server may think for days
_SILENCE_S = 60.0  # from a server that has asked nothing yet; it may have other drivers
_UNSENT = 2**20  # bytes of replies; a server that asks on, and reads nothing, is made to wait
_NO_STRESS = "Pass --no-stress if the simulation is at constant volume; zeros are sent then."


def connect(address: str | tuple[str, int], timeout: float) -> socket.socket:
    """Connect to a server, waiting until it is there.

    Parameters
    ----------
    address : str or (str, int)
        Path of a Unix socket, or host and port.
    timeout : float
        Seconds to wait for the server.

    Raises
    ------
    WorkerError
        If nobody listens there in time.
    """
    deadline = running_time() + timeout
    place = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
    while True:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(SLICE_S)
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            if running_time() >= deadline:
                raise WorkerError(
                    f"No i-PI server answers at {place} ({error.strerror or error}).",
                    "Start the server first, or give it more time with --wait SECONDS.",
                ) from error
            time.sleep(0.1)
        else:
            sock.settimeout(None)
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock


@dataclass
class Driver:
    """Answers an i-PI server.

    Parameters
    ----------
    atoms : ase.Atoms
        Species and periodicity, which the protocol does not carry, with a calculator. Positions and cell are the
        server's.
    use_stress : bool
        Whether to send a virial. Without, it is sent as zero, which the protocol has no other word for: only for
        simulations at constant volume.
    on_step : callable
        Is given the number of evaluations after each.
    silence_s : float
        Seconds after which a warning says that the server has asked nothing yet.
    """

    atoms: Atoms
    use_stress: bool = True
    on_step: Callable[[int], None] = lambda number: None  # noqa: ARG005
    silence_s: float = _SILENCE_S
    steps: int = field(default=0, init=False)
    _state: str = field(default=NEEDINIT, init=False)
    _result: ForceReady | None = field(default=None, init=False)
    _volume: float = field(default=0.0, init=False)

    def serve(self, sock: socket.socket) -> None:
        """Answer until the server says EXIT or hangs up.

        Requests that arrived together are answered together: one write for each time that there is nothing to read.

        Raises
        ------
        WorkerProtocolError
            If the server breaks the protocol, or has another number of atoms.
        WorkerError
            If the model fails. Nothing is sent then: a server must not go on with numbers that nobody computed.
        """
        decoder, poll, eager, replies = Decoder(), select.poll(), AdaptiveSpin(), bytearray()
        poll.register(sock, select.POLLIN)
        if not poll.poll(1000 * self.silence_s):
            logger.warning(
                "The i-PI server has asked nothing for %.0f s. It may be busy with another driver; if it is another "
                "kind of server, this will wait until that hangs up.", self.silence_s,
            )  # fmt: skip
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server hung up
            while True:
                try:
                    count = sock.recv_into(decoder.room(), 0, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    sock.sendall(replies)
                    replies.clear()
                    if not eager.until(lambda: poll.poll(0)):
                        poll.poll(1000 * _PATIENCE_S)
                    continue
                decoder.received(count)
                while (request := decoder.next_request()) is not None and request != EXIT:
                    replies += self.answer(request)
                    if len(replies) > _UNSENT:
                        sock.sendall(replies)
                        replies.clear()
                if not count and len(decoder):
                    raise WorkerProtocolError(
                        f"The i-PI server hung up in the middle of a message that began with {decoder.beginning()!r}."
                    )
                if not count or request == EXIT:
                    sock.sendall(replies)
                    return

    def answer(self, request: Request) -> bytes:
        """Return the reply to one request; empty for those that have none."""
        word = POSDATA if isinstance(request, PosData) else request
        state, self._state = self._state, next_state(self._state, word)
        if isinstance(request, PosData):
            self._result = self._compute(request)
        if word == STATUS:
            return header(state)
        if word == GETFORCE and self._result is not None:
            return encode(self._result)
        return b""

    def _compute(self, data: PosData) -> ForceReady:
        atoms, calc = self.atoms, self.atoms.calc
        if len(data.positions) != len(atoms):
            raise WorkerProtocolError(
                f"The i-PI server has {len(data.positions)} atoms, the structure file {len(atoms)}.",
                "Give the structure that the server simulates.",
            )
        if not self.steps:
            require(calc, stress=self.use_stress, remedy=_NO_STRESS)
        changes = ["positions"] if self.steps else list(all_changes)
        atoms.arrays["positions"][...] = data.positions
        if (data.cell != atoms.cell.array).any():
            atoms.cell[...] = data.cell
            changes.append("cell")
        if len(changes) > 1:
            self._volume = atoms.get_volume() if self.use_stress else 0.0
        energy, forces, stress = evaluate(calc, atoms, changes, stress=self.use_stress)
        self.steps += 1
        self.on_step(self.steps)
        return ForceReady(energy, forces, np.zeros((3, 3)) if stress is None else -self._volume * stress)


def check_structure(atoms: Atoms, use_stress: bool) -> None:
    """Refuse a structure whose virial cannot be computed.

    Parameters
    ----------
    atoms : ase.Atoms
    use_stress : bool
        Whether a virial is sent.

    Raises
    ------
    ConfigurationError
        If a virial is wanted of atoms without a periodic cell.
    """
    if use_stress and not (atoms.cell.rank == 3 and atoms.pbc.any()):
        raise ConfigurationError("The structure has no periodic cell, so there is no virial.", _NO_STRESS)
