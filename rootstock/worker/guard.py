"""Guard what ``setup()`` does: which files of the root it opens, and what it asks the network for.

Python tells an audit hook of both (PEP 578). A worker that is to use what is there is kept from the network, where it
could wait for minutes on a node that has none, and from writing under the root, as the modes keep everybody but the
root's owner.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from struct import pack
from types import TracebackType
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CODE = (".py", ".pyc", ".so")
_LITTLE = 2**16  # smaller files of an environment are settings and tables, not weights
# Marks of what the guard raised, and of what was handled at that moment.
_REFUSAL, _EARLIER = "refused_by_rootstock", "before_a_refusal_by_rootstock"


class SetupGuard:
    """Watches and refuses while it is entered; once, for a hook cannot be removed.

    Parameters
    ----------
    root, cache : str
        The root's folder, and the one below it where libraries look for weights.
    offline : bool
        Whether to refuse the network and writing below `root`. Writing into a published build is refused in any case.
    patience : float
        Seconds that a server may keep silent; 0: for ever.

    Attributes
    ----------
    addresses : dict of str to None
        Where something was fetched from: without what follows a question mark, it may be a secret.
    """

    def __init__(self, root: str, cache: str, *, offline: bool, patience: float = 0.0) -> None:
        self._roots, self._caches = _both_ways(root), _both_ways(cache)
        published = os.path.isfile(os.path.join(sys.prefix, "build.json"))
        self._build = _both_ways(sys.prefix) if published else ()  # where nothing changes, whoever may write there
        self._home = os.environ.get("HOME", "")  # links there may lead into the root
        self._offline, self._patience = offline, patience
        self._active = False
        self._opened: dict[str, None] = {}
        self._host = ""
        self.addresses: dict[str, None] = {}
        self._refused = False

    def __enter__(self) -> SetupGuard:
        self._active = True
        sys.addaudithook(self._see)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False

    @property
    def opened(self) -> list[str]:
        """The files below the root that may be weights; links are followed."""
        paths = dict.fromkeys(map(os.path.realpath, self._opened))
        environment = tuple(os.path.join(os.path.realpath(folder), "") for folder in (sys.prefix, sys.base_prefix))
        files = [path for path in paths if os.path.isfile(path)]
        return [path for path in files if not path.startswith(environment) or _may_be_weights(path)]

    def lacks_weights(self, error: BaseException) -> bool:
        """Tell whether ``setup()`` failed because weights are not in the root, which an admin can bring there.

        So it is if the guard refused it something, or a file is missing below the cache, and nothing else is missing
        that explains the failure: a compiler, a module, a data file.
        """
        if not self._offline:
            return False
        for cause in _chain(error):
            if getattr(cause, _REFUSAL, False) or isinstance(cause, _hub_error()):
                return True
            if isinstance(cause, FileNotFoundError) and self._names_a_place_for_weights(str(cause)):
                return True
        # A library may have swallowed the refusal. What failed before that, as an optional import, explains nothing.
        missing = (cause for cause in _chain(error) if isinstance(cause, (FileNotFoundError, ImportError)))
        return self._refused and all(getattr(cause, _EARLIER, False) for cause in missing)

    def _names_a_place_for_weights(self, text: str) -> bool:
        words = text.split(self._home)[1:] if self._home else []
        below_home = (os.path.realpath(self._home + re.split(r"[\s'\",:;]", word)[0]) for word in words)
        return any(cache in text for cache in self._caches) or any(path.startswith(self._caches) for path in below_home)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event == "open":
            self._see_open(arguments[0], arguments[2])
        elif event == "os.mkdir" and self._inside(arguments[0]) and not os.path.isdir(arguments[0]):
            self._see_write(arguments[0])
        elif event == "socket.connect":
            self._see_connect(arguments[0], arguments[1])
        elif event == "socket.getaddrinfo" and arguments[0] is not None:
            self._host = arguments[0] if isinstance(arguments[0], str) else os.fsdecode(arguments[0])
            if self._offline:
                self._refuse(ConnectionRefusedError, f"asking for the address of {self._host}")
            self.addresses[self._host] = None
        elif event == "http.client.send":
            self._see_request(arguments[0], arguments[1])

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int):
            return False
        text = os.path.abspath(os.fsdecode(path))
        if text.startswith(self._roots):
            return True
        return bool(self._home) and text.startswith(self._home) and os.path.realpath(text).startswith(self._roots)

    def _see_open(self, path: Any, flags: int) -> None:
        if isinstance(path, int) or os.fsdecode(path).endswith(_CODE) or not self._inside(path):
            return
        if not flags & _WRITES:
            self._opened[os.path.abspath(os.fsdecode(path))] = None
        else:
            self._see_write(path)

    def _see_write(self, path: Any) -> None:
        """Refuse it where that changes what others use: some libraries fetch into their own package first."""
        if self._offline or os.path.abspath(os.fsdecode(path)).startswith(self._build):
            self._refuse(PermissionError, f"writing to {os.fsdecode(path)}")

    def _see_connect(self, socket: Any, address: Any) -> None:
        if not isinstance(address, tuple):  # a socket of this machine
            return
        if self._offline:
            self._refuse(ConnectionRefusedError, f"connecting to {address[0]}")
        if self._patience:
            import socket as sockets

            timeout = pack("@ll", int(self._patience), int(self._patience % 1 * 1e6))
            # The kernel's own limits: they hold for libraries too that set none, or set theirs to none.
            socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVTIMEO, timeout)
            socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDTIMEO, timeout)

    def _see_request(self, connection: Any, data: Any) -> None:
        if not isinstance(data, (bytes, bytearray)):
            return
        method, _, rest = bytes(data).partition(b"\r\n")[0].partition(b" ")
        target = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        if method != b"GET" or not rest.endswith((b"HTTP/1.1", b"HTTP/1.0")):
            return
        self.addresses.pop(connection.host, None)  # what is known now says more
        if target.startswith("/"):
            host = getattr(connection, "_tunnel_host", None) or connection.host
            port = getattr(connection, "_tunnel_port", None) or connection.port
            scheme = "https" if hasattr(connection, "_context") else "http"
            default = {"http": 80, "https": 443}[scheme]
            target = f"{scheme}://{host}{'' if port == default else f':{port}'}{target}"
        self.addresses[target] = None

    def _refuse(self, kind: type[OSError], action: str) -> None:
        refusal = kind(f"A worker uses the weights that are there: {action} is refused.")
        # No reference is kept: a traceback holds what setup() has loaded. A class of exceptions may refuse attributes.
        refusal.__dict__[_REFUSAL] = True
        for earlier in _chain(sys.exc_info()[1]):
            earlier.__dict__[_EARLIER] = True
        self._refused = True
        raise refusal


def _both_ways(folder: str) -> tuple[str, ...]:
    """Return how the paths below a folder begin: as it is named, and where it really is."""
    return tuple({os.path.join(os.path.abspath(folder), ""), os.path.join(os.path.realpath(folder), "")})


def _may_be_weights(path: str) -> bool:
    """Tell whether a file of an environment's packages may be weights: it is large, and no text such as a table."""
    if os.path.getsize(path) < _LITTLE:
        return False
    with open(path, "rb") as file:
        return b"\0" in file.read(_LITTLE)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that it came from."""
    yielded: set[int] = set()
    while error is not None and id(error) not in yielded:
        yielded.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _hub_error() -> Any:
    """Return what huggingface_hub raises where ``HF_HUB_OFFLINE`` keeps it from fetching a file that is missing."""
    return getattr(sys.modules.get("huggingface_hub.utils"), "LocalEntryNotFoundError", ())
