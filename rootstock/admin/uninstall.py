"""Remove a whole root."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from rootstock.admin.plans import Plan
from rootstock.config.site import Site
from rootstock.errors import RootError
from rootstock.root.disk_usage import DiskUsage, disk_usage, megabytes
from rootstock.root.generations import friendly_os_errors
from rootstock.root.hooks import run_hook
from rootstock.root.lock import AdminContext, admin_lock
from rootstock.root.ownership import check_caller
from rootstock.root.permissions import may_remove, remove_tree
from rootstock.root.processes import Process, running_from
from rootstock.root.reachability import owner
from rootstock.root.records import read_marker


@dataclass(frozen=True)
class UninstallPlan(Plan):
    """A root that is to be removed, though some processes run from it if that is forced."""

    room: DiskUsage
    running: tuple[Process, ...]

    def summary_lines(self) -> list[str]:
        """Describe the plan."""
        lines = [f"remove it with everything in it: {megabytes(self.room.bytes)} in {self.room.files} files"]
        return lines + [
            f"{process} runs from it, and fails when it next reads a file of it" for process in self.running
        ]

    def details(self) -> dict[str, Any]:
        """Return what will be free, and who uses it."""
        return {"frees": vars(self.room), "running": [process.details() for process in self.running]}

    def apply(self, admin: AdminContext) -> None:
        """Remove the root. Where it is a symlink, the folder that it leads to goes and the link stays."""
        layout = self.site.layout
        check_caller(layout, self.command)
        with friendly_os_errors(layout):
            with admin_lock(layout, admin):
                run_hook(layout, "pre", self.command, self.site.cluster.name, admin)
                # Users' ways in go first. The marker goes last: until then the command can be run again.
                first = [layout.modulepath, layout.activations, layout.all_active]
                last = [layout.marker, layout.clusters_file, layout.locks]
                for path in (*first, *(path for path in layout.root.iterdir() if path not in (*first, *last))):
                    admin.report(f"removing {path.name}")
                    remove_tree(path)
            remove_tree(layout.locks)
            layout.clusters_file.unlink(missing_ok=True)
            layout.marker.unlink()
            try:
                layout.root.resolve().rmdir()
            except OSError as error:  # a mount point, or in a folder that the admin may not change
                admin.report(f"the empty folder {layout.root} stays: {error.strerror}")


def plan_uninstall(site: Site, *, force: bool = False) -> UninstallPlan:
    """Check that a root can be removed.

    Parameters
    ----------
    site : Site
    force : bool
        Whether to remove it though processes of this machine run from it; never under this one's feet.

    Raises
    ------
    RootError
        If the folder is no root, something else lies in it, or a process of this machine runs from it.
    """
    layout = site.layout
    read_marker(layout)
    if strangers := layout.strangers():
        raise RootError(
            f"{layout.root} holds what Rootstock did not put there: {', '.join(strangers[:5])}.",
            "Move it elsewhere first; everything under the root would be removed.",
        )
    sealed = (*layout.all_builds.glob("*/*"), *layout.python.glob("*"))
    if others := [path for path in sealed if not may_remove(path)]:
        raise RootError(
            f"Only {owner(others[0])} can remove {others[0].relative_to(layout.root)}"
            f"{f', and there are {len(others) - 1} more such folders' if len(others) > 1 else ''}.",
            "Ask them to uninstall, or for rootstock-site gc; or do it as root.",
        )
    running = running_from(layout)
    for folder, processes in running.items():
        itself = os.getpid() in [process.pid for process in processes]
        if itself or not force:
            raise RootError(
                f"{folder.relative_to(layout.root)} is in use on this machine by {', '.join(map(str, processes))}.",
                "That is this command itself: use a rootstock-site that lies elsewhere." if itself else
                "End it first; or add --force, and it fails when it next reads a file of the root.",
            )  # fmt: skip
    users = {process.pid: process for processes in running.values() for process in processes}
    return UninstallPlan(site, "uninstall", disk_usage(layout.root), tuple(users.values()))
