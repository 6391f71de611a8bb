"""What no signal may cut in two: Python runs signal handlers, as that of Ctrl-C, in its first thread only."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def uninterrupted(function: Callable[[], T], afterwards: Callable[[], object] | None = None) -> T:
    """Call a function where no signal handler can interrupt it, and return what it returns.

    The caller's wait can be interrupted: then `function` goes on to its end, and what it returns or raises is lost.

    Parameters
    ----------
    function : callable
    afterwards : callable, optional
        Called in the same thread while the caller goes on; only where there is room for a thread.
    """
    if afterwards is None and threading.get_ident() != threading.main_thread().ident:
        return function()
    results: list[T] = []
    errors: list[BaseException] = []
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001  # raised in the thread that asked
            errors.append(error)
        finally:
            done.release()
        if afterwards is not None:
            afterwards()

    try:
        # Not threading.Thread: its locks may be held by this very thread, where the garbage collector calls us.
        _thread.start_new_thread(run, ())
    except RuntimeError:  # the interpreter ends, or there is no room for a thread
        return function()
    done.acquire()
    if errors:
        raise errors.pop()
    return results.pop()
