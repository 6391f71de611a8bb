"""What would stop an installation, found before anything is written.

A dry run finds it too: it ends with the code and the message of the run that it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from rootstock import __version__
from rootstock.admin.asked_for import Asked, Problem, failure
from rootstock.admin.environment_sources import find_source
from rootstock.builds.locking import lock_text, working_folder
from rootstock.builds.package_cache import Package, installed_packages
from rootstock.builds.plan import CLIENT, BuildPlan
from rootstock.builds.room_needed import download
from rootstock.builds.uv import Uv, package_cache_path, uv_version
from rootstock.config.job_scripts import check_jobs
from rootstock.config.model_names import named_model
from rootstock.config.site import Site
from rootstock.errors import BuildError, RootError, RootstockError
from rootstock.root.lock import Report, quiet
from rootstock.root.records import BUILD_RECORD
from rootstock.root.variants import environment_of

_REACHES_BUILDS = ("uv.", "python.", "hardware.accelerator")


def check_settings(site: Site) -> None:
    """Refuse settings that no command could use.

    Raises
    ------
    ConfigurationError, RootError
        If an ``uv.cache`` that is named now cannot be used, or a model that is named now is unknown.
    UnknownEnvironmentError
        If it is of an unknown environment.
    RenderError
        If job scripts cannot be rendered.
    """
    check_jobs(site, __version__)
    if site.cluster.origins.get("uv.cache") == "argument":
        package_cache_path(site)
    if site.cluster.origins.get("models") == "argument":
        read = partial(find_source, site.layout)
        for text in site.cluster.models:
            name, model = named_model(site.layout, text, read, site.cluster.environments)
            read(name).check_model(model)


def lock_builds(
    site: Site,
    builds: Sequence[BuildPlan],
    locks: Mapping[Path, bytes],
    wheel: tuple[Path, bytes],
    uv_wheels: Path | None,
    jobs: int,
    report: Report,
) -> tuple[list[BuildPlan], list[Problem]]:
    """Lock what is to be built, some at a time, so that what cannot be is known.

    What is built on a Python that is yet to be put into the root is locked when that is there.

    Parameters
    ----------
    site : Site
    builds : sequence of BuildPlan
    locks : mapping of Path to bytes
        What lock files of the root are about to hold.
    wheel : tuple of Path and bytes
        Where in the root our own wheel is about to be, and what it holds.
    uv_wheels : Path, optional
        A folder with all packages; without it, they are looked for in indexes.
    jobs : int
        How many at a time.
    report : callable
        Is given a line for each build.

    Raises
    ------
    ConfigurationError, RootError
        If uv's cache cannot be used.
    """
    if not builds:
        return [], []
    shared = package_cache_path(site).is_relative_to(site.layout.root)
    waiting = {build.label: build for build in builds if not build.published and build.interpreter.there}
    uv_version()  # uv is found before there are threads: sysconfig's first answer to two at a time can be wrong
    with working_folder() as scratch:
        uv = Uv(scratch / "cache", quiet, wheels=uv_wheels)  # nothing of the root is changed yet

        def lock(build: BuildPlan) -> str | Problem:
            report(f"{build.label}: locking")
            try:
                return lock_text(build, scratch, uv, locks=locks, wheel=wheel)
            except RootstockError as error:
                return Problem(build.label, error)

        with uv.programs.threads(min(jobs, len(waiting))) as pool:
            found = dict(zip(waiting, pool.map(lock, waiting.values()), strict=True))
    locked: list[BuildPlan] = []
    present: set[Package] = set()
    with suppress(RootError):  # a damaged record is told of, and stops no other build
        present = installed_packages(site.layout) if shared else set()
    for build in builds:
        text = found.get(build.label)
        if isinstance(text, Problem):
            continue
        if text is None:
            locked.append(build)
            continue
        name = build.digest(text)
        known = (site.layout.build(build.name, name) / BUILD_RECORD).is_file()
        size, named = download(text, build.interpreter.version, present)
        present |= named if shared else set()
        locked.append(replace(build, lock=text, published=name if known else "", download=size))
    return locked, [problem for problem in found.values() if isinstance(problem, Problem)]


def tries_settings(site: Site) -> bool:
    """Tell whether a setting that reaches builds was given now: one that makes an installation fail is not kept.

    Parameters
    ----------
    site : Site
    """
    given = (key for key, origin in site.cluster.origins.items() if origin == "argument")
    return any(key.startswith(_REACHES_BUILDS) for key in given)


def refuse_problems(site: Site, asked: Asked, problems: Sequence[Problem]) -> None:
    """Raise one error for what cannot be built, if nothing is to be done then.

    That is so if it is all that somebody named now; if it is the client, which everybody needs; or if a setting that
    reaches builds was given now, and something has no Python or cannot be locked: one that makes an installation fail
    is not kept.

    Parameters
    ----------
    site : Site
    asked : Asked
    problems : sequence of Problem
    """
    failed = {environment_of(problem.name) for problem in problems}
    named = asked.named and {source.name for source in asked.sources} <= failed
    # Of what no setting changes, such as a file that is broken, the settings are not to blame.
    blamed = [problem for problem in problems if tries_settings(site) and isinstance(problem.error, BuildError)]
    if fatal := problems if named or CLIENT in failed else blamed:
        raise failure(fatal, len(fatal))
