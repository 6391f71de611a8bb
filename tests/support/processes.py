"""What tests ask of processes, and how they wait for what these do."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rootstock.client.scratch import private_scratch
from tests.support.commands import DEADLINE_S
from tests.support.needs import need_program, need_root


def wait_for(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait until a function returns something true."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {deadline_s:.0f} s"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Tell whether a process has ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(*pids: int) -> None:
    """Wait for the end of processes."""
    for pid in pids:
        wait_for(lambda pid=pid: gone(pid), f"the end of process {pid}")  # type: ignore[misc]


# The system call by which a thread waits for another one: in Python, for the interpreter's lock.
_FUTEX = {"x86_64": "202", "aarch64": "98"}


def wait_until_it_waits(pid: int) -> None:
    """Wait until a process sleeps in a system call that is not for another thread of its own: it expects an answer."""
    awake = ("running", "-1", _FUTEX.get(platform.machine()))
    wait_for(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[0] not in awake, f"the sleep of process {pid}")


def processes_at(path: Path) -> list[str]:
    """Return the command lines of the processes, zombies aside, that have something to do with a path."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(path) in line and int(entry.parent.name) != os.getpid():
                found.append(line)
    return found


def wait_until_none_at(path: Path) -> None:
    """Wait until no process has to do with a path: what ends with its parent does so a moment later."""
    wait_for(lambda: not processes_at(path), f"the end of the processes at {path}")


def open_files() -> Counter[str]:
    """Count what this process has open, beside what garbage holds: several descriptors can have one name."""
    gc.collect()
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the list itself
            found[os.readlink(f"/proc/self/fd/{fd}")] += 1
    return found


def worker_logs(name: str = "*") -> set[Path]:
    """Return the logs of workers of this process and of its children, by the environment's name."""
    return set((private_scratch() / "log").glob(f"{name}-*.log"))


def alone() -> list[str]:
    """Return the prefix of a command that sees no processes but its own and its children: nobody else's count.

    What is left of them when it ends is killed.
    """
    need_root()
    unshare = need_program("unshare", "util-linux")
    return [unshare, "--pid", "--fork", "--kill-child", "--mount-proc"]


@contextlib.contextmanager
def limit(kind: int, value: int) -> Iterator[None]:
    """Lower a limit of this process for the time of a block."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, of all its threads, zombies aside."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, task.read_text().split())
    return [child for child in found if not gone(child)]


def stop_tree(pid: int) -> list[int]:
    """Stop a process and all that it has started, and return the latter.

    These end from now on only if somebody kills them, so a test can tell that from an end by themselves, however long
    either takes.
    """
    with contextlib.suppress(ProcessLookupError):  # a child may end by itself before its turn
        os.kill(pid, signal.SIGSTOP)
    # Only what stands still starts nothing more.
    wait_for(lambda: all(state in "TtZX" for state in _states(pid)), f"the stop of process {pid}")
    found = children(pid)
    return found + [below for child in found for below in stop_tree(child)]


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _states(pid: int) -> list[str]:
    """Return the state of each thread of a process; of none if it is gone."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(task.read_text().rpartition(")")[2].split()[0])
    return found


def cut_off(process: subprocess.Popen[str], number: signal.Signals, *, group: bool = False, stop: bool = True) -> int:
    """End a command by a signal, see to it that nothing goes on behind its back, and return its code.

    Parameters
    ----------
    process : subprocess.Popen
        The first of a process group.
    number : signal.Signals
    group : bool
        Whether the signal goes to all of the group, as that of Ctrl-C does, or to the command alone.
    stop : bool
        Whether what it has started stands still before, and so ends only if it is killed. Workers end by themselves:
        they must not be stopped, and their work must be without an end.
    """
    below = stop_tree(process.pid) if stop else children(process.pid)
    own = children(process.pid)
    # Any thread of a stopped process may take a signal that comes; only Python's first one does anything about it.
    os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: "T" not in _states(process.pid), f"process {process.pid}, which may go on")
    for each in own:
        # One that has not become another program yet: until it has, the command can do nothing but wait for it.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if _command_line(each) == _command_line(process.pid):
                os.kill(each, signal.SIGCONT)
    (os.killpg if group else os.kill)(process.pid, number)
    code = process.wait()
    wait_until_gone(*own)
    for each in below:  # those further down end by themselves when what started them has ended
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGCONT)
    wait_until_gone(*below)
    return code
