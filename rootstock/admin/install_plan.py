"""Decide what an installation changes: read everything, write nothing. `rootstock.admin.install` carries it out."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rootstock import __version__
from rootstock.admin.asked_for import asked_for, needed_builds, plan_builds
from rootstock.admin.bundle import Bundle
from rootstock.admin.install import InstallPlan
from rootstock.admin.install_checks import check_settings, lock_builds, refuse_problems
from rootstock.admin.install_notes import notes_of_edits, notes_of_files, notes_of_place
from rootstock.builds.interpreters import Interpreter, movable_interpreter, own_interpreters
from rootstock.builds.lock_scope import read_lock
from rootstock.builds.own_wheel import WHEEL_NAME, WORKER_NAME, wheel_bytes, worker_bytes
from rootstock.builds.plan import CLIENT, BuildPlan, plan_client
from rootstock.builds.room_needed import check_room
from rootstock.builds.root_interpreters import NewPython, plan_copy, root_interpreters
from rootstock.builds.uv import package_cache_path
from rootstock.config.cluster_settings import refuse_placeholder
from rootstock.config.clusters import Cluster
from rootstock.config.environment_file import (
    EnvironmentSource,
    given_by_path,
    packaged_names,
    packaged_source,
)
from rootstock.config.model_names import refuse_clashes
from rootstock.config.registry_text import merge_registry
from rootstock.config.render import render_activation, render_default, render_modulefiles, render_registry
from rootstock.config.site import Site, check_site, installed_versions, is_new
from rootstock.config.templates import site_templates
from rootstock.errors import BuildError, BundleError, RootError
from rootstock.root.generations import latest_number, unrecorded
from rootstock.root.layout import LAYOUT_VERSION, RootLayout
from rootstock.root.lock import Report, quiet
from rootstock.root.managed_files import Written, hashes_after, plan_files, sha256
from rootstock.root.modes import ModeChange, modes_needed, refuse_foreign
from rootstock.root.place import check_path, check_writable
from rootstock.root.records import now, read_marker, user_name
from rootstock.worker.device import require_device

_MOST_JOBS = 4  # more are not worth it: uv and the compiler use all processors for one already


def plan_install(
    site: Site,
    environments: Sequence[str],
    *,
    device: str,
    accelerator: str = "",
    client: bool = True,
    force: bool = False,
    bundle: Bundle | None = None,
    jobs: int = 0,
    report: Report = quiet,
) -> InstallPlan:
    """Decide what an installation has to change.

    Parameters
    ----------
    site : Site
    environments : sequence of str
        Environments to build, or paths of environment files to put into the root and build; without any, what the root
        is asked to hold (`rootstock.admin.asked_for`).
    device : str
        Where the builds are verified.
    accelerator : str
        What the environments are built for; by default the cluster's. Builds for anything else stay.
    client : bool
        Whether to build the environment that ``module load rootstock`` puts on PATH.
    force : bool
        Whether to overwrite files that somebody edited; what they hold is kept beside them.
    bundle : Bundle, optional
        Where environments, their locks and all packages come from; nothing is fetched then.
    jobs : int
        How many environments to lock, and then to build, at a time; 0: one for each processor, at most 4.
    report : callable
        Is given a line for each build that is locked.

    Raises
    ------
    ConfigurationError, RenderError
        If settings are wrong.
    DeviceError
        If builds are to be verified on a GPU, and there is none here.
    RootError, SiteError
        If the folder is something else, cannot be made or written to, belongs to another cluster, has too little room,
        or no program may run there.
    UnknownEnvironmentError
        If an environment is neither in the root nor in this package.
    BuildError
        If none of the environments that are named can be built.
    """
    require_device(device)
    marker = _own_marker(site)
    asked = asked_for(site, environments, marker.get("written", {}), bundle, created=not marker)
    site, layout, sources = asked.site, site.layout, asked.sources
    refuse_clashes(layout, sources)
    brought, interpreters = _interpreters(site, bundle)

    def pythons_for(name: str) -> list[Interpreter]:
        return bundle.best_first(name, interpreters) if bundle else interpreters

    bundled = bundle.files(layout, [source.name for source in sources]) if bundle else {}
    builds, problems = plan_builds(asked, accelerator, pythons_for, bundled)
    wheel, wheel_path = wheel_bytes(), layout.runtime(__version__) / WHEEL_NAME
    ours = {wheel_path: wheel, layout.runtime(__version__) / WORKER_NAME: worker_bytes()}
    files = {layout.environment_file(source.name): source.text.encode() for source in sources}
    contents = {**ours, **_rendered(site, marker.get("default", __version__)), **bundled, **files}
    if client:
        builds.insert(0, plan_client(site, wheel_path, sha256(wheel), pythons_for(CLIENT), bundled))
    contents |= (beside := _locks_beside(builds, layout))
    replaced = {layout.environment_file(s.name) for s in sources if s.path.parent != layout.environments}
    forced = contents if force else {*replaced, *beside, *bundled}
    locks = {**bundled, **beside}
    plan = _assemble(site, marker, contents, forced, sources)
    needed, damaged = needed_builds(layout, builds, locks, bundle)
    # Also those that are missing though their builds are there.
    fetched = dict.fromkeys(build.interpreter for build in builds if build.interpreter.download)
    pythons = (*brought, *map(NewPython, fetched))
    plan = replace(
        plan, device=device, jobs=jobs or min(_MOST_JOBS, os.cpu_count() or 1), builds=tuple(needed), pythons=pythons,
        warnings=(*plan.warnings, *notes_of_edits(asked, marker.get("written", {}), bundle)),
        wheels=bundle.wheels if bundle else None, new_marker=_without_own(plan.new_marker, sources, layout, bundle),
    )  # fmt: skip
    _check_places(plan)
    needed, unlocked = lock_builds(site, needed, locks, (wheel_path, wheel), plan.wheels, plan.jobs, report)
    problems += [*damaged, *unlocked]
    refuse_problems(site, asked, problems)
    check_room(layout.root, needed, len(pythons))
    return replace(plan, builds=tuple(needed), problems=tuple(problems))


def _check_places(plan: InstallPlan) -> None:
    """Refuse places that the plan needs and that this user cannot write to, before anything else takes time."""
    if not plan.empty:
        check_writable(plan.site.layout)
    if plan.runs_uv:
        package_cache_path(plan.site)


def _without_own(
    marker: Mapping[str, Any], sources: Iterable[EnvironmentSource], layout: RootLayout, bundle: Bundle | None
) -> dict[str, Any]:
    """Return a marker in which an admin's own file under the name of one of ours does not pass for ours."""
    names = {
        str(layout.environment_file(source.name).relative_to(layout.root))
        for source in sources
        if given_by_path(source, layout)
        and source.name in packaged_names()
        and source.text != packaged_source(source.name).text
        and not (bundle and source.path.is_relative_to(bundle.folder))
    }
    return {**marker, "written": {name: hashes for name, hashes in marker["written"].items() if name not in names}}


def _locks_beside(builds: Iterable[BuildPlan], layout: RootLayout) -> dict[Path, bytes]:
    """Return the locks that lie beside environment files that were given by their path."""
    beside = {
        build.lock_file: build.source.path.with_name(build.lock_file.name)
        for build in builds
        if build.source and given_by_path(build.source, layout)
    }
    return {target: lock for target, path in beside.items() if (lock := read_lock(path)) is not None}


def plan_render(site: Site, *, force: bool = False) -> InstallPlan:
    """Decide which files of a root have to be rendered anew.

    Parameters
    ----------
    site : Site
    force : bool
        Whether to overwrite files that somebody edited; what they hold is kept beside them.

    Raises
    ------
    RootError
        If the folder is no root, belongs to another cluster, or does not hold this version.
    """
    marker = read_marker(site.layout) and _own_marker(site)
    if __version__ not in (versions := installed_versions(site.layout)):
        raise RootError(
            f"{site.layout.root} holds rootstock {', '.join(versions)}, not {__version__}.",
            "Install this version there first, or use one that it holds.",
        )
    contents = _rendered(site, marker["default"])
    return _assemble(site, marker, contents, contents if force else ())


def _interpreters(site: Site, bundle: Bundle | None) -> tuple[list[NewPython], list[Interpreter]]:
    """Return what is to be copied into the root, and the interpreters that it then has, or can fetch."""
    if bundle is None:
        return [], root_interpreters(site)
    new = [folder for folder in bundle.pythons if not site.layout.interpreter(folder.name).is_dir()]
    try:
        brought = [plan_copy(movable_interpreter(folder), site.layout, folder.name) for folder in new]
    except BuildError as error:
        raise BundleError(
            f"An interpreter of the bundle cannot be used: {error.message}",
            "If programs may not run in that folder (noexec), unpack into another: TMPDIR=/path rootstock-site ...",
        ) from error
    return brought, [*(python.interpreter for python in brought), *own_interpreters(site.layout.python)]


def _own_marker(site: Site) -> dict[str, Any]:
    """Return the marker; an empty one if the root is yet to be made. Somebody else's root is an error."""
    if not os.path.isfile(site.layout.marker):
        refuse_placeholder(site.layout.root)
        check_path(site.layout.root)
    check_site(site, "install")
    check_settings(site)
    if is_new(site.layout):
        return {}
    marker = read_marker(site.layout)
    if marker.get("cluster") != site.cluster.name:
        raise RootError(
            f"{site.layout.root} is the root of cluster {marker.get('cluster')!r}, not {site.cluster.name!r}.",
            f"Use --cluster {marker.get('cluster')}, or another --root.",
        )
    return marker


def _rendered(site: Site, default: str) -> dict[Path, bytes | None]:
    texts: dict[Path, str | None] = {
        site.layout.clusters_file: render_registry(site),
        **render_modulefiles(site, __version__),
        **render_activation(site, __version__),
        **render_default(site, default),
    }
    return {path: None if text is None else text.encode() for path, text in texts.items()}


def _assemble(
    site: Site,
    marker: Mapping[str, Any],
    contents: Mapping[Path, bytes | None],
    forced: Iterable[Path],
    sources: Iterable[EnvironmentSource] = (),
) -> InstallPlan:
    layout, cluster = site.layout, site.cluster
    written: Written = marker.get("written", {})
    files = plan_files(layout.root, contents, written, forced, {layout.clusters_file: partial(merge_registry, site)})
    given = site_templates(folder for folder in site.template_dirs if folder != layout.templates)
    # They are never ours: what one replaces is kept, whoever put it there.
    theirs = {layout.templates / name: text for name, text in given.items()}
    templates = plan_files(layout.root, theirs, {}, theirs)
    reseal = bool(marker) and any(marker.get(key) != value for key, value in _access_settings(cluster).items())
    if reseal:
        refuse_foreign(layout, modes_needed(layout, site.access, everything=True))
    modes = list(modes_needed(layout, site.access))
    foreign = [change for change in modes if not change.allowed]
    return InstallPlan(
        site=site,
        command="install",
        created=not marker,
        marker=marker,
        new_marker=_new_marker(cluster, marker, hashes_after(layout.root, written, files)),
        files=(*templates, *files),
        modes=(*(change for change in modes if change not in foreign), *_caches(site, sources)),
        reseal=reseal,
        warnings=(*notes_of_place(site, foreign, created=not marker), *notes_of_files(layout, files)),
        since=latest_number(layout),
        unrecorded=bool(marker) and unrecorded(layout),
    )


def _access_settings(cluster: Cluster) -> dict[str, str]:
    return {"readers": cluster.readers, "group": cluster.group, "writers": cluster.writers}


def _new_marker(cluster: Cluster, marker: Mapping[str, Any], written: Written) -> dict[str, Any]:
    made_by = f"rootstock {__version__}, {user_name()} on {platform.node()}"
    return {
        "layout": LAYOUT_VERSION,
        "cluster": cluster.name,
        "default": marker.get("default", __version__),
        **_access_settings(cluster),
        "made_by": marker.get("made_by", made_by),
        "made_at": marker.get("made_at") or now(),
        # What we wrote last: a file that differs from this was edited, and is kept.
        "written": written,
    }


def _caches(site: Site, sources: Iterable[EnvironmentSource]) -> Iterator[ModeChange]:
    """Yield the folders where environments look for weights: some libraries create them, and a user could not."""
    named = {site.layout.cache / folder for source in sources for folder in source.cache_folders}
    folders = {parent for path in named for parent in (path, *path.parents) if site.layout.cache in parent.parents}
    for folder in sorted(folders - {*site.layout.folders()}):
        if not folder.is_dir():
            yield ModeChange(folder, None, site.access.folder)
