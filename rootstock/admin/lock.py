"""Refresh the locks beside environment files, without building anything.

A lock says for every package of an environment its version, and its files with their hashes. Builds keep one that fits.
"""

from __future__ import annotations

import os
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rootstock.admin.asked_for import Problem
from rootstock.admin.environment_sources import find_source, find_sources
from rootstock.admin.plans import Plan
from rootstock.builds.interpreters import AUTO, one_that_runs
from rootstock.builds.lock_scope import read_lock
from rootstock.builds.locking import lock_text, working_folder
from rootstock.builds.plan import BuildPlan, plan_environment
from rootstock.builds.root_interpreters import root_interpreters
from rootstock.builds.uv import Uv, package_cache
from rootstock.config.environment_file import given_by_path, registered_names
from rootstock.config.model_string import did_you_mean
from rootstock.config.requirements import normalized
from rootstock.config.site import Site
from rootstock.errors import ConfigurationError, RootstockError
from rootstock.root.disk_usage import number_of
from rootstock.root.generations import Change, latest_number, transaction
from rootstock.root.lock import AdminContext, Report, quiet
from rootstock.root.ownership import check_caller
from rootstock.root.records import write_file
from rootstock.root.variants import find_variants

_SHOWN = 12  # packages that a line names


@dataclass(frozen=True)
class LockChange:
    """A lock that is to be written.

    Attributes
    ----------
    path : Path
    old : str or None
        What is there now.
    new : str
    """

    path: Path
    old: str | None
    new: str

    def describe(self, root: Path) -> str:
        """Say in a line what is to be done."""
        path = self.path.relative_to(root).as_posix() if self.path.is_relative_to(root) else str(self.path)
        if self.old is None:
            return f"write {path}: {number_of(len(_versions(self.new)), 'package')}"
        changes = list(_differences(_versions(self.old), _versions(self.new)))
        more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        return f"update {path}: {', '.join(changes[:_SHOWN]) or 'the same versions, for other requirements'}{more}"


@dataclass(frozen=True)
class LockPlan(Plan):
    """The locks that are to be written.

    Attributes
    ----------
    changes : tuple of LockChange
    since : int
        The newest generation of the root.
    problems : tuple of Problem
        What cannot be locked; the rest is.
    number : int
        Of how many locks.
    place : Path or None
        The folder of the files, where there is no root.
    """

    changes: tuple[LockChange, ...]
    since: int
    problems: tuple[Problem, ...] = ()
    number: int = 0
    place: Path | None = None

    def summary_lines(self) -> list[str]:
        """Describe the plan, a line for each change."""
        return [change.describe(self.site.layout.root) for change in self.changes]

    def details(self) -> dict[str, Any]:
        """Return the changes, and the versions in each lock before and after."""
        locks = [
            {"path": str(change.path), "old": change.old and _versions(change.old), "new": _versions(change.new)}
            for change in self.changes
        ]
        problems = [problem.to_json() for problem in self.problems]
        return {"changes": self.summary_lines(), "locks": locks, "problems": problems}

    def apply(self, admin: AdminContext) -> None:
        """Write the locks."""
        site, layout = self.site, self.site.layout
        inside = [change for change in self.changes if change.path.parent == layout.environments]
        for change in self.changes:
            if change not in inside:
                write_file(change.path, change.new.encode(), 0o644)
        if inside:
            with transaction(
                layout, site.access, Change(self.command, site.cluster.name, self.since, always=False), admin
            ):
                for change in inside:
                    write_file(change.path, change.new.encode(), site.access.file)
                    admin.log(change.describe(layout.root))
                site.access.share_cache(layout.uv_cache)


def plan_locks(
    site: Site,
    names: Sequence[str],
    *,
    accelerator: str = "",
    upgrade: Sequence[str] = (),
    writes: bool = False,
    report: Report = quiet,
) -> LockPlan:
    """Resolve the requirements of environments, and compare with the locks that there are.

    Parameters
    ----------
    site : Site
    names : sequence of str
        Environments, or paths of environment files: such a file has its lock beside it. Without any, all of the root.
    accelerator : str
        What to lock for; by default everything that the environment is built for, or else the cluster's.
    upgrade : sequence of str
        Packages to resolve anew though they fit; ``*`` is all of them. The platform and the Pythons that the locks are
        for are decided anew, too.
    writes : bool
        Whether uv may keep in the root's cache what it reads.
    report : callable
        Is given a line for each environment.

    Raises
    ------
    ConfigurationError
        If no environment has a package that is to be upgraded.
    UnknownEnvironmentError
        If something that is named is no environment.
    RootError
        If the root is somebody else's.
    """
    layout = site.layout
    if writes:
        check_caller(layout, "lock")
    since = latest_number(layout)
    plans, problems = _plans(site, names, accelerator, anew=bool(upgrade))
    changes: list[LockChange] = []
    packages, number = set[str](), len(plans) + len(problems)
    shared = writes and os.access(layout.uv_cache, os.W_OK)
    with working_folder() as scratch:
        uv = Uv(package_cache(site) if shared else scratch / "cache", quiet, site.access.admin_umask)
        for path, plan in plans.items():
            report(f"{path.name}: resolving")
            try:
                old = read_lock(path)
                new = lock_text(plan, scratch, uv, upgrade)
            except RootstockError as error:
                problems.append(Problem(plan.label, error))
                continue
            packages.update(_versions(new))
            before = None if old is None else old.decode(errors="replace")
            if new != before:
                changes.append(LockChange(path, before, new))
    if not problems:
        _check_packages(upgrade, packages)
    place = None if layout.marker.is_file() else next((path.parent for path in plans), None)
    return LockPlan(site, "lock", tuple(changes), since, tuple(problems), number, place)


def _plans(
    site: Site, names: Sequence[str], accelerator: str, *, anew: bool
) -> tuple[dict[Path, BuildPlan], list[Problem]]:
    """Return how what shares a lock is built, by that lock's path, and what cannot be."""
    layout, cluster = site.layout, site.cluster
    # Those that an installation chooses from, in the same order: a lock is for one Python. None is fetched to lock.
    interpreters = root_interpreters(site)
    # A file can be locked on a machine that has none of the cluster's.
    anyhow = replace(site, cluster=replace(cluster, interpreters=(*cluster.interpreters, AUTO)))
    named = {source.name: source for source in find_sources(layout, names)}
    plans: dict[Path, BuildPlan] = {}
    problems = []
    for name in named or registered_names(layout):
        try:
            source = named[name] if named else find_source(layout, name)
            built = [variant.accelerator for variant in find_variants(layout, name)]
            for kind in [accelerator] if accelerator else dict.fromkeys(built or [cluster.accelerator]):
                plan = plan_environment(anyhow, source, interpreters, kind, anew=anew)
                plan = replace(plan, interpreter=one_that_runs(plan.interpreter, interpreters))
                if given_by_path(source, layout):  # its lock lies beside it
                    plan = replace(plan, lock_file=source.path.with_name(plan.lock_file.name), seed=None)
                plans.setdefault(plan.lock_file, plan)
        except RootstockError as error:
            problems.append(Problem(name, error))
    return plans, problems


def _check_packages(upgrade: Iterable[str], packages: Iterable[str]) -> None:
    """Refuse to upgrade what is not there.

    Raises
    ------
    ConfigurationError
        With the packages that are.
    """
    known = sorted(packages)
    for name in upgrade:
        if name != "*" and normalized(name) not in known:
            raise ConfigurationError(
                f"No environment here has a package {name!r}.{did_you_mean(normalized(name), known)} "
                f"There are: {', '.join(known)}.",
                "Name one of them, or leave the name out to take the newest of all.",
            )


def _versions(lock: str) -> dict[str, str]:
    """Return the versions that a lock names; of a package with several, all."""
    versions: dict[str, set[str]] = defaultdict(set)
    for package in tomllib.loads(lock).get("package", []):
        versions[package["name"]].add(package.get("version", "?"))
    return {name: ", ".join(sorted(versions[name])) for name in sorted(versions)}


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*old, *new}):
        if name not in new:
            yield f"{name} {old[name]} goes"
        elif name not in old:
            yield f"{name} {new[name]} comes"
        elif old[name] != new[name]:
            yield f"{name} {old[name]} -> {new[name]}"
