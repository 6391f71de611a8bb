"""Completion of the command lines in the real shells."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commands import DEADLINE_S, ROOTSTOCK, SITE, Done, clean_environment, run
from tests.support.needs import need_program

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
        fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        environment = clean_environment(
            ROOTSTOCK_ROOT=str(root), TERM="xterm", PS1="$ ", HOME=str(home), PATH=f"{SITE.parent}:/usr/bin:/bin",
        )  # fmt: skip
        self.process = subprocess.Popen(
            SHELLS[shell], stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True,
            cwd=home,
        )  # fmt: skip
        os.close(follower)
        self._leader, self._seen = leader, b""

    def type(self, text: str) -> None:
        self._seen = b""
        os.write(self._leader, text.encode())

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for a text among what the shell has written since something was typed, however long that takes."""
        while not (found := re.search(pattern, self._text())):
            self._seen += os.read(self._leader, 65536)
        return found

    def _text(self) -> str:
        # All of it each time: a sequence for the terminal may come in two parts.
        return re.sub(rb"\x1b(\[[0-9;?]*[a-zA-Z]|[=>])", b"", self._seen).decode(errors="replace")

    def new_line(self) -> None:
        """Leave what is typed, and wait for an empty line after it."""
        self.type("\x15echo do''ne\n")
        self.wait_for(r"[\r\n]done\r\n[^\n]*\$ ")

    def completed(self, typed: str) -> str:
        """Return the line that the shell makes of keys, tabs among them."""
        self.type(f"{typed}\x01echo : \n")  # it goes to the start of the line, and shows the line instead of running it
        line = self.wait_for(r"[\r\n]: (.*)\r\n[^\n]*\$ ")[1]
        return line.rstrip("\r")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)
        os.close(self._leader)


Start = Callable[[str, str], Terminal]


@pytest.fixture
def terminal(root: Path, tmp_path: Path) -> Iterator[Start]:
    opened = []

    def start(shell: str, program: str) -> Terminal:
        need_program(shell, shell)
        opened.append(Terminal(shell, root, tmp_path))
        opened[-1].type(LOAD[shell].format(program=program) + "\n")
        opened[-1].new_line()
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_tab_key(terminal: Start, shell: str) -> None:
    typing = terminal(shell, "rootstock")
    typed = "rootstock sho\tlj-a\t--jso\t--cluster del\t"
    assert typing.completed(typed) == "rootstock show lj-argon --json --cluster della"
    typing.type("rootstock why-not \t\t")
    typing.wait_for(r"emt[^$]*lj-argon")
    typing.new_line()
    site = terminal(shell, "rootstock-site")
    assert site.completed("rootstock-site install --env che\t") == "rootstock-site install --env che"
    assert site.completed("rootstock-site install --env chg\t") == "rootstock-site install --env chgnet"


def test_fish(root: Path, tmp_path: Path) -> None:
    fish = need_program("fish", "fish")

    def completions(line: str) -> list[str]:
        script = f'rootstock completion fish | source; complete -C "{line}"'
        environment = clean_environment(
            ROOTSTOCK_ROOT=str(root), HOME=str(tmp_path), PATH=f"{SITE.parent}:/usr/bin:/bin"
        )
        done = run(fish, "--no-config", "-c", script, env=environment, check=True)
        return [line.split("\t")[0] for line in done.stdout.splitlines()]

    assert completions("rootstock show lj") == ["lj", "lj-argon"]
    assert completions("rootstock wh") == ["why-not"]
    assert "della" in completions("rootstock cluster show ")


def complete(words: str, **variables: str) -> Done:
    environment = clean_environment(
        _ROOTSTOCK_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1), **variables
    )
    return run(ROOTSTOCK, env=environment)


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
