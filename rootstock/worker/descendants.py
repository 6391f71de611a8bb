"""A worker's guard: a process that outlives the worker by a moment, and ends every process that it has started.

A child that has a session of its own, as a daemon has, is in no group that could be ended with the worker. Linux gives
children whose parent has ended to the nearest ancestor that asked for them (prctl(2), PR_SET_CHILD_SUBREAPER), and
that is the guard: none can leave it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_END_S = 1.0  # without any success; less than REAP_S, in which the client wants to know how the worker ended


def run_guarded(descriptors: Iterable[int]) -> None:
    """Go on in a child process, which is a worker; this one guards it, and ends as the worker does.

    Parameters
    ----------
    descriptors : iterable of int
        Those that only the worker needs.
    """
    if sys.platform != "linux":
        return
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    with contextlib.suppress(OSError):  # it leads one
        os.setpgid(0, 0)  # what ends uv, which started it, is not for the guard
    try:
        worker = os.fork()
    except OSError as error:
        sys.exit(f"Cannot start the process of the model: {error.strerror}. ulimit -u shows how many you may have.")
    if worker == 0:
        os.setsid()  # the kernel ends its group, and the guard is in another
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # those to a whole job, too
    for fd in descriptors:
        os.close(fd)
    while (ended := _next_end()) != worker:
        os.waitpid(ended, 0)
    # At once, so that none can start another meanwhile. The group's number is theirs until the worker is reaped.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)
    status = os.waitpid(worker, 0)[1]
    _end_children()
    _end_as(status)


def _next_end() -> int:
    """Wait for the end of a child, and leave it to be reaped."""
    end = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    assert end is not None  # for it waits
    return end.si_pid


def _prctl(option: int, value: int) -> None:
    """Set one of this process's attributes, where the C library can be asked for it."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # numpy imports it anyway

        ctypes.CDLL(None).prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0)))


def _end_children() -> None:
    """End all children, and theirs, which become ours; a process of another user, or that hangs, is left."""
    last = time.monotonic()
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < last + _END_S:
            for pid in _children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            while os.waitpid(-1, os.WNOHANG)[0]:
                last = time.monotonic()
            time.sleep(0.001)


def _children() -> list[int]:
    me = os.getpid()
    try:
        if os.readlink("/proc/self") != str(me):
            return []  # it is that of another PID namespace, whose numbers mean other processes here
    except OSError:  # there is none
        return []
    try:
        return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()]
    except OSError:  # a kernel that does not list them
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and parent_of(path) == me]


def parent_of(process: Path) -> int:
    """Return the number of a process's parent, given its folder in ``/proc``; 0 if it has ended."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


def _end_as(status: int) -> None:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        _prctl(_PR_SET_DUMPABLE, 0)  # the worker's core is enough
        with contextlib.suppress(OSError):  # SIGKILL needs none
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
