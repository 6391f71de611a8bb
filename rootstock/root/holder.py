"""Who holds a lock, as its record says; and whether that process still runs."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from rootstock.errors import RootError
from rootstock.root.record_files import Record, read_record
from rootstock.root.records import now, user_name


@dataclass(frozen=True)
class Holder(Record):
    """Who holds a lock; `start` tells the process from a later one with its number, where the system says so."""

    command: str
    user: str = field(default_factory=user_name)
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)
    since: str = field(default_factory=now)
    start: str = ""

    @classmethod
    def of_this_process(cls, command: str) -> Self:
        """Return what this process says when it takes a lock.

        Parameters
        ----------
        command : str
            The command line.
        """
        return cls(command, start=_start_of(os.getpid()))

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (process {self.pid}, since {self.since}: {self.command})"

    @property
    def elsewhere(self) -> bool:
        """Whether it is a process of another machine, where nobody can look from here."""
        return self.host != platform.node()

    @property
    def ended(self) -> bool:
        """Whether it was a process of this machine that is no more."""
        if self.elsewhere:
            return False
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass
        start = _start_of(self.pid)  # empty of another user's process where /proc hides those
        return bool(self.start and start) and start != self.start

    @property
    def age_s(self) -> float | None:
        """For how many seconds a process of this machine has run; None of others, and where there is no /proc."""
        if self.elsewhere or self.ended or not self.start:
            return None
        ticks = float(self.start.rpartition(" ")[2])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")

    def status(self) -> str:
        """Say in a line who is changing a root, or whether that process was killed or cannot be looked at."""
        if self.ended:
            return f"the lock is free, its last holder was killed: {self}"
        if self.elsewhere:
            return f"being changed by {self}, if it still runs: `ps -p {self.pid}` on {self.host} shows it"
        return f"being changed by {self}"

    def details(self) -> dict[str, Any]:
        """Return it for programs; `ended` is None of a process of another machine."""
        return {**asdict(self), "ended": None if self.elsewhere else self.ended}


def _start_of(pid: int) -> str:
    """Return the boot and the clock tick in which a process began; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot} {'ended' if state in 'ZX' else fields[18]}"  # a zombie has ended; its parent has not looked yet


def read_holder(record: Path) -> Holder | None:
    """Return whom a record names; None if nobody says so, or the caller may not know.

    Parameters
    ----------
    record : Path
    """
    try:
        return read_record(Holder, record, "")
    except RootError:
        return None
