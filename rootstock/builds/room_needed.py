"""What builds will take of a file system, before they are made."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from packaging.utils import InvalidWheelFilename

from rootstock.builds.package_cache import Package, package
from rootstock.builds.plan import BuildPlan
from rootstock.builds.subprocesses import MAKE_ROOM
from rootstock.builds.wheel_tags import best_wheel, file_name, minor_version
from rootstock.errors import RootError
from rootstock.root.disk_usage import DiskUsage, free_space
from rootstock.root.records import active_record

# About what an interpreter takes with its bytecode. Nobody says so before it is fetched.
PYTHON = DiskUsage(200 * 10**6, 8000)
_WORTH_SAYING = 10**6  # bytes


def room_needed(plan: BuildPlan) -> DiskUsage | None:
    """Return about what a build takes: what its environment file says, or as much as the build that it follows.

    Where its packages as they are fetched take more than that, or nothing else is known, those: it takes at least that,
    in nobody knows how many files. None: it is there already, or all that is known is that it is next to nothing.
    """
    if plan.published:
        return None
    record = active_record(plan.link)
    room = plan.source.room(plan.accelerator) if plan.source else None
    known = DiskUsage(int(room[0] * 10**6), room[1]) if room else None
    if record is not None:
        known = DiskUsage(record.bytes, record.inodes)
    if plan.download >= _WORTH_SAYING and (known is None or known.bytes < plan.download):
        return DiskUsage(plan.download, None)
    return known


def download(lock: str, python: str, present: Set[Package]) -> tuple[int, set[Package]]:
    """Return how many bytes a lock has fetched, for packages that the root has not, and all that it names.

    Parameters
    ----------
    lock : str
    python : str
        Version of Python.
    present : set of Package
        Those that the root shares with the build.
    """
    sizes: dict[str, int] = {}
    named = set()
    for entry in tomllib.loads(lock).get("package", []):
        one = package(entry["name"], entry.get("version", ""))
        named.add(one)
        if one not in present:  # of several versions, one is installed
            sizes[one.name] = max(sizes.get(one.name, 0), _size(entry, minor_version(python)))
    return sum(sizes.values()), named


def _size(entry: Mapping[str, Any], minor: str) -> int:
    files = {file_name(wheel): wheel for wheel in entry.get("wheels", [])}
    try:
        chosen = files.get(best_wheel(files, minor)) or entry.get("sdist") or {}
    except InvalidWheelFilename:
        return 0
    path = chosen.get("path", "")
    return int(chosen.get("size", 0)) or (os.path.getsize(path) if os.path.isfile(path) else 0)


def check_room(root: Path, builds: Sequence[BuildPlan], pythons: int = 0) -> None:
    """Refuse builds, and interpreters under them, that are known not to fit.

    Parameters
    ----------
    root : Path
    builds : sequence of BuildPlan
    pythons : int
        Number of interpreters that are put into the root.

    Raises
    ------
    RootError
        With what is left and what is needed.
    """
    needed = [room for plan in builds if (room := room_needed(plan)) is not None] + [PYTHON] * pythons
    size, files = sum(room.bytes for room in needed), sum(room.files or 0 for room in needed)
    left = free_space(root)
    if left.bytes < size or (left.files is not None and left.files < files):
        raise RootError(f"{root} has room for {left}; these builds take {in_words(needed)}.", MAKE_ROOM)


def in_words(rooms: Iterable[DiskUsage]) -> str:
    """Write for people what builds take: of some, only the least is known."""
    rooms = [*rooms]
    known = all(room.files is not None for room in rooms)
    total = DiskUsage(sum(r.bytes for r in rooms), sum(r.files or 0 for r in rooms) if known else None)
    return f"{'about' if known else 'at least'} {total}"
