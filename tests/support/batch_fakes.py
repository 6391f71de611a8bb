"""Programs of PBS and Flux on PATH, as their manuals describe them, which run jobs as processes of this machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.commands import REPOSITORY

_PROGRAMS = {
    **dict.fromkeys(("qsub", "qstat", "qselect", "qdel", "mpiexec"), "fake_pbs"), "flux": "fake_flux",
}  # fmt: skip


@contextlib.contextmanager
def batch_fakes(folder: Path, *, grace_s: float | None = None) -> Iterator[Path]:
    """Write the programs, give the folder where they are, and end all jobs at the end of the block.

    Parameters
    ----------
    folder : Path
        For the programs and all that they keep; a user who runs them must be able to write there.
    grace_s : float, optional
        How long a job has to end that was cancelled; PBS's 10 s and Flux's 5 s unless given.
    """
    state = folder / "state"
    programs = folder / "bin"
    home = folder / "home"
    for each in (folder, state, programs, home):
        each.mkdir(exist_ok=True)
    variables = {"FAKE_BATCH_STATE": state, "FAKE_BATCH_BIN": programs, "FAKE_BATCH_HOME": home}
    variables |= {} if grace_s is None else {"FAKE_BATCH_GRACE_S": grace_s}  # type: ignore[dict-item]
    lines = "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in variables.items())
    for name, module in _PROGRAMS.items():
        path = REPOSITORY / "tests" / "support" / "programs" / f"{module}.py"
        words = shlex.join([sys.executable, str(path), *([] if name == "flux" else [name])])
        (programs / name).write_text(f'#!/bin/sh\n{lines}exec {words} "$@"\n')
        (programs / name).chmod(0o755)
    (home / ".profile").write_text(f"PATH={shlex.quote(str(programs))}:$PATH\n")
    try:
        yield programs
    finally:
        (state / "stop").touch()
        with (state / "alive").open("a") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)  # each job holds it until it has ended


def hold(programs: Path) -> None:
    """Let no job start, as before a maintenance."""
    (programs.parent / "state" / "hold").touch()


def release(programs: Path) -> None:
    """Let jobs start again."""
    (programs.parent / "state" / "hold").unlink()


def path_with(programs: Path) -> str:
    """Return a PATH on which the programs come first."""
    return f"{programs}{os.pathsep}{os.environ['PATH']}"


def at_home(programs: Path) -> dict[str, str]:
    """Return the variables of a user who has the programs: also in login shells, which set PATH anew."""
    return {"PATH": path_with(programs), "HOME": str(programs.parent / "home")}
