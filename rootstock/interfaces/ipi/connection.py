"""A connected client: one evaluation at a time, each within a deadline."""

from __future__ import annotations

import contextlib
import select
import socket
import weakref
from collections.abc import Generator
from typing import Any

from rootstock.client.child_process import REAP_S
from rootstock.client.exit_status import describe_exit
from rootstock.client.peer import GOODBYE_S, PeerConnection, Phase
from rootstock.client.process import forks
from rootstock.errors import WorkerDiedError, WorkerError, WorkerProtocolError, WorkerTimeoutError
from rootstock.interfaces.ipi.codec import ReplyDecoder
from rootstock.interfaces.ipi.messages import ForceReady, Reply
from rootstock.interfaces.ipi.process import ClientProcess
from rootstock.interfaces.ipi.server import GOODBYE, Peer, Writes
from rootstock.worker.channel.endpoint import PeerGoneError
from rootstock.worker.channel.running_time import poll_until, running_time
from rootstock.worker.channel.spin import AdaptiveSpin


class Connection(PeerConnection):
    """A client that has connected.

    Parameters
    ----------
    sock : socket.socket
        Owned from now on.
    process : ClientProcess or None
        Its process, if we started it.
    """

    _steps: Generator[Writes, Reply, Any]

    def __init__(self, sock: socket.socket, process: ClientProcess | None) -> None:
        sock.setblocking(False)
        self._sock, self._process = sock, process
        self._title = "The i-PI client" if process is None else f"The {process.title}"
        self._poll = select.poll()
        for fd in (sock.fileno(), *(() if process is None else (process.exit_fd,))):
            self._poll.register(fd, select.POLLIN)
        self._adaptive_spin = AdaptiveSpin()
        self._decoder, self._peer = ReplyDecoder(), Peer()
        self._atoms = 0
        super().__init__(_finish, sock, process)
        if process is not None:
            process.owner = weakref.ref(self)

    def settle(self, timeout: float) -> bool:
        """Make ready for the next evaluation; tell whether this client can serve it.

        The answer to an evaluation that was interrupted is waited for and dropped.
        """
        if not self.usable or self.phase is Phase.BUSY:
            return False
        try:
            if self.phase is Phase.WAITING:
                deadline = running_time() + timeout
                self._advance(self._receive(deadline), deadline)
        except (PeerGoneError, TimeoutError, WorkerProtocolError):
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

    def _begin(self, steps: Generator[Writes, Reply, Any], timeout: float) -> Any:
        self.phase, self._steps = Phase.BUSY, steps
        if self._process is not None:
            self._process.shorten_log()
        deadline = running_time() + timeout
        try:
            return self._advance(None, deadline)
        except PeerGoneError:
            raise self._lost(WorkerDiedError, "") from None
        except TimeoutError:
            late = f"gave no answer within {timeout:.0f} s and was dropped."
            raise self._lost(WorkerTimeoutError, late, "If it needs longer, pass a larger timeout=.") from None
        except OSError as error:  # of the network; or Python ends, and the socket is closed
            raise self._lost(WorkerDiedError, f"cannot be reached any more ({error.strerror}).") from error
        except WorkerProtocolError as error:
            raise self._lost(WorkerProtocolError, error.message.removeprefix("The i-PI client ")) from None

    def _lost(self, kind: type[WorkerError], event: str, hint: str = "") -> WorkerError:
        """Return the error for a client by what it did (empty: it is gone), and let go of it."""
        self.phase = Phase.OVER
        self._finalizer.detach()
        self._sock.close()
        process = self._process
        code = None
        if process is not None:
            code = process.wait(REAP_S if kind is WorkerDiedError else 0.0)
            process.end(0.0)
        how = describe_exit(code) if code else "closed the connection"  # one that lives on is ended here, not by others
        error = kind(f"{self._title} {event or f'{how} during an exchange.'}", hint)
        return error if process is None else process.explain(error)

    def _advance(self, reply: Reply | None, deadline: float) -> Any:
        """Take up the exchange with a reply, and finish it."""
        while True:
            try:
                writes = self._steps.send(reply)  # type: ignore[arg-type]  # None starts it
            except StopIteration as done:
                self._expect_nothing()
                self.phase = Phase.IDLE
                return done.value
            if writes:
                if self._sock.fileno() in [fd for fd, _ in self._look()]:
                    self._read()
                self._expect_nothing()
            for buffers in writes:
                self._send(buffers, deadline)
            reply = self._receive(deadline)

    def _expect_nothing(self) -> None:
        """Refuse bytes that nobody has asked for: they would be taken for the answer to the next question.

        Raises
        ------
        WorkerProtocolError
            If there are any.
        """
        if len(self._decoder):
            raise WorkerProtocolError(
                f"The i-PI client sent {self._decoder.beginning()!r} without being asked, so its answers cannot be "
                "matched with the questions."
            )

    def _send(self, buffers: list[bytes | memoryview], deadline: float) -> None:
        sent = 0
        try:
            with contextlib.suppress(BlockingIOError):
                sent = self._sock.sendmsg(buffers)
            if sent < sum(map(len, buffers)):
                self._send_rest(memoryview(b"".join(buffers))[sent:], deadline)
        except (BrokenPipeError, ConnectionResetError):
            raise PeerGoneError from None

    def _send_rest(self, data: memoryview, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        while data:
            if not poll_until(poll, deadline):
                raise TimeoutError
            with contextlib.suppress(BlockingIOError):
                data = data[self._sock.send(data) :]

    def _receive(self, deadline: float) -> Reply:
        decoder = self._decoder
        self.phase = Phase.BUSY
        while (reply := decoder.next_reply(self._atoms)) is None:
            self.phase = Phase.WAITING
            events = self._adaptive_spin.until(self._look) or poll_until(self._poll, deadline)
            ready = [fd for fd, _ in events]
            self.phase = Phase.BUSY
            if self._sock.fileno() in ready:
                self._read()
            elif not ready:
                self.phase = Phase.WAITING
                raise TimeoutError
            elif self._process is not None:
                if self._process.wait(REAP_S) != 0:
                    raise PeerGoneError
                self._poll.unregister(self._process.exit_fd)  # it has handed over to another process
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
            raise PeerGoneError
        self._decoder.received(count)


def _finish(sock: socket.socket, process: ClientProcess | None, owner: int, *, polite: bool = True) -> None:
    """Let go of a client."""
    patience = 0.0
    with contextlib.suppress(OSError), sock:
        if polite and forks() == owner:
            sock.send(GOODBYE)
            patience = GOODBYE_S
    if process is not None and forks() == owner:
        process.end(patience)
        process.drop_log()  # programs end with an error when they are told to end (LAMMPS does), which means nothing
