"""Install a root, or bring one up to date, by a plan that `rootstock.plan` has made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import tomli_w

from rootstock.access import Access, remove_tree
from rootstock.build import make_build
from rootstock.environment import EnvironmentManager
from rootstock.generations import Change, changing, explained
from rootstock.layout import STAGING, RootLayout
from rootstock.locking import Admin
from rootstock.plan import InstallPlan, PythonCopy
from rootstock.recipes import BuildPlan
from rootstock.records import write_file
from rootstock.uv import package_cache
from rootstock.verify import verify


def apply(plan: InstallPlan, admin: Admin) -> None:
    """Carry out a plan.

    What `module load` finds is written when what it leads to is there: our own wheel first, then the client that is
    built from it, then the modulefiles, and the environments last.

    Parameters
    ----------
    plan : InstallPlan
    admin : Admin

    Raises
    ------
    BuildError, VerificationError
        If a build fails. What was in use before still is.
    """
    layout, access = plan.layout, plan.access
    with explained(layout):
        for folder in (layout.root, layout.locks, layout.generations):
            access.make_folder(folder, private=folder in layout.admin_folders())
    with changing(layout, access, Change("install", plan.cluster.name, plan.since), admin):
        _write_marker(plan)
        for change in plan.modes:
            access.grant(change)
            admin.log(f"mode {change.new:04o} of {change.path}")
        if plan.reseal:
            _reseal(layout, access, admin)
        _write_files(plan, admin, published=False)
        if plan.python:
            _put_interpreter(plan.python, access, admin)
        for build in plan.builds:
            if build.source is None:
                _build(build, plan, admin)
        _write_files(plan, admin, published=True)
        for build in plan.builds:
            if build.source is not None:
                _build(build, plan, admin)


def _write_marker(plan: InstallPlan) -> None:
    if plan.new_marker != plan.marker:
        write_file(plan.layout.marker, tomli_w.dumps(plan.new_marker).encode(), plan.access.file)


def _write_files(plan: InstallPlan, admin: Admin, *, published: bool) -> None:
    layout = plan.layout
    for change in plan.files:
        if (change.path.is_relative_to(layout.modulepath) or layout.activations in change.path.parents) == published:
            access = plan.access.at(change.path, layout)
            access.make_folder(change.target.parent)
            change.apply(access.file)
            admin.log(change.describe(layout.root))


def _put_interpreter(python: PythonCopy, access: Access, admin: Admin) -> None:
    admin.report(f"putting an interpreter into {python.target}")
    staging = python.target.with_name(f"{STAGING}{python.target.name}")
    remove_tree(staging)  # of an installation that was cut off
    shutil.copytree(python.source, staging, symlinks=True)
    access.seal(staging)
    staging.rename(python.target)


def _reseal(layout: RootLayout, access: Access, admin: Admin) -> None:
    for build in sorted(layout.all_builds.glob("*/*")):
        if not build.name.startswith(STAGING):
            admin.report(f"changing the modes of {build.relative_to(layout.root)}")
            access.seal(build)


def _build(build: BuildPlan, plan: InstallPlan, admin: Admin) -> None:
    def step(text: str) -> None:
        admin.report(f"{build.label}: {text}")

    def check(folder: Path) -> list[dict[str, Any]]:
        if build.source is None:
            return []
        for cache in build.source.cache_variables.values():
            # Some libraries create the folder where they look for weights; a user could not.
            plan.access.make_folder(plan.layout.cache / cache)
        launch = EnvironmentManager(plan.layout.root).launch_build(build.name, folder, threads=1)
        return verify(launch, build.source, plan.device, report=step)

    try:
        folder = make_build(
            build, plan.layout, plan.access, package_cache(plan.layout, plan.cluster),
            report=step, log=admin.log, verify=check, wheels=plan.wheels,
        )  # fmt: skip
    finally:
        plan.access.sweep(plan.layout.uv_cache)  # uv makes its own lock files writable by everybody
    step(f"ready ({folder.name})")
