"""Messages between a pool and its drivers: objects of JSON, one a line, over a pair of sockets.

From the pool: ``begin`` (what to compute with), ``take`` (indices of structures), ``none`` (there will be no more),
``stop`` (seconds until the driver is ended).

From a driver: ``ready`` (what it computes on), ``want`` (so many atoms), ``recorded`` (indices that are on the disk),
``back`` (one that could not be computed, by no fault of its own), ``say`` and ``warn`` (text for people), ``error``,
and ``end``.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

_LONGEST = 2**26  # bytes of a message
_AT_ONCE = 2**16


class Wire:
    """One end of a connection.

    Parameters
    ----------
    end : socket.socket
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket, self._rest = end, b""
        self._turn = threading.Lock()  # several threads of a driver send

    def fileno(self) -> int:
        """Return the descriptor, which is readable when there are messages, or the other end is gone."""
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Send a message; nothing happens if the other end is gone, which `receive` tells.

        Parameters
        ----------
        **message
            JSON can hold it.
        """
        line = json.dumps(message).encode() + b"\n"
        with self._turn:
            try:
                self._socket.sendall(line)
            except OSError:
                return

    def receive(self) -> Iterator[dict[str, Any]] | None:
        """Wait for something to come, and return the messages that are whole; None if the other end is gone.

        Raises
        ------
        ValueError
            If what comes is no message.
        """
        try:
            data = self._socket.recv(_AT_ONCE)
        except ConnectionError:
            data = b""
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST:
            raise ValueError("a message without an end")
        return map(json.loads, lines)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
