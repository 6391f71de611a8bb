"""How tests run programs: with an end to all waiting, no input, and none of a developer's settings of Rootstock."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.needs import need_program

REPOSITORY = Path(__file__).parents[2]
SITE = Path(sys.executable).with_name("rootstock-site")
ROOTSTOCK = SITE.with_name("rootstock")
# Whoever waits goes on at once when it comes to pass; this is for what never does, on a machine that is slow. A test's
# own limit (pytest-timeout) is longer still.
DEADLINE_S = 300.0

# The commands of rootstock-site that ask before they change something.
ASKING = ("install", "default", "rollback", "lock", "warm", "gc", "uninstall")

Done = subprocess.CompletedProcess[str]


def clean_environment(**changes: str) -> dict[str, str]:
    """Return the environment without any setting of Rootstock, and with `changes`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ROOTSTOCK_")} | changes


def bare_environment(home: Path, **changes: str) -> dict[str, str]:
    """Return an environment as a batch job may have it, and `changes`."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"} | changes


def ordinary() -> list[str]:
    """Return the prefix of a command that root runs without the right to write where modes forbid it.

    Admins need not be root, so nothing that they do may depend on that right.
    """
    if os.geteuid() != 0:
        return []
    return [need_program("setpriv", "util-linux"), "--bounding-set=-dac_override,-dac_read_search"]


def run(*command: str | Path, env: Mapping[str, str] | None = None, check: bool = False, **options: Any) -> Done:
    """Run a command to its end and return its status and what it printed.

    Parameters
    ----------
    *command : str or Path
    env : Mapping, optional
        All of its variables; `clean_environment` unless given.
    check : bool
        Fail the test unless the command ends with 0.
    **options
        Others of `subprocess.run`.
    """
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("timeout", DEADLINE_S)
    words = [str(word) for word in command]
    done = subprocess.run(
        words, env=clean_environment() if env is None else env, capture_output=True, text=True, check=False, **options
    )
    assert not check or done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


@contextlib.contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a process group of its own, and end all of that group at the end of the block."""
    options = {"env": clean_environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | options
    process = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.DEVNULL, text=True, start_new_session=True, **options
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE_S)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Read a command's progress up to the line that holds `text`; its deadline is that of the test."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"it ended before it said {text!r}:\n{''.join(lines)}")
