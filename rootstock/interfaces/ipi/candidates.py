"""Which of those that connect is a client: all are asked at once, and the first that answers is it."""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
from collections import Counter
from dataclasses import dataclass

from rootstock.errors import WorkerStartError
from rootstock.interfaces.ipi.listener import Listener
from rootstock.interfaces.ipi.process import ClientProcess
from rootstock.interfaces.ipi.server import GREETING, is_driver
from rootstock.worker.channel.running_time import poll_until, running_time

logger = logging.getLogger("rootstock")

_ROOM = 64  # connections that are waited for at the same time
_GRACE_S = 5.0  # for each of them, whoever else connects; a client that is ready answers within a millisecond
_TOLD = 5  # connections that are described one by one; the others are counted
_PIECE = 64  # bytes that are read at once: more than an answer, and enough to see what else it is
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(eq=False)
class Candidate:
    """A connection that may be a client's.

    Attributes
    ----------
    sock : socket.socket
    peer : str
        Who is at the other end.
    since : float
        When it was accepted, by `running_time`.
    said : bytes
        What it has sent so far.
    """

    sock: socket.socket
    peer: str
    since: float
    said: bytes = b""

    @property
    def host(self) -> str:
        """The machine that it comes from, or the process on this one."""
        return self.peer.partition(":")[0]


class Candidates:
    """The connections from among which a client is taken.

    A connection that answers wrongly or closes is dropped at once. A silent one is kept: it may be a client that
    connects first and then loads its model for minutes. Only where there is no room for the next connection one of
    the silent ones is dropped, after some seconds at the earliest: the oldest of the host that has most of them. Until
    then the next connections wait in the listener's backlog. So a client that is ready is heard however many connect,
    and one that is slow as long as fewer than 64 others are silent.

    Parameters
    ----------
    listener : Listener
    process : ClientProcess or None
        The process that is to connect, if we started it.
    """

    def __init__(self, listener: Listener, process: ClientProcess | None) -> None:
        self._listener, self._process = listener, process
        self._room = _ROOM
        self._held: dict[int, Candidate] = {}  # by descriptor, the oldest first
        self._dropped, self._told = 0, list[str]()
        self._poll = select.poll()
        if process is not None:
            self._poll.register(process.exit_fd, select.POLLIN)

    def __enter__(self) -> Candidates:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._held.values():
            each.sock.close()

    def __str__(self) -> str:
        """Return a sentence on the connections that were no client's; empty if there were none."""
        silent = [f"{each.peer} {_silence(each)}" for each in self._held.values()]
        if not (count := self._dropped + len(silent)):
            return ""
        told = [*self._told, *silent][:_TOLD]
        more = f"; and {count - len(told)} more" if count > len(told) else ""
        return f" Connections ({count}): {'; '.join(told)}{more}."

    def find(self, deadline: float) -> socket.socket | None:
        """Wait for a client.

        Parameters
        ----------
        deadline : float
            As of `running_time`.

        Returns
        -------
        socket or None
            That of a driver in the state in which one begins. None if there was none in time, or the process failed.

        Raises
        ------
        WorkerStartError
            If there is no descriptor for a connection.
        """
        while True:
            ready = [fd for fd, _ in poll_until(self._poll, self._next_look(deadline))]
            for each in [self._held[fd] for fd in ready if fd in self._held]:
                if self._hear(each):
                    return self._choose(each)
            if self._listener.fileno() in ready:
                self._take()
            if self._process is not None:
                if self._process.exit_fd in ready:
                    if self._process.wait(1.0) != 0:
                        return None
                    self._poll.unregister(self._process.exit_fd)  # it has handed over, as a batch system's command does
                if self._dropped and self._listener.exclusive:
                    return None  # nobody else can connect, so that was its client
            if running_time() >= deadline:
                return None

    def _next_look(self, deadline: float) -> float:
        """Return when to look again; whether others may connect until then is set here."""
        free = 0.0 if len(self._held) < self._room else next(iter(self._held.values())).since + _GRACE_S
        full = free > running_time()
        self._poll.register(self._listener.fileno(), 0 if full else select.POLLIN)
        return min(deadline, free) if full else deadline

    def _take(self) -> None:
        if len(self._held) >= self._room:
            each = self._least()
            self._drop(each, f"{_silence(each)} until others needed the room")
        try:
            sock, peer = self._listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_FILES:
                if not self._held:
                    raise WorkerStartError(
                        f"Cannot accept an i-PI client at {self._listener.place}: {error.strerror}.",
                        "ulimit -n shows how many files this process may have open.",
                    ) from error
                self._room = len(self._held)
            return  # else the connection is gone, or its network failed
        each = self._held[sock.fileno()] = Candidate(sock, peer, running_time())
        self._poll.register(sock, select.POLLIN)
        self._hear(each, asked=False)
        with contextlib.suppress(OSError):  # it is dropped already, or gone, which is seen when it is heard
            sock.send(GREETING)

    def _least(self) -> Candidate:
        """Return the one to go where there is no room, so that no host takes all of it."""
        late = [each for each in self._held.values() if each.since + _GRACE_S <= running_time()]
        crowd = Counter(each.host for each in self._held.values())
        return max(late, key=lambda each: crowd[each.host])  # of equals the first, which is the oldest

    def _hear(self, each: Candidate, *, asked: bool = True) -> bool:
        """Read what it says; tell whether that is a driver's answer, and drop it if it cannot become one."""
        try:
            data = each.sock.recv(_PIECE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # as one that closed in time
        each.said += data
        answer = is_driver(each.said)
        if not data:
            self._drop(each, f"{_silence(each)} and closed the connection")
        elif answer is False or not asked:
            self._drop(each, f"sent {each.said!r}{'' if asked else ' before it was asked'}")
        return bool(data and answer)

    def _drop(self, each: Candidate, what: str) -> None:
        self._let_go(each).close()
        self._dropped += 1
        if self._dropped <= _TOLD:
            self._told.append(f"{each.peer} {what}")
            logger.warning(
                "Dropped a connection to %s that is not an i-PI client: %s %s.%s", self._listener.place, each.peer,
                what, " Further ones are not logged." if self._dropped == _TOLD else "",
            )  # fmt: skip

    def _let_go(self, each: Candidate) -> socket.socket:
        self._poll.unregister(each.sock)
        del self._held[each.sock.fileno()]
        return each.sock

    def _choose(self, each: Candidate) -> socket.socket:
        sock = self._let_go(each)
        for other in self._held.values():
            logger.info("Dropped %s: another i-PI client answered first.", other.peer)
        return sock


def _silence(each: Candidate) -> str:
    return f"sent only {each.said!r}" if each.said else "said nothing"
