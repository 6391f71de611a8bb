"""Take away what is no longer used: old builds (`plan_gc`), or a whole root (`plan_uninstall`).

Readers leave no trace in a root that they cannot write to. A build is therefore kept as long as a worker may run from
it: while it is in use, for some days after a newer one took its place, and whatever the days, while a process of this
machine runs from it. On other machines only the days count: choose more than the longest job takes.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rootstock.builds.plan import CLIENT
from rootstock.builds.root_interpreters import users
from rootstock.config.site import Site
from rootstock.errors import RootError
from rootstock.root.disk_usage import DiskUsage, disk_usage, megabytes
from rootstock.root.generations import (
    Change,
    Generation,
    State,
    friendly_os_errors,
    read_generations,
    read_state,
    transaction,
)
from rootstock.root.hooks import run_hook
from rootstock.root.layout import STAGING, RootLayout, environment_of
from rootstock.root.lock import AdminContext, admin_lock
from rootstock.root.permissions import may_remove, remove_tree
from rootstock.root.reachability import owner
from rootstock.root.records import BUILD_RECORD, is_half_written, read_marker

_DAY_S = 86400.0

Build = tuple[str, str]  # name and digest


@dataclass(frozen=True)
class GcPlan:
    """What a collection would take away.

    Attributes
    ----------
    generations : tuple of int
        Records that are dropped; going back to them is not possible any more.
    builds : tuple of (str, str)
        Name and digest.
    pythons : tuple of str
        Interpreters that Rootstock put into the root and that no build uses any more.
    leftovers : tuple of Path
        What builds that were cut off have left.
    spared : Mapping[(str, str), str]
        Builds that nothing refers to but are kept, and why.
    room : DiskUsage
        What will be free afterwards.
    since : int
        The newest generation.
    """

    site: Site
    generations: tuple[int, ...]
    builds: tuple[Build, ...]
    pythons: tuple[str, ...]
    leftovers: tuple[Path, ...]
    spared: Mapping[Build, str]
    room: DiskUsage
    since: int

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.generations or self.builds or self.pythons or self.leftovers)

    def summary_lines(self) -> list[str]:
        """Describe the plan, a line for each change."""
        found = [f"forget generation {number}" for number in self.generations]
        found += [f"remove build {digest} of {name}" for name, digest in self.builds]
        found += [f"remove interpreter {name}: no build uses it" for name in self.pythons]
        found += [f"remove {path.relative_to(self.site.layout.root)}, left by a command that was cut off"
                  for path in self.leftovers]  # fmt: skip
        if found:
            found.append(f"this frees {megabytes(self.room.bytes)} and {self.room.files} files")
        return found + [f"keep build {digest} of {name}: {why}" for (name, digest), why in self.spared.items()]

    def to_json(self) -> dict[str, Any]:
        """Return the plan for programs; ``schema`` changes when a key changes its meaning."""
        return {
            "schema": 1,
            "command": "gc",
            "root": str(self.site.layout.root),
            "empty": self.empty,
            "generations": list(self.generations),
            "builds": [{"name": name, "digest": digest} for name, digest in self.builds],
            "pythons": list(self.pythons),
            "leftovers": [path.relative_to(self.site.layout.root).as_posix() for path in self.leftovers],
            "spared": [{"name": name, "digest": digest, "why": why} for (name, digest), why in self.spared.items()],
            "frees": {"bytes": self.room.bytes, "files": self.room.files},
        }


def plan_gc(site: Site, *, keep: int, older_than: float) -> GcPlan:
    """Decide what can be taken away.

    Parameters
    ----------
    site
    keep : int
        How many generations stay, whatever their age; the present one always does.
    older_than : float
        Days since which a generation, or a build that none refers to, must be out of use.
    """
    layout = site.layout
    read_marker(layout)
    found = read_generations(layout)
    before = time.time() - older_than * _DAY_S
    dropped = tuple(_dropped(found, max(keep, 1), before))
    kept = [generation.state for generation in found if generation.number not in dropped] + [read_state(layout)]
    referred = {build for state in kept for build in _builds_of(state)}
    running = running_builds(layout)
    spared: dict[Build, str] = {}
    builds: list[Build] = []
    for build in _published(layout):
        if build in referred:
            continue
        if pids := running.get(build):
            spared[build] = f"in use on this machine by process {', '.join(map(str, sorted(pids)))}"
        elif (layout.build(*build) / BUILD_RECORD).stat().st_mtime > before:
            spared[build] = f"made less than {older_than:g} days ago"
        elif not may_remove(layout.build(*build)):
            spared[build] = f"only {owner(layout.build(*build))} can remove it"
        else:
            builds.append(build)
    pythons = tuple(
        name for name, used in users(layout).items()
        if not set(used) - set(builds) and layout.interpreter_record(name).stat().st_mtime <= before
        and may_remove(layout.interpreter(name))
    )  # fmt: skip
    staging = (*layout.all_builds.glob(f"*/{STAGING}*"), *layout.python.glob(f"{STAGING}*"))
    leftovers = (*sorted(filter(may_remove, staging)), *sorted(_half_written(layout)))
    seen: set[tuple[int, int]] = set()
    going = (*(layout.build(*build) for build in builds), *map(layout.interpreter, pythons), *leftovers)
    taken = [disk_usage(path, seen) for path in going]
    room = DiskUsage(sum(part.bytes for part in taken), sum(part.files or 0 for part in taken))
    since = found[-1].number if found else 0
    return GcPlan(site, dropped, tuple(builds), pythons, leftovers, spared, room, since)


def _half_written(layout: RootLayout) -> Iterator[Path]:
    """Yield files that were to replace others when their command was killed: nobody has touched them for a day."""
    others = {layout.all_builds, layout.cache, layout.python, layout.templates, layout.hooks}
    for folder, folders, names in os.walk(layout.root):
        folders[:] = [name for name in folders if Path(folder, name) not in others]
        for path in (Path(folder, name) for name in (*names, *folders) if is_half_written(name)):
            if path.lstat().st_mtime < time.time() - _DAY_S and (path.is_symlink() or path.is_file()):
                yield path


def _dropped(found: Sequence[Generation], keep: int, before: float) -> Iterator[int]:
    for generation, next_one in zip(found[:-keep], found[1:], strict=False):  # noqa: RUF007  # the first is cut short
        if datetime.strptime(next_one.at, "%Y-%m-%dT%H:%M:%S%z").timestamp() <= before:
            yield generation.number


def _builds_of(state: State) -> set[Build]:
    environments = {(environment_of(link), digest) for link, digest in state.active.items()}
    return environments | {(CLIENT, digest) for digest in state.clients.values()}


def _published(layout: RootLayout) -> Iterator[Build]:
    for record in sorted(layout.all_builds.glob(f"*/*/{BUILD_RECORD}")):
        if not record.parent.name.startswith(STAGING):
            yield record.parent.parent.name, record.parent.name


def running_builds(layout: RootLayout, proc: Path = Path("/proc")) -> dict[Build, set[int]]:
    """Return the builds that processes of this machine run from, with the processes' numbers.

    A worker's command names its build, and everybody may read commands. What else a process has loaded from a build
    (somebody's own script may use its Python) is seen of one's own processes, and by root of all.
    """
    builds = re.escape(os.fsencode(layout.all_builds.resolve()))
    pattern = re.compile(builds + rb"/([^/\0\n]+)/([^/\0\n]+)")
    found: dict[Build, set[int]] = defaultdict(set)
    for process in proc.glob("[0-9]*"):
        for part in ("cmdline", "maps"):
            try:
                content = (process / part).read_bytes()
            except OSError:  # ended meanwhile, or is somebody else's
                continue
            for name, digest in pattern.findall(content):
                found[os.fsdecode(name), os.fsdecode(digest)].add(int(process.name))
    return dict(found)


def collect(plan: GcPlan, admin: AdminContext) -> None:
    """Carry out a plan of `plan_gc`."""
    site, layout = plan.site, plan.site.layout
    with transaction(layout, site.access, Change("gc", site.cluster.name, plan.since, always=False), admin):
        for number in plan.generations:
            layout.generation(number).unlink(missing_ok=True)
            admin.log(f"forgot generation {number}")
        for name, digest in plan.builds:
            admin.report(f"removing build {digest} of {name}")
            _remove(layout.build(name, digest))
        for name in plan.pythons:
            admin.report(f"removing interpreter {name}")
            _remove(layout.interpreter(name))
        for path in plan.leftovers:
            admin.report(f"removing {path.relative_to(layout.root)}")
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    """Remove what was published. If that is done in part, it must not look as if it were there."""
    doomed = folder.with_name(f"{STAGING}{folder.name}")
    folder.rename(doomed)
    remove_tree(doomed)


@dataclass(frozen=True)
class UninstallPlan:
    """A root that is to be removed."""

    site: Site
    room: DiskUsage
    empty: bool = False

    def summary_lines(self) -> list[str]:
        """Describe the plan."""
        return [f"remove it with everything in it: {megabytes(self.room.bytes)} in {self.room.files} files"]

    def to_json(self) -> dict[str, Any]:
        """Return the plan for programs; ``schema`` changes when a key changes its meaning."""
        frees = {"bytes": self.room.bytes, "files": self.room.files}
        return {"schema": 1, "command": "uninstall", "root": str(self.site.layout.root), "frees": frees}


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
    return UninstallPlan(site, disk_usage(layout.root))


def uninstall(plan: UninstallPlan, admin: AdminContext) -> None:
    """Carry out a plan of `plan_uninstall`. Where the root is a symlink, what it leads to goes and the link stays."""
    layout = plan.site.layout
    with friendly_os_errors(layout):
        with admin_lock(layout, admin):
            run_hook(layout, "pre", "uninstall", plan.site.cluster.name, admin)
            # Users' ways in go first. The marker goes last: until then the command can be run again.
            first = [layout.modulepath, layout.activations, layout.all_active]
            last = [layout.marker, layout.clusters_file, layout.locks]
            for path in (*first, *(path for path in layout.root.iterdir() if path not in (*first, *last))):
                admin.report(f"removing {path.name}")
                if path.is_dir() and not path.is_symlink():
                    remove_tree(path)
                else:
                    path.unlink(missing_ok=True)
        remove_tree(layout.locks)
        layout.clusters_file.unlink(missing_ok=True)
        layout.marker.unlink()
        try:
            layout.root.resolve().rmdir()
        except OSError as error:  # a mount point, or in a folder that the admin may not change
            admin.report(f"the empty folder {layout.root} stays: {error.strerror}")
