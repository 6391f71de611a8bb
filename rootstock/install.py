"""Install a root, or bring one up to date: decide first (`plan_install`), then act (`apply`)."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from rootstock import __version__
from rootstock.access import Access
from rootstock.build import BuildPlan, make_build, plan_client, plan_environment
from rootstock.clusters import (
    Cluster,
    argument_scope,
    cluster_names,
    find_root,
    get_cluster,
    parse_setting,
    read_scope,
)
from rootstock.distribution import WHEEL_NAME, WORKER_NAME, wheel_bytes, worker_bytes
from rootstock.environment import EnvironmentManager
from rootstock.errors import ConfigurationError, RootError, SiteError
from rootstock.layout import LAYOUT_VERSION, RootLayout
from rootstock.locking import admin_lock
from rootstock.records import read_marker, write_file
from rootstock.render import render_modulefiles, render_registry
from rootstock.sources import EnvironmentSource, packaged_source, read_source
from rootstock.verify import verify

Report = Callable[[str], None]


@dataclass(frozen=True)
class FileChange:
    """A file that is to be written.

    Attributes
    ----------
    path : Path
    old : bytes or None
        What is there now.
    new : bytes
    edited : bool
        Somebody changed the file since we wrote it: ours goes beside it, as ``<name>.new``.
    """

    path: Path
    old: bytes | None
    new: bytes
    edited: bool = False

    @property
    def target(self) -> Path:
        return self.path.with_name(f"{self.path.name}.new") if self.edited else self.path


@dataclass(frozen=True)
class InstallPlan:
    """Everything that an installation would change."""

    layout: RootLayout
    cluster: Cluster
    device: str
    created: bool
    marker: Mapping[str, Any]
    files: tuple[FileChange, ...]
    builds: tuple[BuildPlan, ...]

    @property
    def empty(self) -> bool:
        return not (self.created or self.files or self.builds)

    def lines(self) -> list[str]:
        """Describe the plan, a line for each change."""
        root = self.layout.root
        found = [f"create the root {root} for cluster {self.cluster.name}"] if self.created else []
        for change in self.files:
            verb = "keep your edits, write ours as" if change.edited else "write" if change.old is None else "update"
            found.append(f"{verb} {change.target.relative_to(root)}")
        return found + [
            f"build {plan.name} with Python {plan.interpreter.version} at {plan.interpreter.path} ({plan.reason})"
            for plan in self.builds
        ]

    def prepare_log(self) -> Path:
        """Create the root and its folder for logs, and return that."""
        with _explained(self.layout):
            access = Access.of(self.cluster)
            for folder in (self.layout.root, self.layout.log):
                access.make_folder(folder)
        return self.layout.log

    def next_steps(self) -> str:
        """Say what a user does now."""
        names = [build.source.name for build in self.builds if build.source]
        model = names[0] if names else "MODEL"
        return (
            f"Done. To use it:\n  module use {self.layout.modulepath}\n  module load rootstock\n"
            f"or without modules:\n  export ROOTSTOCK_ROOT={shlex.quote(str(self.layout.root))}\n"
            f'then in Python:\n  RootstockCalculator(model="{model}", device="cpu")'
        )


def plan_install(
    cluster: Cluster, root: Path, environments: Sequence[str], *, device: str, client: bool = True
) -> InstallPlan:
    """Decide what an installation has to change.

    Parameters
    ----------
    cluster : Cluster
    root : Path
        The root, absolute.
    environments : sequence of str
        Environments to build.
    device : str
        Where the builds are verified.
    client : bool
        Whether to build the environment that ``module load rootstock`` puts on PATH.

    Raises
    ------
    RootError
        If the folder is something else, or belongs to another cluster.
    UnknownEnvironmentError
        If an environment is neither in the root nor in this package.
    """
    layout = RootLayout(root)
    created = _is_new(layout)
    marker = {} if created else read_marker(layout)
    if marker.get("cluster", cluster.name) != cluster.name:
        raise RootError(
            f"{root} is the root of cluster {marker['cluster']!r}, not {cluster.name!r}.",
            f"Use --cluster {marker['cluster']}, or another --root.",
        )
    written = marker.get("written", {})
    sources = [_source(layout, name, written) for name in environments]
    wheel = wheel_bytes()
    wheel_path = layout.runtime(__version__) / WHEEL_NAME
    wanted = {
        layout.clusters_file: render_registry(cluster, root).encode(),
        **_module_files(cluster, root),
        **{layout.environment_file(source.name): source.text.encode() for source in sources},
        wheel_path: wheel,
        layout.runtime(__version__) / WORKER_NAME: worker_bytes(),
    }
    files = tuple(
        change for path, content in wanted.items() if (change := _change(layout, path, content, written)) is not None
    )
    builds = [plan_environment(layout, cluster, source) for source in sources]
    if client:
        builds.insert(0, plan_client(layout, cluster, wheel_path, hashlib.sha256(wheel).hexdigest()))
    return InstallPlan(
        layout, cluster, device, created, marker, files, tuple(plan for plan in builds if plan is not None)
    )


def apply(plan: InstallPlan, command: str, *, wait: float, report: Report, log: Report) -> None:
    """Carry out a plan.

    Parameters
    ----------
    plan : InstallPlan
    command : str
        The command line, for the records.
    wait : float
        Seconds to wait for another admin.
    report, log : callable
        Are given a line for each step, and every line that uv prints.
    """
    layout, access = plan.layout, Access.of(plan.cluster)
    with _explained(layout):
        for folder in layout.folders():
            # Only admins run uv on its cache, and whoever can read it could hold its locks.
            access.make_folder(folder, private=folder == layout.uv_cache)
        with admin_lock(layout, command, wait=wait, report=report):
            _write_marker(plan, access)
            for change in plan.files:
                access.make_folder(change.target.parent)
                write_file(change.target, change.new, access.file)
                log(f"wrote {change.target}")
            for build in plan.builds:
                _build(build, plan, access, report, log)


@contextlib.contextmanager
def _explained(layout: RootLayout) -> Iterator[None]:
    """Turn an error of the file system into one that says what to do."""
    try:
        yield
    except PermissionError as error:
        raise RootError(f"You may not write {error.filename}.", "Install as the user who owns the root.") from error
    except OSError as error:
        raise SiteError(
            f"Cannot write {error.filename or layout.root}: {error.strerror}.",
            "What was installed before is untouched. Run the same command again when this is mended.",
        ) from error


def _build(build: BuildPlan, plan: InstallPlan, access: Access, report: Report, log: Report) -> None:
    def step(text: str) -> None:
        report(f"{build.name}: {text}")

    def check(folder: Path) -> list[dict[str, Any]]:
        if build.source is None:
            return []
        launch = EnvironmentManager(plan.layout.root).launch_build(build.name, folder, threads=1)
        return verify(launch, build.source, plan.device, report=step)

    folder = make_build(build, plan.layout, access, report=step, log=log, verify=check)
    step(f"ready ({folder.name})")


def _is_new(layout: RootLayout) -> bool:
    """Tell whether the root is yet to be made; refuse a folder that holds something else."""
    if layout.marker.exists():
        return False
    try:
        found = sorted(path.name for path in layout.root.iterdir())
    except FileNotFoundError:
        return True
    except OSError as error:
        raise RootError(f"Cannot use {layout.root} as a root: {error.strerror}.") from error
    # An installation that was cut off before its first file leaves folders of ours, all empty.
    ours = {folder.name for folder in layout.folders() if folder.parent == layout.root}
    if strangers := [name for name in found if name not in ours]:
        raise RootError(
            f"{layout.root} is not a Rootstock root, and not empty: it holds {', '.join(strangers[:3])}.",
            "Choose an empty folder.",
        )
    return True


def _source(layout: RootLayout, name: str, written: Mapping[str, str]) -> EnvironmentSource:
    """Return an environment file: the root's own if an admin wrote or changed it, or else the packaged one."""
    path = layout.environment_file(name)
    if path.is_file() and written.get(_key(layout, path)) != _sha256(path.read_bytes()):
        return read_source(path)
    return packaged_source(name)


def _module_files(cluster: Cluster, root: Path) -> dict[Path, bytes]:
    rendered = render_modulefiles(cluster, root, version=__version__, default=__version__)
    return {path: text.encode() for path, text in rendered.items()}


def _change(layout: RootLayout, path: Path, new: bytes, written: Mapping[str, str]) -> FileChange | None:
    try:
        old = path.read_bytes()
    except FileNotFoundError:
        return FileChange(path, None, new)
    if old == new:
        return None
    change = FileChange(path, old, new, edited=written.get(_key(layout, path)) != _sha256(old))
    if change.edited and change.target.is_file() and change.target.read_bytes() == new:
        return None
    return change


def _write_marker(plan: InstallPlan, access: Access) -> None:
    layout, marker = plan.layout, dict(plan.marker)
    written = dict(marker.get("written", {}))
    written |= {_key(layout, change.path): _sha256(change.new) for change in plan.files if not change.edited}
    fresh = {
        "layout": LAYOUT_VERSION,
        "cluster": plan.cluster.name,
        "group": plan.cluster.group,
        "readers": plan.cluster.readers,
        "made_by": marker.get("made_by", f"rootstock {__version__}, {getpass.getuser()} on {platform.node()}"),
        "made_at": marker.get("made_at", time.strftime("%Y-%m-%dT%H:%M:%S%z")),
        # What we wrote last: a file that differs from this was edited, and is kept.
        "written": dict(sorted(written.items())),
    }
    if fresh != marker:
        write_file(layout.marker, tomli_w.dumps(fresh).encode(), access.file)


def _key(layout: RootLayout, path: Path) -> str:
    return path.relative_to(layout.root).as_posix()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def site_cluster(name: str | None, root: Path | None, settings: Sequence[str]) -> tuple[Cluster, Path]:
    """Return the settings of the cluster that a site's command is about, and its root.

    Parameters
    ----------
    name : str or None
        A registered cluster. By default that of the root, or of ``ROOTSTOCK_CLUSTER``.
    root : Path or None
        By default the cluster's.
    settings : sequence of str
        ``KEY=VALUE``, outranking what the root was installed with, which outranks the registry.

    Raises
    ------
    ConfigurationError
        If neither names a cluster, or a setting is wrong.
    """
    if root is None:
        root = find_root(name, None)
    if root is None:
        raise ConfigurationError("Which cluster? Give --cluster NAME.", f"Known: {', '.join(cluster_names())}.")
    layout = RootLayout(Path(root).expanduser().absolute())
    scopes = [read_scope(layout.clusters_file)] if layout.clusters_file.is_file() else []
    name = name or next((scope.default for scope in scopes), "") or os.environ.get("ROOTSTOCK_CLUSTER")
    if not name:
        raise ConfigurationError(
            f"Which cluster is {layout.root} for? Give --cluster NAME.", f"Known: {', '.join(cluster_names())}."
        )
    scopes.append(argument_scope(name, {"root": str(layout.root), **dict(map(parse_setting, settings))}))
    return get_cluster(name, *scopes), layout.root
