"""Install a root, or bring one up to date, by a plan that `rootstock.admin.install_plan` has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from rootstock.admin.asked_for import Problem, failure, reason
from rootstock.admin.bundled_weights import Bundled
from rootstock.admin.install_checks import tries_settings
from rootstock.admin.install_plan_view import InstallPlanView
from rootstock.builds.make import Staged, publish, remove_leftovers, stage
from rootstock.builds.plan import BuildPlan
from rootstock.builds.root_interpreters import install_interpreter
from rootstock.builds.uv import Uv, package_cache, uv_version
from rootstock.config.site import Site
from rootstock.errors import RootstockError
from rootstock.root.generations import Change, friendly_os_errors, transaction
from rootstock.root.lock import AdminContext
from rootstock.root.modes import ModeChange, modes_changed, modes_needed, refuse_foreign
from rootstock.root.records import read_build, write_file


@dataclass(frozen=True)
class InstallPlan(InstallPlanView):
    """Everything that an installation would change, and how it does it.

    Attributes
    ----------
    jobs : int
        How many environments to build at a time.
    """

    jobs: int = 1

    def apply(self, admin: AdminContext) -> None:
        """Bring all that about.

        What `module load` finds is written when what it leads to is there: our own wheel first, then the client that is
        built from it, then the modulefiles, and the environments last.

        Raises
        ------
        BuildError, VerificationError
            If a build fails. What was in use before still is.
        """
        site, layout, access = self.site, self.site.layout, self.site.access
        with friendly_os_errors(layout):
            for folder in (layout.root, layout.locks, layout.generations):
                access.make_folder(folder, private=folder in layout.admin_folders())
        with transaction(layout, access, Change(self.command, site.cluster.name, self.since), admin):
            with modes_changed(layout, access, _modes(self, admin), admin.log):
                # Before anything is written: a file gets the group of its folder. Who may read is noted when all of it
                # is done: until then, the next installation has it to do.
                access_now = {key: self.marker[key] for key in ("readers", "group", "writers") if key in self.marker}
                _write_marker(self, {**self.new_marker, **access_now})
                _write_files(self, admin, published=False)
                if self.reseal:
                    _write_marker(self, self.new_marker)
            # Where uv is not run, a cache that cannot be used stops nothing.
            cache = package_cache(site) if self.runs_uv else layout.uv_cache
            uv = Uv(cache, admin.log, access.admin_umask, self.wheels)
            try:
                for python in self.pythons:
                    install_interpreter(site, python, uv, report=admin.report)
                if failed := _build([build for build in self.builds if build.source is None], self, admin, uv, 1):
                    raise failure(failed, 1)
                _write_files(self, admin, published=True)
                environments = [build for build in self.builds if build.source is not None]
                if failed := _build(environments, self, admin, uv, self.jobs):
                    _forget_settings(self, admin)
            except RootstockError:
                _forget_settings(self, admin)
                raise
            finally:
                access.share_cache(layout.uv_cache)
            if failed := [*self.problems, *failed]:
                raise failure(failed, len(self.problems) + len(environments))


def _write_marker(plan: InstallPlan, marker: Mapping[str, Any]) -> None:
    if marker != plan.marker:
        write_file(plan.site.layout.marker, tomli_w.dumps(marker).encode(), plan.site.access.file)


def _forget_settings(plan: InstallPlan, admin: AdminContext) -> None:
    """Put back the root's registry, if settings were tried with which something could not be built."""
    path = plan.site.layout.clusters_file
    before = next((change.old for change in plan.files if change.path == path), None)
    if before is not None and tries_settings(plan.site) and not plan.reseal:
        write_file(path, before, plan.site.access.file)
        admin.report(f"the settings of before are in {path.name} again")


def _write_files(plan: InstallPlan, admin: AdminContext, *, published: bool) -> None:
    layout = plan.site.layout
    for change in plan.files:
        if (change.path.is_relative_to(layout.modulepath) or layout.activations in change.path.parents) == published:
            change.apply(plan.site.access, layout)
            admin.log(change.describe(layout.root))


def _modes(plan: InstallPlan, admin: AdminContext) -> list[ModeChange]:
    """Return the changes of modes and groups; those of everything that there is now, where another access is to hold.

    Raises
    ------
    RootError
        If somebody else's file is among that.
    """
    if not plan.reseal:
        return [*plan.modes]
    admin.report("changing the modes of everything")
    layout = plan.site.layout
    changes = list(modes_needed(layout, plan.site.access, everything=True))
    refuse_foreign(layout, changes)
    found = {change.path for change in changes}
    return [*changes, *(change for change in plan.modes if change.old is None and change.path not in found)]


def _build(builds: Sequence[BuildPlan], plan: InstallPlan, admin: AdminContext, uv: Uv, jobs: int) -> list[Problem]:
    """Make builds, some at a time. Each is verified and published when it is installed, one after the other.

    Returns
    -------
    list of Problem
        Those that failed; the others are in use.
    """
    failed: list[Problem] = []
    if not builds:
        return failed
    for build in builds:
        remove_leftovers(plan.site, build)
    uv_version()  # uv is found before there are threads: sysconfig's first answer to two at a time can be wrong
    started: dict[Future[Staged], BuildPlan] = {}
    try:
        with uv.programs.threads(min(jobs, len(builds))) as pool:
            for build in builds:
                started[pool.submit(_stage, build, plan.site, admin, uv)] = build
            for done in as_completed(started):
                build = started[done]
                try:
                    folder = _publish(done.result(), plan, admin)
                    admin.report(f"{build.label}: ready ({folder.name}{_label(folder, build)})")
                except RootstockError as error:
                    failed.append(Problem(build.label, error))
                    admin.report(f"{build.label}: failed: {reason(error)}")
    finally:
        for done in started:
            if not done.cancelled() and done.exception() is None:
                done.result().discard()
    return failed


def _label(folder: Path, build: BuildPlan) -> str:
    """Say that a build does not compute on what it was made for: an index may have served torch for CPUs only."""
    record = read_build(folder)
    if record is None or record.computes_on == build.accelerator or build.source is None:
        return ""
    return f"; made for {build.accelerator}, its packages compute on {record.computes_on}"


def _stage(build: BuildPlan, site: Site, admin: AdminContext, uv: Uv) -> Staged:
    uv = replace(uv, log=lambda line: admin.log(f"{build.label}: {line}"))
    with friendly_os_errors(site.layout):
        return stage(site, build, uv, report=lambda text: admin.report(f"{build.label}: {text}"))


def _publish(staged: Staged, plan: InstallPlan, admin: AdminContext) -> Path:
    """Verify a build, unless it was published before, and put it to use."""
    build = staged.plan
    checks, bundled = list[dict[str, Any]](), Bundled(staged.folder or staged.build)
    with friendly_os_errors(plan.site.layout):
        if staged.folder is not None and build.source is not None and build.source.references():
            # With them come numpy and ASE, which a command that verifies nothing goes without.
            from rootstock.admin.verify import verify

            checks = verify(
                plan.site, build.source, staged.folder, plan.device, bundled,
                report=lambda text: admin.report(f"{build.label}: {text}"),
            )  # fmt: skip
        admin.report(f"{build.label}: publishing")
        return publish(staged, plan.site.access, checks, bundled.files)
