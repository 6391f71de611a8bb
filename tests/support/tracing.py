"""The changes that a command makes to files, as strace sees them, and its end at one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.support.commands import clean_environment, run
from tests.support.needs import need_program


def quiet_environment(**changes: str) -> dict[str, str]:
    """Return the environment for a command whose changes are counted: it writes nothing beside its own code."""
    return clean_environment(PYTHONDONTWRITEBYTECODE="1") | changes


CHANGES = ("mkdir", "rename", "symlink", "unlink", "rmdir", "chmod")


def changes_made_by(command: Sequence[str], log: Path, **variables: str) -> list[tuple[str, int, str]]:
    """Run a command and list the changes that its own process made to files.

    Returns
    -------
    list of (str, int, str)
        System call, how many calls of that name this was, and the arguments.
    """
    strace = (need_program("strace", "strace"), "-o", log, "-e", f"trace={','.join(CHANGES)}")
    run(*strace, *command, env=quiet_environment(**variables), check=True)
    counts = dict.fromkeys(CHANGES, 0)
    found = []
    for line in log.read_text().splitlines():
        if match := re.match(r"(\w+)\((.*)\) += (-?\d+)", line):
            counts[match[1]] += 1
            if match[3] == "0":
                found.append((match[1], counts[match[1]], match[2]))
    return found


def at_change(name: str, number: int, signal_name: str) -> list[str]:
    """Return the prefix of a command that sends it a signal when it is about to make its n-th change of a kind."""
    injection = f"inject={name}:signal={signal_name}:when={number}"
    return [need_program("strace", "strace"), "-o", "/dev/null", "-e", f"trace={name}", "-e", injection]
