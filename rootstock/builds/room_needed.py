"""What builds will take of a file system, before they are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rootstock.builds.plan import BuildPlan
from rootstock.errors import RootError
from rootstock.root.disk_usage import DiskUsage, free_space, megabytes
from rootstock.root.records import active_record

# About what an interpreter takes with its bytecode. Nobody says so before it is fetched.
PYTHON = DiskUsage(200 * 10**6, 8000)


def room_needed(plan: BuildPlan) -> DiskUsage | None:
    """Return about what a build takes: what its environment file says, or as much as the build that it follows.

    None: it is there already, or nobody knows before it is locked.
    """
    if plan.published:
        return None
    record = active_record(plan.link)
    if record is not None:
        return DiskUsage(record.bytes, record.inodes)
    room = plan.source.room if plan.source else None
    return DiskUsage(int(room[0] * 10**6), room[1]) if room else None


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
        raise RootError(
            f"{root} has room for {megabytes(left.bytes)} and {left.files} files; "
            f"these builds take about {megabytes(size)} and {files} files.",
            "Make room: rootstock-site gc --dry-run shows what can go.",
        )
