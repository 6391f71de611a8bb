"""One end of the socket pair: whole frames in, whole frames out, each within a deadline."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from math import inf
from typing import Any

from rootstock.worker.channel.frames import HEADER, Frame, decode, decode_payload, encode
from rootstock.worker.channel.running_time import SLICE_S, poll_until, running_time
from rootstock.worker.channel.wakeup import WakeupFlag

_ROOM = 2**16
_NOW = socket.MSG_DONTWAIT


class PeerGoneError(Exception):
    """The other end closed the socket or its process ended. The caller knows which end that is."""


class Endpoint:
    """Sends and receives frames.

    A frame that was received stays in the buffer until the next call, and the buffer's first byte is zero as long as
    nothing came. So an interruption (Ctrl-C) at any moment leaves a trace: see `untouched`.

    Parameters
    ----------
    sock : socket.socket
        A connected stream socket, owned from now on.
    flag : WakeupFlag
        Owned too.
    exit_fd : int, optional
        A descriptor that is readable once the other end's process has ended.
    on_look : callable
        Called every second while this end waits.
    """

    def __init__(
        self,
        sock: socket.socket,
        flag: WakeupFlag,
        exit_fd: int | None = None,
        on_look: Callable[[], object] = bool,
    ) -> None:
        # Reading blocks in the kernel: one system call where polling first would take two.
        sock.setblocking(True)
        self._sock = sock
        self._flag = flag
        self._exit, self._look_s = None, inf
        self._on_look = on_look
        if exit_fd is not None:
            # It looks this often whether the other process lives, where a child of it holds the socket open.
            self._exit, self._look_s = select.poll(), SLICE_S
            self._exit.register(exit_fd, select.POLLIN)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(SLICE_S), 0))
        self._buffer = bytearray(_ROOM)
        self._filled = self._last = 0  # bytes in the buffer; those of the frame that was returned last

    def close(self) -> None:
        self._sock.close()
        self._flag.close()

    @property
    def untouched(self) -> bool:
        """Whether nothing was received since the last `send`."""
        return not self._filled and not self._buffer[0]

    def send(self, frame: Frame, content: Any = None, *, timeout: float = 30.0) -> None:
        """Send a frame.

        Parameters
        ----------
        frame : Frame
        content : Any
            Its payload, as `encode` takes it.
        timeout : float
            Seconds until the other end must have made room for it.

        Raises
        ------
        PeerGoneError
            If nobody is at the other end.
        TimeoutError
            If the other end does not read.
        """
        self._drop_last()
        data = encode(frame, content)
        try:
            sent = self._sock.send(data, _NOW)
        except BlockingIOError:
            sent = 0
        except (BrokenPipeError, ConnectionResetError):
            raise PeerGoneError from None
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:], running_time() + timeout)
        self._flag.notify()

    def _send_rest(self, data: memoryview, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLOUT)
        while data:
            # It ends when the other end closes its socket; a process that has ended may have a child that does not.
            if not poll_until(poll, min(deadline, running_time() + SLICE_S)):
                self._look(deadline)
            try:
                data = data[self._sock.send(data, _NOW) :]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                raise PeerGoneError from None

    def receive(self, timeout: float, rest: float = inf) -> tuple[Frame, dict[str, Any]]:
        """Return the next frame and its payload.

        Parameters
        ----------
        timeout : float
            Seconds to wait for it.
        rest : float
            Seconds for what is missing of a frame that has begun to come, within `timeout`.

        Raises
        ------
        PeerGoneError
            If the other end is gone and has left no whole frame.
        TimeoutError
            If no whole frame came. One that comes later is not lost.
        WorkerProtocolError
            If what came is not a frame.
        """
        self._drop_last()
        deadline = 0.0  # looking at the clock takes a percent of a short call: only where something is waited for
        if not self._filled:
            self._flag.spin()
            if timeout >= self._look_s:
                self._filled = self._receive_or_sleep(self._buffer)
            if not self._filled:
                deadline = running_time() + timeout
                self._fill(1, deadline)
            self._flag.acknowledge()
        size = HEADER.size
        if self._filled < size:
            deadline = min(deadline or running_time() + timeout, running_time() + rest)
            self._fill(size, deadline)
        frame = decode(self._buffer)
        size += frame.payload
        if self._filled < size:
            self._fill(size, min(deadline or running_time() + timeout, running_time() + rest))
        self._last = size
        return frame, decode_payload(bytes(self._buffer[HEADER.size : size])) if frame.payload else {}

    def _drop_last(self) -> None:
        """Make room for the next frame."""
        if self._filled > self._last or len(self._buffer) > _ROOM:
            remaining = self._buffer[self._last : self._filled]
            if len(self._buffer) > _ROOM >= len(remaining):
                self._buffer = bytearray(_ROOM)
            self._buffer[: len(remaining)] = remaining
            self._filled, self._last = len(remaining), 0
        else:
            self._filled = self._last = 0
        if not self._filled:
            self._buffer[0] = 0

    def _fill(self, size: int, deadline: float) -> None:
        """Read until the buffer holds `size` bytes. It grows with what has come, never with what is announced."""
        while self._filled < size:
            if not self._filled:
                self._filled = self._receive_some(self._buffer, deadline)
                continue
            if self._filled == len(self._buffer):
                self._buffer += bytes(min(size - self._filled, self._filled))
            with memoryview(self._buffer)[self._filled :] as target:
                received = self._receive_some(target, deadline)
            self._filled += received

    def _receive_some(self, target: bytearray | memoryview, deadline: float) -> int:
        """Sleep in the kernel until something comes; look up once in `_look_s`."""
        while True:
            flags = 0
            if deadline - running_time() < self._look_s:  # less time than the kernel is set to wait
                poll = select.poll()
                poll.register(self._sock.fileno(), select.POLLIN)
                poll_until(poll, deadline)
                flags = _NOW
            if received := self._receive_or_sleep(target, flags):
                return received
            self._look(deadline)

    def _receive_or_sleep(self, target: bytearray | memoryview, flags: int = 0) -> int:
        """Receive what comes within `_look_s`, or at once; return 0 if nothing came."""
        try:
            received = self._sock.recv_into(target, 0, flags)
        except BlockingIOError:
            return 0
        except ConnectionResetError:
            raise PeerGoneError from None
        if not received:
            raise PeerGoneError
        return received

    def _look(self, deadline: float) -> None:
        """Raise if it is no use to wait on."""
        if self._exit is not None and self._exit.poll(0) and not self._readable():
            raise PeerGoneError
        self._on_look()
        if running_time() >= deadline:
            raise TimeoutError

    def _readable(self) -> bool:
        """Tell whether a process that has ended has left something to read."""
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK | _NOW))
        except (BlockingIOError, ConnectionResetError):
            return False
