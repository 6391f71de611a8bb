"""What talks to a process for one or several calculators: our worker, or an i-PI client of somebody else's."""

from __future__ import annotations

import atexit
import enum
import threading
import weakref
from collections.abc import Callable
from typing import Any

from rootstock.client.process import forks
from rootstock.errors import WorkerError

GOODBYE_S = 5.0  # for a process that was told to end


class Phase(enum.Enum):
    """What a connection does. An interruption (Ctrl-C) can come between any two steps, and this says what it cut.

    A wait can be taken up again as long as nothing was received; whatever else was cut makes the connection useless.
    """

    IDLE = enum.auto()
    BUSY = enum.auto()
    WAITING = enum.auto()
    OVER = enum.auto()


def asked_meanwhile() -> WorkerError:
    """Return the error for a thread that asks while it waits for an answer: in a signal handler."""
    return WorkerError(
        "A signal handler asks a worker in the middle of the call that the signal interrupted.",
        "Let the handler set a flag, and ask where the program looks at it, between two steps.",
    )


def closed_meanwhile() -> WorkerError:
    """Return the error for a thread that waited for an answer when another one closed the calculator."""
    return WorkerError(
        "Another thread has closed this calculator meanwhile.",
        "Let the thread that closes it wait for the others, or give each a copy (copy.copy(calc)), which it closes.",
    )


_interpreter_ends = False


def _note_end() -> None:
    global _interpreter_ends
    _interpreter_ends = True


weakref.finalize(_note_end, bool)  # so that the finalizers, which end the workers, are registered by now:
atexit.register(_note_end)  # this is called before them


class PeerConnection:
    """A process that is asked one thing at a time.

    Parameters
    ----------
    finish : callable
        Lets go of it: called with the arguments, with the number of forks at which the connection was made, and perhaps
        with ``polite=False``: the process does not listen.
    *arguments
        For `finish`. This object must not be reachable from them.
    """

    def __init__(self, finish: Callable[..., None], *arguments: Any) -> None:
        self.phase = Phase.IDLE
        self._owner = forks()
        # What nobody closes is closed when it is garbage, or at the end of the interpreter.
        self._finalizer = weakref.finalize(self, finish, *arguments, self._owner)

    @property
    def usable(self) -> bool:
        """Whether it may still be asked something."""
        return self.phase is not Phase.OVER and self._owner == forks()

    def kill(self) -> None:
        """End the process at once."""
        self._end(polite=False)

    def close(self) -> None:
        """Let the process end, giving it a moment to do so by itself."""
        self._end(polite=self.phase is Phase.IDLE)

    def _end(self, *, polite: bool) -> None:
        self.phase = Phase.OVER
        if (registered := self._finalizer.peek()) is not None:
            _, finish, arguments, _ = registered
            finish(*arguments, polite=polite)  # cut by an interruption, it is done again at the end
            self._finalizer.detach()


class PeerSession:
    """Keeps one process that computes for several calculators.

    Attributes
    ----------
    users : weakref.WeakSet
        The calculators.
    identity : str
        What finds it again, once a calculator was pickled or came out of a pickle; see `rootstock.client.sharing`.
    """

    _connection: Any

    def __init__(self) -> None:
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self.identity = ""
        self._reset()

    def _reset(self) -> None:
        """Start without a process: in a forked one, it and whoever holds the lock are the parent's."""
        self._lock, self._connection, self._membership = threading.RLock(), None, threading.RLock()
        self._long_call = 0  # the thread that has the lock for longer than one call
        self._owner = forks()  # last: who sees it finds the rest

    def own_lock(self) -> Any:
        """Return the lock that a call holds."""
        if self._owner != forks():
            self._reset()
        if self._long_call and self._long_call != threading.get_ident():
            self._hurry()
        return self._lock

    def _hurry(self) -> None:
        """Have the thread that holds the lock let go of it soon."""

    def _own_membership(self) -> Any:
        """Return the lock under which users come, and the last one goes; no call holds it."""
        if self._owner != forks():
            self._reset()
        return self._membership

    def _settle(self, timeout: float) -> None:
        """Keep a connection that is ready, or will be within `timeout` seconds, and no other."""
        if _interpreter_ends:
            raise WorkerError(
                "Python is ending, and has ended its workers.",
                "Ask earlier. Of functions registered with atexit, the last is called first: register yours after the "
                "first call of a calculator.",
            )
        if not self.users:
            raise WorkerError("This calculator is closed.", "Make a new one, or enter it again (with calc: ...).")
        if self._connection is not None and not self._connection.settle(timeout):
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def join(self, user: Any) -> None:
        """Let a calculator use it."""
        with self._own_membership():
            self.users.add(user)

    def release(self, user: Any) -> None:
        """End the process if `user` was the last that needs it."""
        with self._own_membership():
            self.users.discard(user)
            if not self.users:
                self._drop()

    def end_if_unused(self) -> bool:
        """End the process unless a calculator uses it; return whether there was one to end."""
        with self._own_membership():
            if self.users or self._connection is None:
                return False
            self._drop()
            return True
