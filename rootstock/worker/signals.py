"""Signals that a batch system, a shell or a terminal sends to all processes of a job: a worker outlives them.

The client decides what becomes of its worker, and needs it to finish the step that it is in. The lifeline ends the
worker after the client, and SIGKILL ends it at any time.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

# A client blocks them while it starts a worker, so that none can end the worker before `outlive`.
OF_A_JOB = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})

_before_fork = threading.local()


def outlive() -> None:
    """Let the signals `OF_A_JOB` do nothing to this process, and to its children what they do by default.

    A handler does that for every program that a model starts, also from C: the kernel keeps no handler when another
    program is executed, but it keeps what is ignored. A signal that was ignored from the start (nohup) stays so.
    """
    for number in OF_A_JOB:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _do_nothing)
            signal.siginterrupt(number, False)  # system calls of a model's C code are restarted, not cut short
    # A child that only forks keeps the handler. It is blocked meanwhile: Process.terminate() may come at once.
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_set_default)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_A_JOB)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def _block() -> None:
    _before_fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, OF_A_JOB)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _before_fork.mask)


def _set_default() -> None:
    for number in OF_A_JOB:
        if signal.getsignal(number) is _do_nothing:  # a model may have one of its own
            signal.signal(number, signal.SIG_DFL)
    _unblock()
