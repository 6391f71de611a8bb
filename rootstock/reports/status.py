"""What a root holds, for its admins. It is only read."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rootstock.builds.package_cache import unneeded, with_pointers
from rootstock.builds.root_interpreters import users
from rootstock.config.environment_file import read_source, registered_names
from rootstock.config.site import check_place, installed_versions
from rootstock.errors import RootError, RootstockError
from rootstock.reports.catalogue import of_each, read_environment
from rootstock.root.disk_usage import DiskUsage, check_space, disk_usage, free_space, freed, megabytes, number_of
from rootstock.root.generations import Generation, generation_files, read_generation, read_state
from rootstock.root.holder import Holder, read_holder
from rootstock.root.in_use import how_to_put_back, link_problems
from rootstock.root.layout import STAGING, RootLayout
from rootstock.root.ownership import check_owners
from rootstock.root.record_files import read_each
from rootstock.root.records import read_marker
from rootstock.root.variants import Variant, environment_of, find_variants
from rootstock.root.verification_records import read_verifications

UNNEEDED = "unneeded-packages"  # in `sizes`, beside paths of folders
_LAST_COMMAND, _PACKAGE_CACHE = "last-command", "package-cache"  # among problems
_WORDS = {
    UNNEEDED: "cache/uv, of it named by no build and no lock (rootstock-site gc)",
    _LAST_COMMAND: "last command",
    _PACKAGE_CACHE: "gc keeps all of the package cache",
}


@dataclass(frozen=True)
class Environment:
    """An environment of a root.

    Attributes
    ----------
    name : str
    description : str
    models : tuple of str
        Model arguments that its file names.
    digest : str
        The build in use; empty if there is none.
    built_at, built_by : str
    verified : int
        Number of checks that the build passed.
    packages : int
    variants : tuple of Variant
        Its builds in use, the main one first.
    """

    name: str
    description: str
    models: tuple[str, ...]
    digest: str = ""
    built_at: str = ""
    built_by: str = ""
    verified: int = 0
    packages: int = 0
    variants: tuple[Variant, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        beside = [variant for variant in self.variants if not variant.main]
        return asdict(self) | {
            "variants": {
                f"{each.platform}-{each.accelerator}": {"build": each.build.name, "computes_on": each.computes_on}
                for each in beside
            }
        }


def _environment(layout: RootLayout, name: str, damaged: dict[str, RootstockError]) -> Environment:
    known = read_environment(layout, name)
    damaged.update(known.damaged)
    source, record = known.source, known.record
    models = tuple(source.models)
    if record is None:
        return Environment(name, source.description, models)
    read_verifications(layout, name, record.digest, damaged)
    return Environment(
        name, source.description, models, record.digest, record.built_at, record.built_by,
        sum(check.get("passed") is True for check in record.verification), len(record.packages),
        tuple(find_variants(layout, name)),
    )  # fmt: skip


@dataclass(frozen=True)
class Status:
    """What a root holds.

    Attributes
    ----------
    versions : tuple of str
        The versions of Rootstock that it holds.
    problems : Mapping[str, RootstockError]
        What of the root is missing, damaged, unreadable or somebody else's, and why; by the name of an environment or
        a link, the path of a file, or ``place``, ``owners``, ``room``, ``last-command`` or, where sizes are measured,
        ``package-cache``.
    pythons : dict of str to int
        Interpreters that Rootstock has put into the root, and how many builds are made on each.
    idle_builds : int
        Builds that are not in use.
    holder : Holder or None
        Who is changing it, or was killed while they did, if you may know.
    sizes : dict or None
        What each folder takes, and of them `UNNEEDED`; files with several names count for the first.
    """

    layout: RootLayout
    marker: dict[str, Any]
    versions: tuple[str, ...]
    environments: tuple[Environment, ...]
    problems: Mapping[str, RootstockError]
    pythons: dict[str, int]
    idle_builds: int
    generations: tuple[Generation, ...]
    holder: Holder | None
    left: DiskUsage
    read_only: bool
    sizes: dict[str, DiskUsage] | None

    def to_json(self) -> dict[str, Any]:
        """Return it for programs; ``schema`` changes when a key changes its meaning."""
        return {
            "schema": 2,
            "root": str(self.layout.root),
            **{key: value for key, value in self.marker.items() if key != "written"},
            "versions": list(self.versions),
            "environments": [environment.to_json() for environment in self.environments],
            "problems": {name: str(error) for name, error in self.problems.items()},
            "pythons": self.pythons,
            "idle_builds": self.idle_builds,
            "generations": [asdict(generation) for generation in self.generations],
            "holder": self.holder.details() if self.holder else None,
            "room": asdict(self.left),
            "read_only": self.read_only,
            "sizes": {name: asdict(size) for name, size in self.sizes.items()} if self.sizes is not None else None,
        }

    def lines(self) -> Iterator[str]:
        """Say it for people."""
        yield f"{self.layout.root}: cluster {self.marker['cluster']}, layout {self.marker['layout']}"
        versions = (f"{v} (default)" if v == self.marker.get("default") else v for v in self.versions)
        yield f"rootstock {', '.join(versions)}"
        who = (self.marker.get("readers"), self.marker.get("writers", "owner"), self.marker.get("group") or "unchanged")
        yield "readers: {}; writers: {}; group: {}".format(*who)
        for env in self.environments:
            built = f"build {env.digest}, {env.built_at} by {env.built_by}, {number_of(env.verified, 'check')} passed"
            yield f"environment {env.name}: {built if env.digest else 'not built'}"
            for variant in env.variants:
                if not variant.main:
                    yield f"environment {env.name} for {variant}: build {variant.build.name}"
        for name, number in self.pythons.items():
            yield f"interpreter {name}: {number_of(number, 'build')} on it"
        yield f"{number_of(self.idle_builds, 'build')} not in use (rootstock-site gc --dry-run)"
        for generation in self.generations[-5:]:
            yield f"generation {generation.number}: {generation.at} {generation.by}: {generation.command}"
        if self.holder and not self.holder.ended:  # that one is among the problems
            yield self.holder.status()
        for name, size in (self.sizes or {}).items():
            yield f"{megabytes(size.bytes):>10}  {size.files:>8} files  {_WORDS.get(name, name)}"
        left = "" if self.left.files is None else f" and {self.left.files} files"
        yield f"room left: {megabytes(self.left.bytes)}{left}{'; read-only on this node' if self.read_only else ''}"
        for name, error in self.problems.items():
            yield f"{_WORDS.get(name, name)}: {' '.join(str(error).splitlines())}"


def read_status(layout: RootLayout, *, sizes: bool = False) -> Status:
    """Return what a root holds.

    Parameters
    ----------
    layout : RootLayout
    sizes : bool
        Whether to measure; that looks at every file.

    Raises
    ------
    RootError
        If the folder is no root, or you may not read it. A part that cannot be read is among the problems.
    """
    marker, state = read_marker(layout), read_state(layout)
    active = {(environment_of(link), digest) for link, digest in state.active.items()}
    used = {*active, *((layout.client(v).resolve().parent.name, d) for v, d in state.clients.items())}
    builds = [path for path in layout.all_builds.glob("*/*") if not path.name.startswith(STAGING)]
    names, records = registered_names(layout), dict[str, RootstockError]()
    files = of_each(names, lambda name: [read_source(layout.environment_file(name))])[1]  # installations need them
    # Nothing else is known of an environment whose file is broken and that has no build.
    known = [name for name in names if name not in files or os.path.lexists(layout.active(name))]
    gone = {environment_of(link) for link in state.active} - set(names)
    missing = {name: RootError("it is missing.", how_to_put_back(layout)) for name in gone}
    environments, errors = of_each(known, lambda name: [_environment(layout, name, records)])
    generations = list(read_each(layout.root, generation_files(layout), read_generation, records))
    measured, unmeasured = measure(layout) if sizes else (None, {})
    return Status(
        layout=layout,
        marker=marker,
        versions=tuple(installed_versions(layout)),
        environments=tuple(environments),
        problems={
            **_of_root(layout),
            **link_problems(layout),
            **errors,
            **records,
            **{f"{layout.environments.name}/{name}.py": error for name, error in {**files, **missing}.items()},
            **unmeasured,
        },
        pythons={name: len(builds) for name, builds in users(layout).items()},
        idle_builds=sum((path.parent.name, path.name) not in used for path in builds),
        generations=tuple(generations),
        holder=read_holder(layout.admin_owner),
        left=free_space(layout.root),
        read_only=bool(os.statvfs(layout.root).f_flag & os.ST_RDONLY),
        sizes=measured,
    )


def _of_root(layout: RootLayout) -> dict[str, RootstockError]:
    """Return what is wrong with the root as a whole."""
    problems: dict[str, RootstockError] = {}
    for name, check in _CHECKS.items():
        try:
            check(layout)
        except RootstockError as error:
            problems[name] = error
    return problems


def _check_room(layout: RootLayout) -> None:
    check_space(layout.root)


def _check_last_command(layout: RootLayout) -> None:
    """Refuse what a command has left that was killed. Who may not see the lock cannot know whether it still runs."""
    if not os.access(layout.locks, os.X_OK):
        return
    holder = read_holder(layout.admin_owner)
    unfinished = len([*layout.all_builds.glob(f"*/{STAGING}*")])
    left = f" It has left {number_of(unfinished, 'unfinished folder')} of builds." if unfinished else ""
    if holder is not None and holder.ended:
        raise RootError(f"{holder.status()}.{left}", f"Run that command again, or {_gc(layout)}: {_WITHOUT}.")
    if holder is None and unfinished:
        raise RootError(f"a command was cut off.{left}", f"{_gc(layout)} removes it: {_WITHOUT}.")


def _gc(layout: RootLayout) -> str:
    return f"rootstock-site gc --root {shlex.quote(str(layout.root))}"


_WITHOUT = "it needs no --break-lock"
_CHECKS = {
    "place": check_place,
    "owners": check_owners,
    "room": _check_room,
    _LAST_COMMAND: _check_last_command,
}


def _folder_sizes(layout: RootLayout) -> dict[str, DiskUsage]:
    """Return what each folder of a root takes.

    Builds are measured before the cache, which holds the same files: what each environment takes is of more use.
    `UNNEEDED` is a part of the cache.
    """
    files: set[tuple[int, int]] = set()  # measured already: the same file under several names counts once
    parts = [*sorted(layout.all_builds.glob("*")), *(f for f in layout.folders()[1:] if f != layout.all_builds)]
    return {
        path.relative_to(layout.root).as_posix(): disk_usage(path, files)
        for path in parts
        if path.is_dir() and not any(path != other and other in path.parents for other in parts)
    }


def measure(layout: RootLayout) -> tuple[dict[str, DiskUsage], dict[str, RootstockError]]:
    """Return what each folder of a root takes, and what keeps one from knowing what of it nobody needs.

    Parameters
    ----------
    layout : RootLayout
    """
    sizes = _folder_sizes(layout)
    try:
        packages = unneeded(layout)
    except RootError as error:
        return sizes, {_PACKAGE_CACHE: error}
    if packages:
        sizes[UNNEEDED] = freed(with_pointers(layout.uv_cache, packages))
    return sizes, {}
