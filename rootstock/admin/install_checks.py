"""What would stop an installation, found before anything is written.

A dry run finds it too: it ends with the code and the message of the run that it stands for.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rootstock import __version__
from rootstock.admin.asked_for import Asked, Problem, failure
from rootstock.admin.environment_sources import find_source
from rootstock.builds.locking import lock_text, working_folder
from rootstock.builds.package_cache import Package, installed_packages
from rootstock.builds.plan import CLIENT, BuildPlan
from rootstock.builds.room_needed import download
from rootstock.builds.uv import Uv, package_cache_path
from rootstock.config.cluster_settings import PLACEHOLDER
from rootstock.config.environment_file import packaged_names, registered_names
from rootstock.config.model_string import parse_model_string
from rootstock.config.render import check_jobs
from rootstock.config.site import Site
from rootstock.errors import ConfigurationError, RootError, RootstockError
from rootstock.root.generations import friendly_os_errors
from rootstock.root.layout import RootLayout, environment_of
from rootstock.root.lock import Report, quiet
from rootstock.root.records import BUILD_RECORD

_REACHES_BUILDS = ("uv.", "python.", "hardware.accelerator")


def check_path(root: Path) -> None:
    """Refuse the path of a root that is yet to be made, if it could not be.

    Parameters
    ----------
    root : Path

    Raises
    ------
    ConfigurationError
        If it holds what stands for a folder that only the site knows.
    RootError
        If something else than a folder is in its way.
    """
    before, found, _ = str(root).partition(f"/{PLACEHOLDER}/")
    if found and not os.path.isdir(f"{before}/{PLACEHOLDER}"):
        path = str(root).replace(f"/{PLACEHOLDER}/", "/NAME/")
        raise ConfigurationError(
            f"{PLACEHOLDER} in the root {root} stands for a folder whose name only your site knows.",
            f"Give the path with that name: --root {shlex.quote(path)}",
        )
    existing = next(path for path in (root, *root.parents) if os.path.lexists(path))
    if not existing.is_dir():
        what = f"a link to {os.readlink(existing)}, which leads to no folder" if existing.is_symlink() else "no folder"
        raise RootError(f"Cannot make the root {root}: {existing} is {what}.", "Choose another --root.")


def check_writable(layout: RootLayout) -> None:
    """Refuse a root that this user cannot write to, or make.

    Raises
    ------
    RootError
        If they may not.
    SiteError
        If the file system is read-only.
    """
    existing = next(path for path in (layout.root, *layout.root.parents) if os.path.lexists(path))
    with friendly_os_errors(layout):
        if os.statvfs(existing).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(layout.root))
        if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(layout.root))


def check_settings(site: Site) -> None:
    """Refuse settings that no command could use.

    Raises
    ------
    ConfigurationError, RootError
        If ``uv.cache`` cannot be used, or a model that is named now is unknown.
    UnknownEnvironmentError
        If it is of an unknown environment.
    RenderError
        If job scripts cannot be rendered.
    """
    package_cache_path(site)
    check_jobs(site, __version__)
    if site.cluster.origins.get("models") == "argument":
        names = [*registered_names(site.layout), *packaged_names(), *site.cluster.environments]
        for name, model in (parse_model_string(text, names) for text in site.cluster.models):
            find_source(site.layout, name).check_model(model)


def lock_builds(
    site: Site, builds: Sequence[BuildPlan], files: Mapping[Path, bytes | None], wheels: Path | None, report: Report
) -> tuple[list[BuildPlan], list[Problem]]:
    """Lock what is to be built, so that what cannot be is known.

    What is built on a Python that is yet to be put into the root is locked when that is there.

    Parameters
    ----------
    site : Site
    builds : sequence of BuildPlan
    files : mapping of Path to bytes or None
        What files of the root are about to hold.
    wheels : Path, optional
        A folder with all packages; without it, they are looked for in indexes.
    report : callable
        Is given a line for each build.
    """
    locked: list[BuildPlan] = []
    problems: list[Problem] = []
    shared = package_cache_path(site).is_relative_to(site.layout.root)
    present: set[Package] = set()
    with suppress(RootError):  # a damaged record is told of, and stops no other build
        present = installed_packages(site.layout) if shared else set()
    with working_folder() as scratch:
        uv = Uv(scratch / "cache", quiet, wheels=wheels)  # nothing of the root is changed yet
        for build in builds:
            if build.published or not os.path.exists(build.interpreter.path):
                locked.append(build)
                continue
            report(f"{build.label}: locking")
            try:
                lock = lock_text(build, scratch, uv, files=files)
            except RootstockError as error:
                problems.append(Problem(build.label, error))
                continue
            name = build.digest(lock)
            known = (site.layout.build(build.name, name) / BUILD_RECORD).is_file()
            size, named = download(lock, build.interpreter.version, present)
            if shared:
                present |= named
            locked.append(replace(build, lock=lock, published=name if known else "", download=size))
    return locked, problems


def refuse_problems(site: Site, asked: Asked, problems: Sequence[Problem]) -> None:
    """Raise one error for what cannot be built, if nothing is to be done then.

    That is so if it is all that somebody named now; if it is the client, which everybody needs; or if a setting that
    reaches builds was given now: one that makes an installation fail is not kept.

    Parameters
    ----------
    site : Site
    asked : Asked
    problems : sequence of Problem
    """
    failed = {environment_of(problem.name) for problem in problems}
    named = asked.named and {source.name for source in asked.sources} <= failed
    given = [key for key, origin in site.cluster.origins.items() if origin == "argument"]
    tried = [key for key in given if key.startswith(_REACHES_BUILDS)]
    if problems and (named or tried or CLIENT in failed):
        raise failure(problems, len(problems))
