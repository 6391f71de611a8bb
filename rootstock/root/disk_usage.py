"""What a file system has left, and what things take of it."""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rootstock.errors import RootError

_LEAST = 10**6


@dataclass(frozen=True)
class DiskUsage:
    """Bytes, and files (inodes); None for what a file system does not say."""

    bytes: int
    files: int | None

    def __str__(self) -> str:
        """Write it for people."""
        return megabytes(self.bytes) + ("" if self.files is None else f" and {number_of(self.files, 'file')}")


def free_space(path: Path) -> DiskUsage:
    """Return what is left for this user where `path` is, or will be."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    status = os.statvfs(existing)
    return DiskUsage(shutil.disk_usage(existing).free, status.f_favail if status.f_files else None)


def check_space(root: Path) -> None:
    """Refuse a file system that is full: nothing can be installed or recorded in a root there.

    Raises
    ------
    RootError
    """
    left = free_space(root)
    if left.bytes < _LEAST or (left.files is not None and left.files < 1):
        raise RootError(
            f"The file system of {root} is full: {left} left.",
            f"Look at what can go: rootstock-site gc --root {root} --dry-run",
        )


def disk_usage(tree: Path, counted: set[tuple[int, int]] | None = None) -> DiskUsage:
    """Return what a folder and all below it takes.

    Parameters
    ----------
    tree : Path
    counted : set, optional
        Files that were counted before, by device and inode. A file that has several names there is counted once.
    """
    counted = set() if counted is None else counted
    size = files = 0
    for status in _below(tree):
        key = (status.st_dev, status.st_ino)
        if key not in counted or stat.S_ISDIR(status.st_mode):
            counted.add(key)
            size, files = size + status.st_blocks * 512, files + 1
    return DiskUsage(size, files)


def _below(tree: Path) -> Iterator[os.stat_result]:
    """Yield what the system says of a file or folder, and of all below it."""
    if os.path.lexists(tree):
        yield os.lstat(tree)
    for folder, folders, names in () if tree.is_symlink() else os.walk(tree):
        for name in (*folders, *names):
            yield os.lstat(os.path.join(folder, name))


def freed(trees: Iterable[Path]) -> DiskUsage:
    """Return what is free when all of some folders and files are removed.

    A file with more names than there are among these stays.

    Parameters
    ----------
    trees : iterable of Path
    """
    size = files = 0
    seen: Counter[tuple[int, int]] = Counter()
    for tree in trees:
        for status in _below(tree):
            key = (status.st_dev, status.st_ino)
            seen[key] += 1
            if stat.S_ISDIR(status.st_mode) or seen[key] == status.st_nlink:
                size, files = size + status.st_blocks * 512, files + 1
    return DiskUsage(size, files)


def number_of(number: int, noun: str) -> str:
    """Write how many there are for people.

    Parameters
    ----------
    number : int
    noun : str
        In the singular.

    Examples
    --------
    >>> number_of(1, "file"), number_of(2, "file")
    ('1 file', '2 files')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def megabytes(size: float) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e6:,.0f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
