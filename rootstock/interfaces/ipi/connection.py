"""A connected client: one evaluation at a time, each within a deadline."""

from __future__ import annotations

import enum
import os
import select
import socket
import weakref
from collections.abc import Generator
from time import monotonic
from typing import Any

from rootstock.client.exit_status import describe_exit
from rootstock.errors import WorkerDiedError, WorkerError, WorkerProtocolError, WorkerTimeoutError
from rootstock.interfaces.ipi.codec import ReplyDecoder
from rootstock.interfaces.ipi.messages import ForceReady, Reply
from rootstock.interfaces.ipi.process import ClientProcess
from rootstock.interfaces.ipi.server import EXIT, Peer, Writes
from rootstock.worker.channel.spin import AdaptiveSpin

_GOODBYE_S = 5.0
_REAP_S = 2.0  # a dying process closes its socket a little before it can be reaped


class _Phase(enum.Enum):
    IDLE = enum.auto()
    BUSY = enum.auto()
    WAITING = enum.auto()
    OVER = enum.auto()


class _GoneError(Exception):
    """Nobody is at the other end."""


class Connection:
    """A client that has connected.

    Parameters
    ----------
    sock : socket.socket
        Owned from now on.
    process : ClientProcess or None
        Its process, if we started it.
    """

    def __init__(self, sock: socket.socket, process: ClientProcess | None) -> None:
        sock.setblocking(False)
        self._sock, self._process = sock, process
        self._poll = select.poll()
        for fd in (sock.fileno(), *(() if process is None else process.fds)):
            self._poll.register(fd, select.POLLIN)
        self._eager = AdaptiveSpin()
        self._decoder, self._peer = ReplyDecoder(), Peer()
        self._steps: Generator[Writes, Reply, Any] = self._peer.greeting()
        self._atoms = 0
        # An interruption (Ctrl-C) can come between any two steps. A wait can be taken up again; whatever else was
        # cut makes this connection useless.
        self._phase = _Phase.IDLE
        self._owner = os.getpid()
        # What nobody closes is closed when it is garbage, or at the end of the interpreter.
        self._finalizer = weakref.finalize(self, _finish, sock, process, self._owner)

    @property
    def title(self) -> str:
        """Who this is, for messages."""
        return "The i-PI client" if self._process is None else f"The i-PI client {self._process.program!r}"

    def settle(self, timeout: float) -> bool:
        """Make ready for the next evaluation; tell whether this client can serve it.

        The answer to an evaluation that was interrupted is waited for and dropped.
        """
        if self._owner != os.getpid() or self._phase in (_Phase.BUSY, _Phase.OVER):
            return False
        try:
            if self._phase is _Phase.WAITING:
                deadline = monotonic() + timeout
                self._advance(self._receive(deadline), deadline)
        except (_GoneError, TimeoutError, WorkerProtocolError):
            return False
        return True

    def evaluate(self, cell: bytes, positions: memoryview, atoms: int, timeout: float) -> ForceReady:
        """Let the client compute.

        Parameters
        ----------
        cell, positions : bytes, memoryview
            Both parts of an encoded `PosData`.
        atoms : int
            Their number.
        timeout : float
            Seconds for the whole exchange.

        Raises
        ------
        WorkerDiedError, WorkerTimeoutError, WorkerProtocolError
            If the client is lost. This object is then of no more use.
        """
        self._atoms = atoms
        return self._begin(self._peer.evaluation(cell, positions), timeout)  # type: ignore[no-any-return]

    def greet(self, timeout: float) -> None:
        """Find out whether this is a client, and wants to be one; raises as `evaluate` does."""
        self._begin(self._peer.greeting(), timeout)

    def _begin(self, steps: Generator[Writes, Reply, Any], timeout: float) -> Any:
        self._phase, self._steps = _Phase.BUSY, steps
        deadline = monotonic() + timeout
        try:
            return self._advance(None, deadline)
        except _GoneError:
            raise self._lost(WorkerDiedError, "{title} {how} during an exchange.") from None
        except TimeoutError:
            raise self._lost(
                WorkerTimeoutError, f"{{title}} gave no answer within {timeout:.0f} s and was dropped.",
                "If it needs longer, pass a larger timeout=.",
            ) from None  # fmt: skip
        except WorkerProtocolError as error:
            raise self._lost(WorkerProtocolError, error.message.replace("The i-PI client", "{title}")) from None

    def close(self) -> None:
        """Tell the client that we are done, and end it if we started it."""
        polite = self._phase is _Phase.IDLE and self._owner == os.getpid()
        self._phase = _Phase.OVER
        if self._finalizer.detach() is not None:
            _finish(self._sock, self._process, self._owner, polite=polite)

    def _lost(self, kind: type[WorkerError], text: str, hint: str = "") -> WorkerError:
        """Return an error, having let go of the client."""
        self._phase = _Phase.OVER
        self._finalizer.detach()
        self._sock.close()
        process = self._process
        if process is None:
            return kind(text.format(title=self.title, how="closed the connection"), hint)
        code = process.end(_REAP_S if kind is WorkerDiedError else 0.0)
        how = "closed the connection" if code == 0 else describe_exit(code)
        error = kind(text.format(title=self.title, how=how), hint, log=str(process.log), tail=process.tail())
        if isinstance(error, WorkerDiedError):
            error.returncode = code
        return error

    def _advance(self, reply: Reply | None, deadline: float) -> Any:
        """Take up the exchange with a reply, and finish it."""
        while True:
            try:
                writes = self._steps.send(reply)  # type: ignore[arg-type]  # None starts it
            except StopIteration as done:
                self._phase = _Phase.IDLE
                return done.value
            for buffers in writes:
                self._send(buffers, deadline)
            reply = self._receive(deadline)

    def _send(self, buffers: list[bytes | memoryview], deadline: float) -> None:
        size = sum(map(len, buffers))
        rest: memoryview | None = None
        while True:
            try:
                sent = self._sock.sendmsg(buffers) if rest is None else self._sock.send(rest)
            except BlockingIOError:
                sent = 0
            except (BrokenPipeError, ConnectionResetError):
                raise _GoneError from None
            if rest is None and sent == size:
                return
            rest = (memoryview(b"".join(buffers)) if rest is None else rest)[sent:]
            if not rest:
                return
            poll = select.poll()
            poll.register(self._sock, select.POLLOUT)
            if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
                raise TimeoutError

    def _receive(self, deadline: float) -> Reply:
        decoder = self._decoder
        self._phase = _Phase.BUSY
        while (reply := decoder.next_reply(self._atoms)) is None:
            self._phase = _Phase.WAITING
            remaining = deadline - monotonic()
            found = self._eager.until(self._look) or (self._poll.poll(1000 * remaining) if remaining > 0 else [])
            ready = [fd for fd, _ in found]
            self._phase = _Phase.BUSY
            if self._sock.fileno() in ready:
                self._read()
            elif not ready:
                self._phase = _Phase.WAITING
                raise TimeoutError
            elif self._process is not None:
                if self._process.wait(_REAP_S) != 0:
                    raise _GoneError
                for fd in self._process.fds:  # it has handed over to another process
                    self._poll.unregister(fd)
        return reply

    def _look(self) -> list[tuple[int, int]]:
        return self._poll.poll(0)

    def _read(self) -> None:
        try:
            count = self._sock.recv_into(self._decoder.room())
        except BlockingIOError:
            return
        except ConnectionResetError:
            count = 0
        if not count:
            raise _GoneError
        self._decoder.received(count)


def _finish(sock: socket.socket, process: ClientProcess | None, owner: int, *, polite: bool = True) -> None:
    """Let go of a client."""
    if os.getpid() == owner and polite:
        try:
            sock.send(EXIT)
        except OSError:
            polite = False
    sock.close()
    if process is None or os.getpid() != owner:
        return
    # Programs end with an error when they are told to end (LAMMPS does), which means nothing.
    process.end(_GOODBYE_S if polite else 0.0, well=True)
