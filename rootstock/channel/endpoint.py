"""One end of the socket pair: whole frames in, whole frames out, each within a deadline."""

from __future__ import annotations

import select
import socket
from time import monotonic
from typing import Any

from rootstock.channel.frames import HEADER, Frame, decode, decode_payload, encode
from rootstock.channel.wait import Waiter

_CHUNK = 2**16


class PeerGoneError(Exception):
    """The other end closed the socket or its process ended. The caller knows which end that is."""


class Endpoint:
    """Sends and receives frames.

    Parameters
    ----------
    sock : socket.socket
        A connected stream socket, owned from now on.
    *fds : int
        Further descriptors whose readiness means that the other end is gone (a pidfd).
    """

    def __init__(self, sock: socket.socket, *fds: int) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._waiter = Waiter(sock.fileno(), *fds)
        self._buffer = bytearray()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def send(self, frame: Frame, content: Any = None, *, timeout: float = 30.0) -> None:
        """Send a frame.

        Raises
        ------
        PeerGoneError
            If nobody is at the other end.
        TimeoutError
            If the other end does not read.
        """
        data = memoryview(encode(frame, content))
        deadline = monotonic() + timeout
        while data:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._sock.fileno(), select.POLLOUT)
                if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
                    raise TimeoutError from None
            except (BrokenPipeError, ConnectionResetError):
                raise PeerGoneError from None

    def wait(self, timeout: float) -> bool:
        """Wait until there is something to receive, or the other end is gone; tell whether either came true."""
        return bool(self._buffer) or bool(self._waiter.wait(timeout))

    def receive(self, timeout: float) -> tuple[Frame, dict[str, Any]]:
        """Return the next frame and its payload.

        Raises
        ------
        PeerGoneError
            If the other end is gone and has left no whole frame.
        TimeoutError
            If no whole frame came within `timeout` seconds.
        WorkerProtocolError
            If what came is not a frame.
        """
        deadline = monotonic() + timeout
        self._fill(HEADER.size, deadline)
        frame = decode(bytes(self._buffer[: HEADER.size]))
        # Nothing is taken out before the frame is whole: whoever gives up waiting can come back for it.
        self._fill(HEADER.size + frame.payload, deadline)
        self._take(HEADER.size)
        return frame, decode_payload(self._take(frame.payload)) if frame.payload else {}

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _fill(self, size: int, deadline: float) -> None:
        """Read until the buffer holds `size` bytes."""
        while len(self._buffer) < size:
            try:
                data = self._sock.recv(_CHUNK)
            except BlockingIOError:
                self._await_data(deadline)
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                raise PeerGoneError
            self._buffer += data

    def _await_data(self, deadline: float) -> None:
        remaining = deadline - monotonic()
        if remaining <= 0:
            raise TimeoutError
        ready = self._waiter.wait(remaining)
        # The process has ended although the socket is open: a child of it holds the other end.
        if ready and self._sock.fileno() not in ready:
            raise PeerGoneError
