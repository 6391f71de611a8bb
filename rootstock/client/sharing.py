"""One session for all copies of a calculator that come out of pickles in this process.

Programs that spread tasks over processes (joblib, Dask, `concurrent.futures`) pickle the calculator with each task. A
pickle therefore carries the identity of the session that it was made from, and a table finds the session of this
process again. It outlives the last copy by some seconds, until the next task brings another one.

Others (atomate2) make one in each task, by its arguments. Those that say so are found by these.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from rootstock.client.peer import PeerSession

GRACE_S = 10.0
# A process that changes them means other GPUs.
_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")

S = TypeVar("S", bound=PeerSession)


class _Table:
    """The sessions of this process that have an identity.

    Attributes
    ----------
    sessions : WeakValueDictionary
        By identity, arguments and GPUs.
    kept : dict of PeerSession to float or None
        Those that came out of pickles or are shared by arguments, and since when nobody uses them, as far as was seen.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.sessions: weakref.WeakValueDictionary[tuple[str | None, ...], PeerSession] = weakref.WeakValueDictionary()
        self.kept: dict[PeerSession, float | None] = {}

    def watch(self) -> None:
        """End sessions that nobody has used for a while, until none are kept."""
        while True:
            time.sleep(GRACE_S / 8)
            self.end_unused(GRACE_S)
            with self.lock:
                if not self.kept:
                    return

    def keep(self, session: PeerSession) -> None:
        """Keep a session, and have somebody watch. The lock is held."""
        if not self.kept:  # first: where no thread can start, nothing is kept for ever
            threading.Thread(target=self.watch, name="rootstock-sessions", daemon=True).start()
        self.kept.setdefault(session, None)

    def end_unused(self, grace: float) -> bool:
        """End the sessions that nobody has used for `grace` seconds; return whether there were any."""
        now, unused = time.monotonic(), []
        with self.lock:
            for session, since in list(self.kept.items()):
                if session.users:
                    self.kept[session] = None
                elif grace and since is None:
                    self.kept[session] = now
                elif not grace or (since is not None and now - since >= grace):
                    unused.append(session)
                    del self.kept[session]
                    # A copy that comes now gets a session of its own.
                    for key in [key for key, value in self.sessions.items() if value is session]:
                        del self.sessions[key]
        ended = 0
        for session in unused:
            with contextlib.suppress(OSError):  # such as a log on a dead file system; the others end all the same
                ended += session.end_if_unused()
        return bool(ended)


_table = _Table()


def _forget() -> None:
    """Start anew in a forked process: whoever watched, or held the lock, is the parent's."""
    global _table
    _table = _Table()


os.register_at_fork(after_in_child=_forget)


def identify(session: PeerSession, arguments: object) -> str:
    """Return what stands for a session in a pickle, and finds it again in its own process.

    Parameters
    ----------
    session : PeerSession
    arguments : object
        Those of the calculator that is pickled.
    """
    with _table.lock:
        session.identity = session.identity or uuid.uuid4().hex
        _table.sessions.setdefault(_key(session.identity, arguments), session)
        return session.identity


def share(identity: str | None, arguments: object, make: Callable[[], S], user: Any) -> S:
    """Return the session that a calculator out of a pickle uses: one for all with this identity.

    Parameters
    ----------
    identity : str or None
        Of the session that the pickled calculator used; None for a pickle that holds none.
    arguments : object
        Those of the calculator. One whose arguments were changed on the way has a session of its own.
    make : callable
        Returns a new session.
    user : object
        The calculator; it joins the session.
    """
    if identity is None:
        session = make()
        session.join(user)
        return session
    key = _key(identity, arguments)
    with _table.lock:
        found = _table.sessions.get(key)
        session = make() if found is None else found  # type: ignore[assignment]  # of the class that was pickled
        session.identity = identity
        session.join(user)
        _table.sessions[key] = session
        _table.keep(session)
    return session


def share_equal(origin: str, arguments: object, make: Callable[[], S]) -> S:
    """Return the session of all calculators of this process that were made the same, and are to share.

    Parameters
    ----------
    origin : str
        What computes, as far as the arguments do not say it.
    arguments : object
        Those of the calculator, which joins the session in the next few seconds.
    make : callable
        Returns a new session.
    """
    key = _key(f"made of {origin}", arguments)
    with _table.lock:
        found = _table.sessions.get(key)
        session: S = make() if found is None else found  # type: ignore[assignment]  # made by the same function
        _table.sessions[key] = session
        _table.keep(session)
    return session


def end_unused() -> bool:
    """End at once the sessions that are kept for copies to come; return whether that ended a process."""
    return _table.end_unused(0.0)


def _key(identity: str, arguments: object) -> tuple[str | None, ...]:
    return identity, repr(arguments), *(os.environ.get(name) for name in _GPUS)
