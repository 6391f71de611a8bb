"""What a file system has left, and what things take of it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rootstock.errors import RootError
from rootstock.recipes import BuildPlan
from rootstock.records import active_build, read_build


@dataclass(frozen=True)
class Room:
    """Bytes, and files (inodes); None for what a file system does not say."""

    bytes: int
    files: int | None


# About what an interpreter takes with its bytecode. Nobody says so before it is fetched.
PYTHON = Room(200 * 10**6, 8000)


def room_left(path: Path) -> Room:
    """Return what is left for this user where `path` is, or will be."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    status = os.statvfs(existing)
    return Room(shutil.disk_usage(existing).free, status.f_favail if status.f_files else None)


def room_needed(plan: BuildPlan) -> Room | None:
    """Return about what a build takes: what its environment file says, or as much as the build that it follows.

    None: nobody knows before it is locked.
    """
    before = active_build(plan.link)
    record = read_build(before) if before else None
    if record is not None:
        return Room(record.bytes, record.inodes)
    stated = plan.source.room if plan.source else None
    return Room(int(stated[0] * 10**6), stated[1]) if stated else None


def check_room(root: Path, builds: Sequence[BuildPlan], pythons: int = 0) -> None:
    """Refuse builds, and interpreters under them, that are known not to fit.

    Raises
    ------
    RootError
        With what is left and what is needed.
    """
    needed = [room for plan in builds if (room := room_needed(plan)) is not None] + [PYTHON] * pythons
    size, files = sum(room.bytes for room in needed), sum(room.files or 0 for room in needed)
    left = room_left(root)
    if left.bytes < size or (left.files is not None and left.files < files):
        raise RootError(
            f"{root} has room for {megabytes(left.bytes)} and {left.files} files; "
            f"these builds take about {megabytes(size)} and {files} files.",
            "Make room: rootstock-site gc --dry-run shows what can go.",
        )


def room_taken(tree: Path, seen: set[tuple[int, int]] | None = None) -> Room:
    """Return what a folder and all below it takes.

    Parameters
    ----------
    tree : Path
    seen : set, optional
        Files that were counted before. A file that has several names there is counted once.
    """
    seen = set() if seen is None else seen
    size = files = 0
    for folder, _, names in os.walk(tree):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            status = os.lstat(path)
            key = (status.st_dev, status.st_ino)
            if key not in seen or stat.S_ISDIR(status.st_mode):
                seen.add(key)
                size, files = size + status.st_blocks * 512, files + 1
    return Room(size, files)


def counted(number: int, noun: str) -> str:
    """Write how many there are for people.

    >>> counted(1, "file"), counted(2, "file")
    ('1 file', '2 files')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def megabytes(size: float) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e6:,.0f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
