"""The code blocks of a page of documentation, and what runs them as a reader would.

All blocks of a page share one shell and one Python, in a fresh folder. Comments on the lines before a block say more::

    <!-- not run: reason -->     nothing can run it here
    <!-- file: NAME -->          it is the content of a file, which later blocks use
    <!-- fails: 4 -->            it must end so: a shell's exit code, or the class of a Python exception
    <!-- output -->              before a block of text: what the block before it printed; ... stands for anything

and anywhere in the page, what it needs besides a root with emt and lj whose module is loaded::

    <!-- page needs: lmod -->    the fixture with_lmod of conftest.py
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from tests.support.commands import REPOSITORY, run

FREE = {"text", "diff", "lua", "tcl", "lammps", "jinja"}  # languages that nothing runs and nothing parses
PARSERS = {"json": json.loads, "toml": tomllib.loads, "xml": ElementTree.fromstring}
RUN = {"sh", "python"}

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}) *(?P<language>\S*)(?P<more>.*)$")
_COMMENT = re.compile(r"^ *<!-- *(?P<kind>[a-z ]+?)(?:: *(?P<value>.+?))? *-->$")
_NEEDS = re.compile(r"^<!-- page needs: (.+?) -->$", re.M)
_KINDS = {"not run", "file", "fails", "output"}
_OF_PAGES = {"page needs", "reference"}


class BlockError(AssertionError):
    """A block is not what it should be, or did not do what it should."""


@dataclass(frozen=True)
class Block:
    """A code block: where it begins, its language and text, and what the comments before it say."""

    where: str
    language: str
    text: str
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        return self.language in RUN and not self.notes.keys() & {"not run", "file"}

    def check(self) -> None:
        """Raise a BlockError unless the block is well formed."""
        if self.language not in RUN | PARSERS.keys() | FREE:
            raise BlockError(f"{self.where}: language {self.language!r} is none of {sorted(RUN | {*PARSERS} | FREE)}")
        if unknown := self.notes.keys() - _KINDS:
            raise BlockError(f"{self.where}: unknown comment {unknown}; there are {sorted(_KINDS)}")
        try:
            if self.language in PARSERS:
                PARSERS[self.language](self.text)
            elif self.language == "python":
                compile(self.text, self.where, "exec")
            elif self.language == "sh":
                run("bash", "-n", input=self.text, check=True)
        except (ValueError, SyntaxError, AssertionError) as error:
            raise BlockError(f"{self.where}: {error}") from error


def pages() -> list[Path]:
    """Return every page whose blocks are run."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def needs(page: str) -> list[str]:
    """Return what a page asks for besides a root."""
    return [name.strip() for line in _NEEDS.findall(page) for name in line.split(",")]


def blocks(page: str, name: str) -> list[Block]:
    """Return the blocks of a page."""
    found: list[Block] = []
    lines = iter(enumerate(page.splitlines(), 1))
    notes: dict[str, str] = {}
    for number, line in lines:
        if fence := _FENCE.match(line):
            indent = len(fence["indent"])
            text = []
            for _, inner in lines:
                if inner.strip() == fence["ticks"]:
                    break
                text.append(re.sub(f"^ {{0,{indent}}}", "", inner))
            else:
                raise BlockError(f"{name}:{number}: this block has no end")
            found.append(Block(f"{name}:{number}", fence["language"], "\n".join(text) + "\n", notes))
            notes = {}
        elif comment := _COMMENT.match(line):
            if comment["kind"] not in _OF_PAGES:
                notes = notes | {comment["kind"]: comment["value"] or ""}
        elif line.strip():
            notes = {}
    return found


def matches(expected: str, printed: str) -> bool:
    """Return whether `printed` is what was expected, where ``...`` stands for anything, alone for any lines."""
    lines = (
        "(?:[^\n]*\n)*?" if line.strip() == "..." else ".*?".join(map(re.escape, line.split("..."))) + "\n"
        for line in expected.strip().splitlines()
    )
    return re.fullmatch("".join(lines), printed.strip() + "\n", re.DOTALL) is not None


class Session:
    """A program that is given one block after the other, and says of each how it ended."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, bufsize=1, start_new_session=True,
        )  # fmt: skip

    def ask(self, line: str) -> str:
        """Send a line and return the one that comes back; empty if the program has ended.

        Its deadline is that of the test.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        try:
            return self._process.stdout.readline().strip()
        except BaseException:  # it would not heed the end of its input
            self._process.kill()
            raise

    def close(self) -> str:
        """End the program and what it started, and return its exit code."""
        for pipe in (self._process.stdin, self._process.stdout):
            _close(pipe)
        code = self._process.wait()  # both programs end with their input
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return str(code)


def _close(pipe: IO[str] | None) -> None:
    assert pipe is not None
    with contextlib.suppress(BrokenPipeError):
        pipe.close()


PYTHON = """\
import os, sys, traceback
replies, namespace = os.fdopen(os.dup(1), "w"), {"__name__": "__main__"}
while line := sys.stdin.readline():
    path, output = line.split()
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1), os.dup2(file, 2), os.close(file)
    try:
        exec(compile(open(path).read(), path, "exec"), namespace)
        end = "0"
    except BaseException as error:
        error.__traceback__ = error.__traceback__.tb_next
        traceback.print_exc()
        end = type(error).__name__
    sys.stdout.flush(), sys.stderr.flush()
    print(end, file=replies, flush=True)
"""


@dataclass
class Setting:
    """What a reader has before the first block.

    Attributes
    ----------
    home : Path
        The reader's home; the blocks run in its folder ``work``.
    root : Path
        A root with the environments emt and lj.
    environment : dict of str to str
        The reader's variables.
    enter : tuple of str
        A command that runs the one after it where the reader is, such as on another machine.
    owner : int
        Who the reader is there.
    """

    home: Path
    root: Path
    environment: dict[str, str]
    enter: tuple[str, ...] = ()
    owner: int = -1

    @property
    def work(self) -> Path:
        return self.home / "work"


class Reader:
    """Runs the blocks of a page.

    Parameters
    ----------
    setting : Setting
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.folder, self._notes = setting.work, setting.home / ".blocks"
        for folder in (self.folder, self._notes):
            folder.mkdir(exist_ok=True)
            os.chown(folder, setting.owner, -1)
        self._shell = self._start("bash", "--norc", "--noprofile", folder=self.folder, environment=setting.environment)
        self._python: Session | None = None
        self._count = 0
        self._printed = ""

    def _start(self, *command: str, folder: Path, environment: Mapping[str, str]) -> Session:
        # It is `env` that goes to the folder, for on another machine that is only there.
        return Session([*self._setting.enter, "env", "-C", str(folder), *command], environment)

    def close(self) -> None:
        if self._python is not None:
            self._python.close()
        self._shell.close()

    def read(self, block: Block) -> None:
        """Do with a block what a reader would; raise a BlockError if that does not go as it says."""
        if "not run" in block.notes:
            return
        if "file" in block.notes:
            path = self.folder / block.notes["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif "output" in block.notes:
            if not matches(block.text, self._printed):
                raise BlockError(f"{block.where}: expected\n{block.text}\nbut this was printed:\n{self._printed}")
        elif block.language in RUN:
            self._execute(block)

    def _execute(self, block: Block) -> None:
        self._count += 1
        script, output = (self._notes / f"{self._count}.{end}" for end in ("block", "out"))
        script.write_text(block.text, encoding="utf-8")
        if block.language == "python":
            ends = self._run_python(script, output)
        else:
            ends = self._run_shell(script, output, strict="fails" not in block.notes)
        self._printed = output.read_text(errors="replace")
        if ends != block.notes.get("fails", "0"):
            raise BlockError(f"{block.where} ended with {ends!r}:\n{block.text}\nIt printed:\n{self._printed}")

    def _run_shell(self, script: Path, output: Path, strict: bool) -> str:
        command = f"set {'-e' if strict else '+e'} -o pipefail; . {script} </dev/null >{output} 2>&1; printf '%d\\n' $?"
        return self._shell.ask(command) or self._shell.close()

    def _run_python(self, script: Path, output: Path) -> str:
        if self._python is None:  # it is started from the shell, where blocks before may have set something
            state = self._notes / "state"
            folder = Path(self._shell.ask(f"env -0 >{state}; pwd"))
            environment = dict(pair.split("=", 1) for pair in state.read_text().split("\0") if pair)
            python = shutil.which("python", path=environment["PATH"]) or "python"
            self._python = self._start(python, "-u", "-c", PYTHON, folder=folder, environment=environment)
        return self._python.ask(f"{script} {output}") or f"exit {self._python.close()}"
