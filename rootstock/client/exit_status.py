"""How a process did not start, or ended, in words."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

from rootstock.errors import WorkerStartError
from rootstock.root.mounts import noexec_mount

HOW_IS_UNKNOWN = (
    "How it ended is not known: this process ignores SIGCHLD, or another part of it reaps its children. A lack of "
    "memory is a frequent cause."
)


def cannot_start(program: str, error: OSError) -> WorkerStartError:
    """Return the error for a program that does not start.

    Parameters
    ----------
    program : str
        Its path.
    error : OSError
        What the kernel says.
    """
    hint = "rootstock-site status shows whether the build is there; its interpreter must be executable by you."
    if error.errno == errno.EACCES and (mount := noexec_mount(Path(program))):
        hint = f"{mount} is mounted with the option noexec on this node. Ask the site's admin to mount it without."
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM):
        hint = "ulimit -a shows this process's limits: -n is open files, -u processes, -v memory."
    return WorkerStartError(f"Cannot start {program}: {error.strerror}.", hint)


def describe_exit(code: int | None) -> str:
    """Say how a process ended.

    >>> describe_exit(3), describe_exit(-9)
    ('exited with code 3', 'was killed by SIGKILL (out of memory, or someone ended it)')
    """
    if code is None:
        return "has ended"
    # A shell, or uv, reports its child's signal as 128 and its number.
    number = -code if code < 0 else code - 128
    if not 0 < number < signal.NSIG:
        return f"exited with code {code}"
    name = next((each.name for each in signal.Signals if each == number), f"signal {number}")
    causes = {
        "SIGKILL": " (out of memory, or someone ended it)",
        "SIGSEGV": " (a crash in compiled code)",
        "SIGABRT": " (a crash in compiled code)",
        "SIGBUS": " (a file it uses was cut short, or memory ran out)",
        "SIGILL": " (a build for another processor)",
    }
    return f"was killed by {name}{causes.get(name, '')}"
