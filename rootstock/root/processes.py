"""Which processes of this machine run from a root.

A process runs from a build or an interpreter in the root if its program lies there, or if it has mapped a library from
there, as the kernel says; or if it was started by a name in a build that leads to the program that it runs, as a
worker is whose build has no libraries of its own. What else a command line names says nothing: anybody can write it.

The kernel tells of a process whom it belongs to, and root. Of other users' processes only the command line can be
read, and what that says of their program may be true or not.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rootstock.root.layout import RootLayout
from rootstock.root.reachability import user_of

_LONGEST = 160  # characters of a command line
_Places = Sequence[tuple[Path, re.Pattern[str]]]  # a folder of the root, and what leads into one in it


@dataclass(frozen=True)
class Process:
    """A process that runs from a root.

    Attributes
    ----------
    pid : int
    user, command : str
    seen : bool
        Whether the kernel says so; otherwise only its command line does.
    """

    pid: int
    user: str
    command: str
    seen: bool

    def __str__(self) -> str:
        doubt = "" if self.seen else f"; its command line says so, and only {self.user} and root can look"
        return f"process {self.pid} of {self.user} ({self.command}{doubt})"

    def details(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)


def running_from(layout: RootLayout) -> Mapping[Path, list[Process]]:
    """Return the builds and interpreters of a root that processes run from, with those processes, by number.

    Parameters
    ----------
    layout : RootLayout

    Returns
    -------
    Mapping of Path to list of Process
        The folders, as `layout` names them.
    """
    found: dict[Path, list[Process]] = defaultdict(list)
    places = _places(layout)
    for entry in sorted((path for path in Path("/proc").glob("[0-9]*")), key=lambda path: int(path.name)):
        try:
            words = _words(entry)
            folders, seen = _folders_of(entry, places, words)
            if folders:
                user = user_of(int(re.findall(r"^Uid:\s+\d+\s+(\d+)", (entry / "status").read_text(), re.MULTILINE)[0]))
        except (OSError, IndexError):  # it has ended meanwhile
            continue
        for folder in folders:
            found[folder].append(Process(int(entry.name), user, _shown(words), seen))
    return found


def _places(layout: RootLayout) -> _Places:
    """Return where builds and interpreters lie, under both names of the root if a link leads to it."""
    return [
        (folder, re.compile(rf"(?<!\S){re.escape(str(root / name))}((?:/[^/\n]+){{{parts}}})/"))
        for root in {layout.root, layout.root.resolve()}
        for parts, folder in ((2, layout.all_builds), (1, layout.python))
        for name in (folder.relative_to(layout.root),)
    ]


def _words(entry: Path) -> list[str]:
    return [os.fsdecode(word) for word in (entry / "cmdline").read_bytes().split(b"\0")[:-1]]


def _shown(words: list[str]) -> str:
    text = "".join(character if character.isprintable() else " " for character in shlex.join(words))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _folders_of(entry: Path, places: _Places, words: list[str]) -> tuple[set[Path], bool]:
    """Return where a process runs from, and whether the kernel said so."""
    name = words[0] if words else ""
    try:
        program = os.readlink(entry / "exe")
        mapped = os.fsdecode((entry / "maps").read_bytes())
    except FileNotFoundError:  # of the kernel's own
        return set(), True
    except PermissionError:
        return set(_folders_in(os.path.abspath(name) if os.path.isabs(name) else "", places)), False
    name = os.path.join(os.readlink(entry / "cwd"), name)
    called = name if os.path.realpath(name) == program else ""
    return {*_folders_in(f"{program}\n{mapped}", places), *_folders_in(_without_links(called), places)}, True


def _without_links(name: str) -> str:
    """Resolve the folder of a program, and not the program: in a build that is a link to its interpreter."""
    return os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name)) if name else ""


def _folders_in(text: str, places: _Places) -> Iterator[Path]:
    """Yield the builds and interpreters that paths in a text lead into."""
    for folder, pattern in places:
        for match in pattern.finditer(text):
            yield folder / match[1][1:]
