"""What a lock is for: this platform and the Pythons of a root. By itself uv locks for all that there are.

Packages that only another platform or Python needs are then not looked for: a mirror may lack them, and an old Python
may hold back the versions of others.

uv lets a script say for which Pythons it is locked, by ``requires-python``, but not for which platforms: it refuses
``environments`` there. Markers alone do not help, because uv looks at all platforms together until two requirements
of one package hold on different ones. So one requirement is there twice, once with a marker that every CPython meets.
"""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from rootstock.config.requirements import normalized
from rootstock.errors import RootError
from rootstock.root.layout import VARIANT
from rootstock.root.record_files import read_if_there
from rootstock.root.records import active_record

_HERE = f"sys_platform == '{sys.platform}'"
_APART = f"implementation_name == 'cpython' and {_HERE}"  # as uv writes it into a lock
_REQUIRES_PYTHON = re.compile(r'^requires-python = "([^"]*)"$', re.MULTILINE)
_MINORS = range(60)  # of Python 3


def scope_for(pythons: Iterable[str]) -> str:
    """Return the scope of a lock for some versions of Python, and those between them.

    >>> scope_for(["3.12.4"]), scope_for(["3.13.0", "3.11.2"])
    ('==3.12.*', '>=3.11,<3.14')
    """
    minors = sorted(int(version.split(".")[1]) for version in pythons)
    low, high = minors[0], minors[-1]
    return f"==3.{low}.*" if low == high else f">=3.{low},<3.{high + 1}"


def scope_of(lock: str) -> str:
    """Return what a lock is for, as `scope_for` writes it; empty for one that is for every platform and Python.

    Parameters
    ----------
    lock : str
        Its text.
    """
    found = _REQUIRES_PYTHON.search(lock)
    if found is None or _APART not in lock:
        return ""
    try:
        requires = SpecifierSet(found[1])
    except InvalidSpecifier:
        return ""
    minors = [f"3.{n}" for n in _MINORS if any(requires.contains(f"3.{n}.{patch}") for patch in (0, 99))]
    return scope_for(minors) if minors else ""


def scope_in_root(python: str, lock: bytes | None, main: Path) -> str:
    """Return what a build is to be locked for: what its lock is for, if that will do; else the Pythons of the root.

    Those are its own and, because they share the lock, those of builds for other processors. A lock for everything, as
    earlier versions made them, stays one, so that the builds stay what they are.

    Parameters
    ----------
    python : str
        The version that the build is for.
    lock : bytes or None
        The lock that there is; None to decide anew.
    main : Path
        What points, or will point, to the environment's main build.
    """
    if lock is not None:
        scope = scope_of(lock.decode(errors="replace"))
        if not scope or SpecifierSet(scope).contains(python, prereleases=True):
            return scope
    pythons = [python]
    for link in (main, *main.parent.glob(f"{main.name}{VARIANT}*")):
        with suppress(RootError):  # whoever builds on that machine sees what is wrong
            if (record := active_record(link)) and record.platform != platform.machine():
                pythons.append(record.python)
    return scope_for(pythons)


def read_lock(path: Path) -> bytes | None:
    """Return a lock; None where there is none.

    Parameters
    ----------
    path : Path

    Raises
    ------
    RootError
        If it cannot be read.
    """
    return read_if_there(path, made_anew(path))


def made_anew(lock: Path) -> str:
    """Say what to do about a lock that cannot be used."""
    return f"To have it made anew, remove it: rm {shlex.quote(str(lock))}"


def plain(message: str) -> str:
    """Return what uv says of requirements without what `narrowed` has added to them.

    >>> plain("no version of ase{sys_platform == 'linux'}>=9 for split (markers: implementation_name == 'pypy')")
    "no version of ase>=9 for split (markers: implementation_name == 'pypy')"
    """
    return message.replace(f"{{{_HERE}}}", "").replace(f" for split (markers: {_APART})", "")


def narrowed(requirements: Sequence[str], first: str) -> Iterator[str]:
    """Yield requirements that hold on this platform only.

    Parameters
    ----------
    requirements : sequence of str
        What is none is left as it is: uv says what is wrong with it.
    first : str
        The package whose requirements are there twice.
    """
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            yield text
            continue
        marker = requirement.marker
        for more in (_HERE, _APART) if normalized(requirement.name) == first else (_HERE,):
            requirement.marker = Marker(f"({marker}) and {more}" if marker else more)
            yield str(requirement)
