"""What a job of Parsl's runs on a node: it starts Parsl's manager there, looks after it, and replaces it.

Parsl's manager replaces a worker that was killed while it computed. One that was killed while it waited for work holds
a lock, and no task gets through any more though all seems well (seen with Parsl 2026.10, 3 times of 3); and nobody
replaces the manager. Here each is noticed, and another manager goes on in the same job. What the lost one had is
computed again once Parsl misses its heartbeats.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import psutil

from rootstock.client.threads import OF_LIBRARIES
from rootstock.simulations.parsl_engine.busy import FOLDER

_LOOK_S = 1.0
_PR_SET_CHILD_SUBREAPER = 36
_TELL_S = 15.0
_ENDING_S = 10.0  # a manager that ends by itself ends its workers first
_QUICK_S, _QUICK_ENDS = 60.0, 3  # managers that live no longer, and how many of them are enough


def main() -> None:
    """Run a block: ``FOLDER NAME COMMAND...``, with the folder for what is told of it, and the manager's command."""
    folder, name, *command = sys.argv[1:]
    signal.signal(signal.SIGTERM, _end)
    _adopt()
    with tempfile.TemporaryDirectory(prefix="rootstock-parsl-", ignore_cleanup_errors=True) as marks:
        sys.exit(Block(Path(folder) / f"busy-{name}", Path(marks), command).run())


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # as signal wants it
    raise SystemExit(128 + number)


def _adopt() -> None:
    """Become the parent of every process whose own one ends, so that none gets lost with a manager."""
    with contextlib.suppress(OSError, AttributeError):  # where there is no such call, workers look for their manager
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)


class Block:
    """A manager and its workers.

    Parameters
    ----------
    told : Path
        The file that is touched now and then as long as a worker computes.
    marks : Path
        The folder in which workers say that they compute.
    command : sequence of str
        Of the manager.
    """

    def __init__(self, told: Path, marks: Path, command: Sequence[str]) -> None:
        self._told, self._marks, self._command = told, marks, command
        self._next = 0.0

    def run(self) -> int:
        """Run managers, one after the other, until one ends by itself; return its exit code."""
        quick = 0
        while True:
            begun = time.monotonic()
            variables = {**os.environ, **dict.fromkeys(OF_LIBRARIES, "1"), FOLDER: str(self._marks)}
            manager = subprocess.Popen(self._command, env=variables)
            try:
                code = self._watch(manager)
            finally:
                _kill(manager)
                for mark in self._marks.iterdir():
                    mark.unlink(missing_ok=True)
            if code is not None and code >= 0:
                return code
            quick = quick + 1 if time.monotonic() - begun < _QUICK_S else 0
            if quick == _QUICK_ENDS:
                print(f"Rootstock: {quick} managers of Parsl's were lost within moments.", file=sys.stderr, flush=True)  # noqa: T201
                return 1
            print("Rootstock: Parsl's manager is replaced.", file=sys.stderr, flush=True)  # noqa: T201  # into the job's log

    def _watch(self, manager: subprocess.Popen[bytes]) -> int | None:
        """Return the manager's exit code; None if a child was lost with which it cannot go on."""
        known: dict[int, psutil.Process] = {}
        lost = 0.0
        process = psutil.Process(manager.pid)
        while (code := manager.poll()) is None:
            self._tell()
            with contextlib.suppress(psutil.Error):
                there = {child.pid: child for child in process.children() if child.status() != psutil.STATUS_ZOMBIE}
                if not lost and self._idle([pid for pid in known if pid not in there]):
                    lost = time.monotonic()
                known = there
            if lost and time.monotonic() - lost > _ENDING_S:
                return None
            time.sleep(_LOOK_S)
        return code

    def _idle(self, gone: Sequence[int]) -> bool:
        """Tell whether one of some children was lost while it waited; of the others nobody needs the mark any more."""
        waited = False
        for pid in gone:
            mark = self._marks / str(pid)
            waited |= not mark.exists()
            mark.unlink(missing_ok=True)
        return waited

    def _tell(self) -> None:
        """Tell the head, which may be far away, that a worker computes."""
        if time.monotonic() < self._next or not any(self._marks.iterdir()):
            return
        self._next = time.monotonic() + _TELL_S
        with contextlib.suppress(OSError):
            self._told.touch()


def _kill(manager: subprocess.Popen[bytes]) -> None:
    """End a manager and all of its processes at once; models end with the workers that have started them."""
    manager.kill()
    manager.wait()
    last = time.monotonic()
    while (left := psutil.Process().children(recursive=True)) and time.monotonic() < last + _ENDING_S:
        for process in left:
            with contextlib.suppress(psutil.Error):  # which compares the time of its start: numbers are used again
                process.kill()
        psutil.wait_procs(left, timeout=0.1)
