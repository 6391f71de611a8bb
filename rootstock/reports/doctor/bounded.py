"""Run a check in a child process, for a limited time: a file system that hangs must not hang whoever looks at it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace

from rootstock.reports.doctor.finding import Finding, failed


def no_answer(seconds: float) -> Finding:
    """Return the finding that a check did not end in time."""
    return failed(
        f"no answer within {seconds:.0f} s",
        "A file system may hang or be very slow: try 'ls' on the folder, and ask the site's admin. "
        "--wait SECONDS waits longer.",
    )


class Bounded:
    """A check that runs in a child process.

    Parameters
    ----------
    function : callable
        Returns findings. It must not rely on threads.
    """

    def __init__(self, function: Callable[[], Iterable[Finding]]) -> None:
        self._begun = time.monotonic()
        self._reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _be_child(function, self._reader, writer)
        os.close(writer)

    def findings(self, deadline: float, late: Callable[[float], Finding]) -> Iterator[Finding]:
        """Yield what the check finds, and what `late` makes of the seconds that it took if it has not ended by then.

        Parameters
        ----------
        deadline : float
            As of `time.monotonic`.
        late : callable
        """
        received, ended = b"", False
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while not ended and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            chunk = os.read(self._reader, 65536)
            ended = not chunk
            received += chunk
        *lines, rest = received.split(b"\n")
        yield from (Finding(**json.loads(line)) for line in lines)
        if not ended:
            yield late(time.monotonic() - self._begun)
        elif rest:
            yield failed(rest.decode(errors="replace"), "This is an error of Rootstock itself: please report it.", 1)

    def end(self) -> None:
        """End the child, and what it has started; never waits for one that hangs in the kernel."""
        os.close(self._reader)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            for _ in range(50):
                if os.waitpid(self._pid, os.WNOHANG)[0]:
                    return
                time.sleep(0.002)


def _be_child(function: Callable[[], Iterable[Finding]], reader: int, writer: int) -> None:
    """Write a line for each finding, and end: the caller's stack is not to be returned to."""
    try:
        os.setpgid(0, 0)
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        begun = time.monotonic()
        for finding in function():
            timed = replace(finding, seconds=round(time.monotonic() - begun, 2))
            os.write(writer, json.dumps(asdict(timed)).encode() + b"\n")
    except BaseException:  # noqa: BLE001  # whatever it is, the parent shows it
        os.write(writer, traceback.format_exc().strip().replace("\n", " | ").encode())
    finally:
        os._exit(0)
