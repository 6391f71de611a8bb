"""Where clients find our end: a socket, and who may connect to it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import struct
import tempfile
import weakref
from pathlib import Path

from rootstock.client.process import forks
from rootstock.errors import ConfigurationError, WorkerStartError
from rootstock.worker.channel.descriptors import above_standard_streams

PREFIX = "/tmp/ipi_"  # noqa: S108  # where i-PI's clients look, without asking
_LOCAL = "127.0.0.1"
# Connections that the kernel keeps while nobody accepts, as during a computation. Of those that came and went meanwhile
# each takes a place until then, and where there is none a client's system tries again later and later.
_BACKLOG = 128


class Listener:
    """A listening socket.

    Parameters
    ----------
    sock : socket.socket
        Bound, not yet listening.
    folder : str, optional
        What to remove in the end.

    Attributes
    ----------
    names : dict of str to str
        What a client's command may need: ``socket``, ``address`` (the same by i-PI's convention), ``host``, ``port``.
    exclusive : bool
        Whether only the client that is told the path can connect.
    """

    def __init__(self, sock: socket.socket, folder: str = "") -> None:
        self._sock = sock
        place = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            os.chmod(place, 0o600)  # nobody can connect before listen()
            self.names = {"socket": place, "address": place.removeprefix(PREFIX)}
        else:
            self.names = {"host": place[0], "address": place[0], "port": str(place[1])}
        sock.setblocking(False)
        sock.listen(_BACKLOG)
        self.exclusive = bool(folder)
        self._inode = _inode(self.names.get("socket", ""))
        self._finalizer = weakref.finalize(
            self, _remove, sock, folder, self.names.get("socket", ""), self._inode, forks()
        )

    @classmethod
    def private(cls) -> Listener:
        """Listen in a new folder that only this user can enter, at a path that every client of i-PI can be told.

        Raises
        ------
        WorkerStartError
            If there is no room, descriptor or permission for it.
        """
        try:
            folder = tempfile.mkdtemp(prefix=os.path.basename(PREFIX), dir=os.path.dirname(PREFIX))
            try:
                return cls(_bind(socket.AF_UNIX, f"{folder}/s"), folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)  # which needs no descriptor: there may be none
                raise
        except OSError as error:
            raise WorkerStartError(
                f"Cannot make a socket in {os.path.dirname(PREFIX)}, where clients of i-PI look: {error.strerror}.",
                "Pass port=0 to listen on a TCP port of this machine instead.",
            ) from error

    @classmethod
    def at(cls, address: str | None, host: str, port: int | None) -> Listener:
        """Listen where the caller says.

        Parameters
        ----------
        address : str or None
            A Unix socket: its path, or a name for ``/tmp/ipi_NAME``. None: TCP.
        host : str
            Local address for TCP.
        port : int or None
            Port for TCP; 0: any free one.

        Raises
        ------
        WorkerStartError
            If somebody listens there, or it cannot be had.
        """
        try:
            if address is None:
                return cls(_bind(socket.AF_INET, (host, port)))
            path = address if "/" in address else PREFIX + address
            if _stale(path):
                os.unlink(path)
            return cls(_bind(socket.AF_UNIX, path))
        except OSError as error:
            where = address if port is None else f"{host}:{port}"
            raise WorkerStartError(
                f"Cannot listen at {where}: {error.strerror or error}.",
                "Another server may be using it, or have left a file there: choose another address or port.",
            ) from error

    @property
    def reachable(self) -> bool:
        """Whether clients can still find it: a socket's file may be removed, as by what sweeps temporary folders."""
        return _inode(self.names.get("socket", "")) == self._inode

    @property
    def place(self) -> str:
        """Where it listens, for messages."""
        return self.names.get("socket") or f"{self.names['host']}:{self.names['port']}"

    def fileno(self) -> int:
        """Return the descriptor that is readable when somebody has connected."""
        return self._sock.fileno()

    def accept(self) -> tuple[socket.socket, str]:
        """Return a connection, and who is at its other end.

        Raises
        ------
        OSError
            If there is none, or no descriptor for it.
        """
        with above_standard_streams():
            sock, peer = self._sock.accept()
        sock.setblocking(False)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock, f"{peer[0]}:{peer[1]}"
        if not hasattr(socket, "SO_PEERCRED"):  # macOS
            return sock, "a process"
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return sock, f"process {struct.unpack('3i', credentials)[0]}"

    def close(self) -> None:
        """Stop listening, and remove the socket's file."""
        self._finalizer()


def check_place(address: str | None, host: str, port: int | None, command: bool) -> None:
    """Refuse a place that cannot be listened at.

    Parameters
    ----------
    address, host, port : str or None, str, int or None
        As `Listener.at`.
    command : bool
        Whether a client is started.

    Raises
    ------
    ConfigurationError
        If it is named twice, or not at all.
    """
    if address is not None and port is not None:
        raise ConfigurationError("Give either address= (a Unix socket) or port= (TCP), not both.")
    if address is None and port is None and not command:
        raise ConfigurationError(
            "Say where clients will connect, or which to start.",
            "address='NAME' is /tmp/ipi_NAME; port=31415 is TCP; command=[...] starts a client at a private socket.",
        )
    if host != _LOCAL and port is None:
        raise ConfigurationError("host= belongs to port=.")
    if address == "":
        raise ConfigurationError("address= is empty.")


def _bind(family: int, place: str | tuple[str, int | None]) -> socket.socket:
    with above_standard_streams():
        sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
    except OSError:
        sock.close()
        raise
    return sock


def _stale(path: str) -> bool:
    """Tell whether a socket's file is left from a process that is gone."""
    if not Path(path).is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)  # a server that is busy and has many connections lets others wait
        return sock.connect_ex(path) == errno.ECONNREFUSED


def _inode(path: str) -> int:
    """Return the number of a file, by which it can be told from another of its name; 0 if there is none."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _remove(sock: socket.socket, folder: str, path: str, inode: int, owner: int) -> None:
    sock.close()
    if forks() != owner:
        return
    if path and _inode(path) == inode:  # not what another server has put there since
        os.unlink(path)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
