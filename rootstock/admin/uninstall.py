"""Remove a whole root."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from rootstock.admin.gc import running_builds
from rootstock.admin.plans import Plan
from rootstock.config.site import Site
from rootstock.errors import RootError
from rootstock.root.disk_usage import DiskUsage, disk_usage, megabytes
from rootstock.root.generations import friendly_os_errors
from rootstock.root.hooks import run_hook
from rootstock.root.lock import AdminContext, admin_lock
from rootstock.root.ownership import check_caller
from rootstock.root.permissions import may_remove, remove_tree
from rootstock.root.reachability import owner
from rootstock.root.records import read_marker


@dataclass(frozen=True)
class UninstallPlan(Plan):
    """A root that is to be removed."""

    room: DiskUsage

    def summary_lines(self) -> list[str]:
        """Describe the plan."""
        return [f"remove it with everything in it: {megabytes(self.room.bytes)} in {self.room.files} files"]

    def details(self) -> dict[str, Any]:
        """Return what will be free."""
        return {"frees": vars(self.room)}

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


def plan_uninstall(site: Site) -> UninstallPlan:
    """Check that a root can be removed.

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
    for (name, digest), pids in running_builds(layout).items():
        itself = "That is this command itself: use a rootstock-site that lies elsewhere."
        raise RootError(
            f"Build {digest} of {name} is in use on this machine by process {', '.join(map(str, sorted(pids)))}.",
            itself if os.getpid() in pids else "End it first.",
        )
    return UninstallPlan(site, "uninstall", disk_usage(layout.root))
