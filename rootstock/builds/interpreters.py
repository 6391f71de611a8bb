"""Find the Python that an environment is built on."""

from __future__ import annotations

import ast
import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from rootstock.errors import BuildError

AUTO, MANAGED = "auto", "managed"  # what a cluster can say in place of a path

# What builds need of an interpreter and some lack: modules whose libraries were absent when it was compiled. Those are
# the parts in C, which also load faster than what is around them.
_QUESTION = (
    "import sys, _ssl, _sqlite3, _ctypes, zlib\n"
    "print(ascii([sys.implementation.name, '.'.join(map(str, sys.version_info[:3])),"
    " sys.executable, sys.base_prefix, sys.prefix != sys.base_prefix and sys._base_executable]))"
)


class NoInterpreterError(BuildError):
    """No Python fits."""


class _UnfitError(Exception):
    """A program that no build can be made on; it says why."""


@dataclass(frozen=True)
class Interpreter:
    """A Python.

    Attributes
    ----------
    path : str
        The program.
    version : str
        For example ``3.11.2``.
    prefix : str
        Where its standard library is installed.
    download : str
        uv's name of it, if it is to be fetched into the root before it is there; else empty.
    address : str
        Where it is fetched.
    """

    path: str
    version: str
    prefix: str
    download: str = ""
    address: str = ""

    @property
    def there(self) -> bool:
        """Whether it can be run already; else it is yet to be put into the root."""
        return not self.download and os.path.exists(self.path)

    def hidden_by(self) -> Path | None:
        """Return the file or folder that keeps other users from running this interpreter; None if nothing does."""
        program = Path(self.path).resolve()
        for path in (program, *program.parents, *Path(self.prefix).resolve().parents, Path(self.prefix).resolve()):
            needed = stat.S_IXOTH if path.is_dir() else stat.S_IXOTH | stat.S_IROTH
            if path.stat().st_mode & needed != needed:
                return path
        return None


def own_interpreters(folder: Path) -> list[Interpreter]:
    """Return the interpreters that a root holds, newest first.

    Parameters
    ----------
    folder : Path
        The root's folder of interpreters, each in a folder of its own.
    """
    interpreters = []
    for program in folder.glob("[!.]*/bin/python3"):
        with contextlib.suppress(_UnfitError):  # of another processor, for example
            interpreters.append(_ask(str(program)))
    return sorted(interpreters, key=lambda python: (Version(python.version), python.path), reverse=True)


def movable_interpreter(folder: Path) -> Interpreter:
    """Return the interpreter in a folder that may be copied elsewhere.

    Raises
    ------
    BuildError
        If there is none, or it needs its standard library where it is now.
    """
    program = folder / "bin" / "python3"
    try:
        interpreter = _ask(str(program))
    except _UnfitError as error:
        raise BuildError(f"{program} {error}.", "Name the folder of a whole Python.") from None
    if Path(interpreter.prefix).resolve() != folder.resolve():
        raise BuildError(
            f"{program} has its standard library in {interpreter.prefix}: it cannot be moved.",
            "python-build-standalone makes interpreters that can; uv python install fetches them.",
        )
    return interpreter


def find_interpreter(
    requires: SpecifierSet,
    settings: Sequence[str],
    readers: str,
    interpreters: Sequence[Interpreter] = (),
    whose: str = "this build",
) -> Interpreter:
    """Return an interpreter for a build.

    Parameters
    ----------
    requires : SpecifierSet
        The versions that the environment file allows.
    settings : sequence of str
        The cluster's ``python.interpreter``, in the order in which they are tried: paths; ``managed`` for one of
        `interpreters`; ``auto`` for one of those that are there already, the one Rootstock runs on, or else the newest
        on PATH.
    readers : str
        The cluster's ``access.readers``. Unless it is ``owner``, the interpreter must be executable by everybody.
    interpreters : sequence of Interpreter
        Those of the root, which every reader of the root may run, and those that can be fetched into it; the best
        first.
    whose : str
        What the build is of, for messages.

    Raises
    ------
    NoInterpreterError
        If there is none. It says why each one found was refused.
    """
    refused = []
    for setting in settings:
        if setting in (AUTO, MANAGED):
            for interpreter in interpreters:
                fetched = setting == MANAGED or not interpreter.download
                if fetched and requires.contains(interpreter.version, prereleases=True):
                    return interpreter
        if setting == MANAGED:
            refused.append(f"{MANAGED}: none that is in the root or can be fetched is {requires or 'there'}")
            continue
        for candidate in _candidates() if setting == AUTO else [setting]:
            try:
                interpreter = _ask(candidate)
            except _UnfitError as error:
                refused.append(f"{candidate}: {error}")
                continue
            if not requires.contains(interpreter.version, prereleases=True):
                refused.append(f"{candidate}: is {interpreter.version}, not {requires}")
            elif readers != "owner" and (obstacle := interpreter.hidden_by()):
                refused.append(f"{candidate}: other users cannot get past {obstacle}")
            else:
                return interpreter
    raise NoInterpreterError(
        f"No Python {requires or 'of any version'} for {whose}. Looked at:\n"
        + "\n".join(f"  {line}" for line in refused),
        "Name one in the cluster's file, or with --set python.interpreter=/path/to/python3; or let uv fetch one into "
        "the root, where network or a mirror is: --set python.interpreter=managed",
    )


def one_that_runs(wanted: Interpreter, interpreters: Sequence[Interpreter]) -> Interpreter:
    """Return an interpreter to resolve requirements with, which may be those of another that is not there yet.

    Parameters
    ----------
    wanted : Interpreter
        Returned if it is there. One of the same release comes next: packages without a wheel are asked for their
        requirements by running them.
    interpreters : sequence of Interpreter
        Those of the root.

    Raises
    ------
    NoInterpreterError
        If there is none at all.
    """
    if wanted.there:
        return wanted
    minor = wanted.version.rpartition(".")[0]
    with contextlib.suppress(NoInterpreterError):
        return find_interpreter(SpecifierSet(f"=={minor}.*"), [AUTO], "owner", interpreters)
    return find_interpreter(SpecifierSet(), [AUTO], "owner", interpreters)


def _candidates() -> Iterable[str]:
    """Return the Python that Rootstock runs on and those on PATH, the newest first, each once."""
    names = [f"python3.{minor}" for minor in range(20, 9, -1)] + ["python3"]
    base = getattr(sys, "_base_executable", sys.executable)
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"]
    programs: dict[str, str] = {}
    for path in [base, *(os.path.join(folder, name) for name in names for folder in folders if folder)]:
        if os.access(path, os.X_OK):
            programs.setdefault(os.path.realpath(path), path)
    return programs.values()


def _ask(program: str) -> Interpreter:
    """Return what a program says of itself.

    Raises
    ------
    _UnfitError
        If no build can be made on it.
    """
    try:
        answer = subprocess.run(
            [program, "-I", "-c", _QUESTION], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        name, version, path, prefix, base = ast.literal_eval(answer)
    except (OSError, subprocess.SubprocessError, ValueError, SyntaxError):
        raise _UnfitError("does not run, or lacks ssl, sqlite3 or ctypes") from None
    if name != "cpython":
        raise _UnfitError(f"is {name}, not cpython")
    if base:
        raise _UnfitError(f"belongs to a virtual environment; use its base interpreter: {base}")
    return Interpreter(path, version, prefix)
