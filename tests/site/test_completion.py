"""Completion of the command lines in the real shells."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SITE, clean_environment

ROOTSTOCK = SITE.with_name("rootstock")
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
LOAD = {
    "bash": 'bind "set bell-style none"; eval "$({program} completion bash)"',
    "zsh": 'autoload -Uz compinit; compinit -u -D; eval "$({program} completion zsh)"',
}


class Terminal:
    """A shell in a terminal that somebody types into."""

    def __init__(self, shell: str, root: Path, home: Path) -> None:
        leader, follower = pty.openpty()
        environment = clean_environment(
            ROOTSTOCK_ROOT=str(root), TERM="xterm", PS1="$ ", HOME=str(home), PATH=f"{SITE.parent}:/usr/bin:/bin",
            COLUMNS="200", LINES="50",
        )  # fmt: skip
        self.process = subprocess.Popen(
            SHELLS[shell], stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True,
            cwd=home,
        )  # fmt: skip
        os.close(follower)
        self._leader, self._seen = leader, ""

    def type(self, text: str) -> None:
        self._seen = ""
        os.write(self._leader, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60.0) -> str:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self._seen):
            ready = select.select([self._leader], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"no {pattern!r} in {self._seen!r}"
            self._seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(self._leader, 65536).decode(errors="replace"))
        return self._seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)


@pytest.fixture
def terminal(root: Path, tmp_path: Path, require: Callable[[str, str], str]):
    opened = []

    def start(shell: str, program: str) -> Terminal:
        require(shell, shell)
        opened.append(Terminal(shell, root, tmp_path))
        opened[-1].type(LOAD[shell].format(program=program) + "; echo load''ed\n")
        opened[-1].wait_for("loaded\r\n")
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_tab_key(terminal: Callable[[str, str], Terminal], shell: str) -> None:
    typing = terminal(shell, "rootstock")
    for typed, completed in (
        ("rootstock sho\t", "rootstock show "),
        ("lj-a\t", "rgon"),
        ("--jso\t", "n"),
        ("--cluster del\t", "la"),
    ):
        typing.type(typed)
        typing.wait_for(completed.replace("-", r"\-"))
    typing.type("\x15rootstock why-not \t\t")
    seen = typing.wait_for(r"lj-argon")
    assert "emt" in seen
    typing.type("\x15")
    site = terminal(shell, "rootstock-site")
    site.type("rootstock-site install --env che\t")
    with pytest.raises(AssertionError):
        site.wait_for("chgnet", seconds=3)
    site.type("\x15rootstock-site install --env chg\t")
    site.wait_for("net")


def test_fish(root: Path, require: Callable[[str, str], str], tmp_path: Path) -> None:
    fish = require("fish", "fish")

    def completions(line: str) -> list[str]:
        script = f'rootstock completion fish | source; complete -C "{line}"'
        environment = clean_environment(
            ROOTSTOCK_ROOT=str(root), HOME=str(tmp_path), PATH=f"{SITE.parent}:/usr/bin:/bin"
        )
        done = subprocess.run(
            [fish, "--no-config", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        return [line.split("\t")[0] for line in done.stdout.splitlines()]

    assert completions("rootstock show lj") == ["lj", "lj-argon"]
    assert completions("rootstock wh") == ["why-not"]
    assert "della" in completions("rootstock cluster show ")


def complete(words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(
        _ROOTSTOCK_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1), **variables
    )
    return subprocess.run([ROOTSTOCK], env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_what_is_typed_before_counts(root: Path, tmp_path: Path) -> None:
    done = complete(f"rootstock show --root {root} lj")
    assert done.stdout.split() == ["plain,lj", "plain,lj-argon"]
    # Without a root, or with one that is broken, there is nothing to say, and nothing is said.
    for words in ("rootstock show lj", f"rootstock show --root {tmp_path} lj", "rootstock show --cluster no lj"):
        done = complete(words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_completing_imports_nothing_slow(root: Path) -> None:
    done = complete("rootstock show lj", ROOTSTOCK_ROOT=str(root), PYTHONPROFILEIMPORTTIME="1")
    assert "plain,lj-argon" in done.stdout
    assert re.search(r"\| +click$", done.stderr, re.MULTILINE)
    for slow in ("ase", "numpy", "jinja2", "rich", "uv"):
        assert not re.search(rf"\| +{slow}$", done.stderr, re.MULTILINE), f"{slow} was imported"
