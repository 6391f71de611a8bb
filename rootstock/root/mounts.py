"""File systems on which no program may run: those that are mounted with the option noexec."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rootstock.errors import RootError

_MOUNTS = Path("/proc/self/mountinfo")  # proc(5)


def noexec_mount(path: Path) -> Path | None:
    """Return where the file system of a path is mounted with noexec; None if programs may run there.

    Parameters
    ----------
    path : Path
        What is not there yet will be where its folder is.
    """
    real = Path(os.path.realpath(path))
    for place in (real, *real.parents):
        try:
            flags = os.statvfs(place).f_flag
        except OSError:
            continue
        return _mount_point(place) if flags & os.ST_NOEXEC else None
    return None


def refuse_noexec(path: Path) -> None:
    """Refuse a folder of builds whose programs and libraries the kernel does not run.

    Parameters
    ----------
    path : Path

    Raises
    ------
    RootError
        With the mount and its option.
    """
    if mount := noexec_mount(path):
        raise RootError(
            f"Nothing may run from {path}: {mount} is mounted with the option noexec on this node.",
            f"Ask the site's admin to mount {mount} without noexec, or to install the root on another file system.",
        )


def _mount_point(path: Path) -> Path:
    """Return the mount that a path lies under. A bind mount shows in no number of a device: the kernel lists it."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    points = [re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), line.split(" ")[4]) for line in lines]
    return max((Path(point) for point in points if path.is_relative_to(point)), key=lambda point: len(point.parts),
               default=path)  # fmt: skip
