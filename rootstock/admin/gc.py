"""Remove old builds, and what else in a root is no longer used.

Readers leave no trace in a root that they cannot write to. A build is therefore kept as long as a worker may run from
it: while it is in use, for some days after a newer one took its place, and whatever the days, while a process of this
machine runs from it. On other machines only the days count: choose more than the longest job takes. Folders of builds
that are not finished are kept while a command changes the root: they are its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rootstock.admin.plans import Plan
from rootstock.admin.rollback import Build, pointers
from rootstock.builds.package_cache import Package, no_uv_runs, unneeded, with_pointers
from rootstock.builds.root_interpreters import users
from rootstock.config.site import Site
from rootstock.errors import RootError
from rootstock.root.disk_usage import DiskUsage, freed, megabytes
from rootstock.root.generations import (
    Change,
    Generation,
    read_generations,
    read_state,
    transaction,
)
from rootstock.root.holder import Holder
from rootstock.root.layout import STAGING, RootLayout
from rootstock.root.lock import AdminContext, who_changes
from rootstock.root.permissions import may_remove, remove_tree
from rootstock.root.processes import Process, running_from
from rootstock.root.reachability import owner
from rootstock.root.records import BUILD_RECORD, is_half_written, read_marker

_DAY_S = 86400.0
_WAIT_S = 60  # for a uv that uses the package cache


@dataclass(frozen=True)
class GcPlan(Plan):
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
    packages : Mapping[Path, Package]
        What uv's cache holds and no build and no lock names.
    cache_kept : str
        Why nobody can tell which packages that are, and all stay; otherwise empty.
    spared : Mapping[(str, str), str]
        Builds that nothing refers to but are kept, and why.
    unfinished : tuple of Path
        What a command that changes the root is making, or may be.
    holder : Holder or None
        That command.
    room : DiskUsage
        What will be free afterwards.
    since : int
        The newest generation.
    """

    generations: tuple[int, ...]
    builds: tuple[Build, ...]
    pythons: tuple[str, ...]
    leftovers: tuple[Path, ...]
    packages: Mapping[Path, Package]
    cache_kept: str
    spared: Mapping[Build, str]
    unfinished: tuple[Path, ...]
    holder: Holder | None
    room: DiskUsage
    since: int

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.generations or self.builds or self.pythons or self.leftovers or self.packages)

    def summary_lines(self) -> list[str]:
        """Describe the plan, a line for each change, and say which builds are kept."""
        lines = [f"forget generation {number}" for number in self.generations]
        lines += [f"remove build {digest} of {name}" for name, digest in self.builds]
        lines += [f"remove interpreter {name}: no build uses it" for name in self.pythons]
        lines += [f"remove {path.relative_to(self.site.layout.root)}, left by a command that was cut off"
                  for path in self.leftovers]  # fmt: skip
        lines += [f"remove {one.name} {one.version} from the package cache: no build and no lock names it"
                  for one in sorted({*self.packages.values()})]  # fmt: skip
        if lines:
            lines.append(f"this frees {megabytes(self.room.bytes)} and {self.room.files} files")
        lines += [f"keep build {digest} of {name}: {why}" for (name, digest), why in self.spared.items()]
        lines += [f"keep {path.relative_to(self.site.layout.root)}: {_at_work(self.holder)}"
                  for path in self.unfinished if self.holder]  # fmt: skip
        return [*lines, f"keep all of the package cache: {self.cache_kept}"] if self.cache_kept else lines

    def details(self) -> dict[str, Any]:
        """Return what would be removed, what is kept and why, and what will be free."""
        return {
            "generations": list(self.generations),
            "builds": [{"name": name, "digest": digest} for name, digest in self.builds],
            "pythons": list(self.pythons),
            "leftovers": [path.relative_to(self.site.layout.root).as_posix() for path in self.leftovers],
            "packages": [one._asdict() for one in sorted({*self.packages.values()})],
            "cache_kept": self.cache_kept or None,
            "spared": [{"name": name, "digest": digest, "why": why} for (name, digest), why in self.spared.items()],
            "unfinished": [path.relative_to(self.site.layout.root).as_posix() for path in self.unfinished],
            "holder": self.holder.details() if self.holder else None,
            "frees": vars(self.room),
        }

    def apply(self, admin: AdminContext) -> None:
        """Remove all that."""
        site, layout = self.site, self.site.layout
        with transaction(layout, site.access, Change(self.command, site.cluster.name, self.since, always=False), admin):
            for number in self.generations:
                layout.generation(number).unlink(missing_ok=True)
                admin.log(f"forgot generation {number}")
            for name, digest in self.builds:
                admin.report(f"removing build {digest} of {name}")
                _remove_published(layout.build(name, digest))
            for name in self.pythons:
                admin.report(f"removing interpreter {name}")
                _remove_published(layout.interpreter(name))
            for path in self.leftovers:
                admin.report(f"removing {path.relative_to(layout.root)}")
                remove_tree(path)
            if self.packages:
                admin.report("removing packages from the cache")
                with no_uv_runs(layout.uv_cache, _WAIT_S) as fault:
                    if fault:
                        admin.report(f"the packages in the cache stay: {fault}")
                    else:
                        for path in with_pointers(layout.uv_cache, self.packages):
                            remove_tree(path)


def plan_gc(site: Site, *, keep: int, older_than: float, force: bool = False, break_lock: bool = False) -> GcPlan:
    """Decide what can be removed.

    Parameters
    ----------
    site : Site
    keep : int
        Number of generations to keep, whatever their age; the present one always stays.
    older_than : float
        Days since which a generation, or a build that none refers to, must be out of use.
    force : bool
        Whether to remove what processes of this machine run from, too; never what this one runs from.
    break_lock : bool
        Whether nobody changes the root, whatever the record of its lock says.
    """
    layout = site.layout
    read_marker(layout)
    generations = read_generations(layout)
    before = time.time() - older_than * _DAY_S
    # A generation is as old as the next one: it was in use until then.
    older, successors = generations[: -max(keep, 1)], generations[1:]
    dropped = tuple(
        generation.number
        for generation, successor in zip(older, successors, strict=False)
        if _time_of(successor) <= before
    )
    kept = [generation.state for generation in generations if generation.number not in dropped] + [read_state(layout)]
    referred = {build for state in kept for build in pointers(layout, state).values()}
    running = _running_from(layout, force)
    spared: dict[Build, str] = {}
    builds: list[Build] = []
    for record in sorted(layout.all_builds.glob(f"*/[!.]*/{BUILD_RECORD}")):
        folder = record.parent
        build = folder.parent.name, folder.name
        if build in referred:
            continue
        if processes := running.get(folder):
            spared[build] = f"in use on this machine by {', '.join(map(str, processes))}"
        elif record.stat().st_mtime > before:
            spared[build] = f"made less than {older_than:g} days ago"
        elif not may_remove(folder):
            spared[build] = f"only {owner(folder)} can remove it"
        else:
            builds.append(build)
    pythons = tuple(
        name for name, used in users(layout).items()
        if not set(used) - set(builds) and layout.interpreter_record(name).stat().st_mtime <= before
        and may_remove(layout.interpreter(name)) and not running.get(layout.interpreter(name))
    )  # fmt: skip
    holder = None if break_lock else who_changes(layout)
    staging = sorted((*layout.all_builds.glob(f"*/{STAGING}*"), *layout.python.glob(f"{STAGING}*")))
    unfinished = tuple(staging) if holder else ()
    leftovers = (*filter(may_remove, [] if holder else staging), *sorted(_half_written(layout)))
    folders = [layout.build(*build) for build in builds]
    packages, cache_kept = _packages(layout, holder, folders, before)
    room = freed([*folders, *map(layout.interpreter, pythons), *leftovers, *with_pointers(layout.uv_cache, packages)])
    since = generations[-1].number if generations else 0
    return GcPlan(
        site, "gc", dropped, tuple(builds), pythons, leftovers, packages, cache_kept, spared, unfinished, holder, room,
        since,
    )  # fmt: skip


def _running_from(layout: RootLayout, force: bool) -> Mapping[Path, list[Process]]:
    """Return what processes run from; if that does not count, what this one runs from, which would not end well."""
    running = running_from(layout)
    return {
        folder: processes for folder, processes in running.items()
        if not force or os.getpid() in [process.pid for process in processes]
    }  # fmt: skip


def _packages(
    layout: RootLayout, holder: Holder | None, doomed: Container[Path], before: float
) -> tuple[dict[Path, Package], str]:
    """Return what can go from the package cache with some builds; or why nobody can tell."""
    if holder:  # its locks may not be there yet
        return {}, _at_work(holder)
    try:
        return {path: one for path, one in unneeded(layout, doomed, before).items() if may_remove(path)}, ""
    except RootError as error:  # of something that cannot be read: who knows what it needs
        return {}, " ".join(str(error).splitlines())


def _at_work(holder: Holder) -> str:
    return f"the root is {holder.status()}" + ("; if it has ended, add --break-lock" if holder.elsewhere else "")


def _time_of(generation: Generation) -> float:
    """Return when a generation was made; if its record holds no time, just now: what is of unknown age is kept."""
    try:
        return datetime.strptime(generation.at, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return time.time()


def _half_written(layout: RootLayout) -> Iterator[Path]:
    """Yield files that were to replace others when their command was killed: nobody has touched them for a day."""
    others = {layout.all_builds, layout.cache, layout.python, layout.templates, layout.hooks}
    for folder, folders, names in os.walk(layout.root):
        folders[:] = [name for name in folders if Path(folder, name) not in others]
        for path in (Path(folder, name) for name in (*names, *folders) if is_half_written(name)):
            if path.lstat().st_mtime < time.time() - _DAY_S and (path.is_symlink() or path.is_file()):
                yield path


def _remove_published(folder: Path) -> None:
    """Remove a build or an interpreter. If that is done in part, it must not look as if it were there."""
    doomed = folder.with_name(f"{STAGING}{folder.name}")
    folder.rename(doomed)
    remove_tree(doomed)
