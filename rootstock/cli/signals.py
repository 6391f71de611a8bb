"""How a command is ended by Ctrl-C and by the signals of a batch system: nothing half made is left."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rootstock.root.signals import SIGNALS_TO_END

_AGAIN_S = 0.5


@contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[None]:
    """Handle signals while the block runs, and then as before; those that are ignored (nohup) stay so.

    Parameters
    ----------
    handler : callable
        As `signal.signal` takes it.
    *numbers : int
        The signals.
    """
    handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def end_like_ctrl_c() -> Iterator[None]:
    """Let the end of a job, or of the terminal, end a command as Ctrl-C does.

    Slurm's signals come more than once: by scancel, and from srun, which passes on what it gets. Only the first
    interrupts, and what the command does at its end is not cut, but by Ctrl-C.

    An exception that a signal raises in a destructor is lost, and so it is where numpy looks up an attribute. So it is
    raised again until it is seen to end the command.
    """
    usual = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(SIGNALS_TO_END, signal.SIG_DFL)}
    in_first = threading.current_thread() is threading.main_thread()
    numbers = [number for number, handler in usual.items() if in_first and signal.getsignal(number) is handler]
    batch = [number for number in numbers if number != signal.SIGINT]
    first, turn = threading.get_ident(), _thread.allocate_lock()
    came = over = False

    def again() -> None:
        while True:
            time.sleep(_AGAIN_S)
            with turn:
                if over:
                    return
                signal.pthread_kill(first, batch[0])

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if number != signal.SIGINT and _is_ending():
            return
        if batch and not came:
            with suppress(RuntimeError):  # no room for a thread
                _thread.start_new_thread(again, ())  # the locks of threading.Thread may be held by this very thread
        came = True
        signal.default_int_handler(number, frame)

    with handle_signals(interrupt, *numbers):
        try:
            yield
        finally:
            over = True
            with turn:  # a signal that is being sent comes before the block is left
                pass


def _is_ending() -> bool:
    """Tell whether an interruption is on its way up, or what it leaves behind is being closed."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt | GeneratorExit):
        error = error.__context__
    return error is not None
