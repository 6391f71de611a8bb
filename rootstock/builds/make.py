"""Make builds: immutable environments, named by their content.

A build comes about in a staging folder beside its final place: uv installs it, every file is checked against what its
wheel says, a worker is run on it, modes are set, and one rename gives it its name. A staging folder is never taken up
again: an environment that was left half installed looks complete to uv. A package that is damaged in uv's cache is
fetched again.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rootstock import __version__
from rootstock.builds.bytecode import KEPT, compile_bytecode
from rootstock.builds.installed import Installed, accelerator_of, check_records, with_whole_packages
from rootstock.builds.lock_scope import read_lock
from rootstock.builds.locking import lock_text
from rootstock.builds.package_cache import DamagedPackagesError, holders, shares_files
from rootstock.builds.plan import LOCK, RECIPE, BuildPlan
from rootstock.builds.sbom import bill_of_materials, installed_files
from rootstock.builds.subprocesses import short_of_space
from rootstock.builds.uv import Uv
from rootstock.builds.variables import clean_variables
from rootstock.config.site import Site
from rootstock.errors import BuildError, SiteError
from rootstock.root.checksums import Contents, read_contents
from rootstock.root.layout import STAGING
from rootstock.root.lock import Report
from rootstock.root.managed_files import sha256
from rootstock.root.permissions import Access, may_remove, remove_tree
from rootstock.root.records import (
    BUILD_RECORD,
    BUILD_SOURCE,
    SBOM,
    BuildRecord,
    now,
    point,
    read_build,
    user_name,
    write_file,
)
from rootstock.root.weights_file import WeightsFile

_Bundled = Mapping[str, tuple[WeightsFile, ...]]


@dataclass(frozen=True)
class Staged:
    """A build that is installed and checked, and not published yet.

    Attributes
    ----------
    plan : BuildPlan
    lock : str
    build : Path
        Where it will be.
    folder : Path or None
        Where it is; None: it is published already, from an earlier time.
    """

    plan: BuildPlan
    lock: str
    build: Path
    folder: Path | None
    contents: Contents = field(default_factory=lambda: Contents({}, {}, 0, 0))
    installed: Installed = field(default_factory=lambda: Installed(0, {}))

    def discard(self) -> None:
        """Remove what was not published."""
        if self.folder is not None:
            remove_tree(self.folder)


def stage(site: Site, plan: BuildPlan, uv: Uv, *, report: Report) -> Staged:
    """Lock and install what a plan describes, and check every file.

    Parameters
    ----------
    site : Site
    plan : BuildPlan
    uv : Uv
        If it fetches nothing, the lock must fit as it is.
    report : callable
        Is given a line for each step.

    Raises
    ------
    BuildError
        If uv fails, or installs other files than the wheels hold. Nothing is left then.
    """
    folder = site.layout.builds(plan.name)
    site.access.make_folder(folder)
    lock = plan.lock
    if lock is None:
        report("locking")
        with _full_file_system_named(folder):
            lock = lock_text(plan, folder, uv)
    build = site.layout.build(plan.name, plan.digest(lock))
    if read_build(build) is not None:
        return Staged(plan, lock, build, None)
    return stage_locked(site, plan, lock, build, uv, report=report)


def stage_locked(site: Site, plan: BuildPlan, lock: str, build: Path, uv: Uv, *, report: Report) -> Staged:
    """Install what a lock says, and check every file.

    Parameters
    ----------
    site, plan, uv, report
        As for `stage`.
    lock : str
    build : Path
        Where the build will be.

    Raises
    ------
    BuildError
        As `stage` does.
    """
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=build.parent))
    link = shares_files(uv.cache, site.layout.root, staging)

    def install(fetched: Container[str]) -> tuple[Contents, Installed]:
        report("installing")
        remove_tree(staging)
        staging.mkdir(mode=0o700)
        known = _install(plan, lock, staging, uv, link=link)
        report("checking files")
        contents = read_contents(staging)
        installed = check_records(staging, contents, known.hashes)
        # Of a package that was just fetched, they are its own.
        strange = {name: f"{path} is in no wheel's RECORD"
                   for path in installed.others for name in holders(uv.cache, path) if name not in fetched}  # fmt: skip
        if strange:
            raise DamagedPackagesError(strange)
        return contents, installed

    try:
        with _full_file_system_named(build.parent):
            contents, installed = with_whole_packages(install, uv, report)
            return _finish(site, Staged(plan, lock, build, staging, contents, installed), uv, report)
    except BaseException:
        remove_tree(staging)
        raise


def _finish(site: Site, staged: Staged, uv: Uv, report: Report) -> Staged:
    """Compile what was installed, and say in the build what it is made from."""
    plan, staging = staged.plan, staged.folder
    assert staging is not None
    report("compiling")
    kept = uv.cache / KEPT
    if uv.cache == site.layout.uv_cache:
        site.access.make_folder(kept, private=True)
    else:  # the admin's own, whoever else is an admin of this root
        kept.mkdir(mode=0o700, exist_ok=True)
    contents = compile_bytecode(
        staging, staged.contents, clean_variables(), umask=uv.umask, programs=uv.programs, log=uv.log, kept=kept
    )
    uv.export(staging / RECIPE, staging / SBOM, plan.interpreter.path, "cyclonedx1.5")
    exported = json.loads((staging / SBOM).read_bytes())
    materials = bill_of_materials(exported, plan.name, staged.build.name, staged.installed.packages)
    (staging / SBOM).write_text(json.dumps(materials, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if plan.source is not None:
        (staging / BUILD_SOURCE).write_text(plan.source.text, encoding="utf-8")
    return replace(staged, contents=contents)


@contextmanager
def _full_file_system_named(folder: Path) -> Iterator[None]:
    """Say that a file system is full: uv has other names for it, such as that a lock file is missing."""
    try:
        yield
    except BuildError as error:
        if error.hint or not (hint := short_of_space(folder)):
            raise
        raise SiteError(error.message, hint) from error


def publish(staged: Staged, access: Access, checks: list[dict[str, Any]], bundled: _Bundled) -> Path:
    """Give a build its name, and point its link to it.

    Parameters
    ----------
    staged : Staged
        After an error, `Staged.discard` removes it.
    access : Access
        Who may read it.
    checks : list of dict
        Results of the build's verification.
    bundled : mapping
        By model, the weights in its packages that verification has seen.

    Returns
    -------
    Path
        The build's folder.
    """
    plan, folder = staged.plan, staged.folder
    if folder is not None:
        write_record(staged, checks, bundled)
        access.make_immutable(folder)
        folder.rename(staged.build)
    if read_lock(plan.lock_file) != staged.lock.encode():
        write_file(plan.lock_file, staged.lock.encode(), access.file)
    point(plan.link, staged.build)
    return staged.build


def write_record(staged: Staged, checks: list[dict[str, Any]], bundled: _Bundled) -> None:
    """Write into a build what it holds, and what it was made from.

    Parameters
    ----------
    staged : Staged
    checks : list of dict
        Results of its verification.
    bundled
        As for `publish`.
    """
    assert staged.folder is not None
    # Among the rest are what libraries leave in their own folder when they first run.
    contents = read_contents(staged.folder, staged.contents)
    record = _record(staged, contents, contents.write(staged.folder), checks, bundled)
    (staged.folder / BUILD_RECORD).write_text(record.to_json(), encoding="utf-8")


def remove_leftovers(site: Site, plan: BuildPlan) -> None:
    """Remove what builds that were cut off have left behind, before any is begun; what another admin's left is theirs.

    Parameters
    ----------
    site : Site
    plan : BuildPlan
        Of the same environment.
    """
    for leftover in filter(may_remove, site.layout.builds(plan.name).glob(f"{STAGING}*")):
        remove_tree(leftover)
    for path in (plan.link, plan.lock_file):
        for leftover in path.parent.glob(f".{path.name}.*"):
            leftover.unlink(missing_ok=True)


def _install(plan: BuildPlan, lock: str, staging: Path, uv: Uv, *, link: bool) -> Contents:
    """Install packages, and return what else is there."""
    uv.make_environment(staging, plan.interpreter.path)
    (staging / RECIPE).write_text(plan.recipe, encoding="utf-8")
    (staging / LOCK).write_text(lock, encoding="utf-8")
    before = read_contents(staging)
    uv.sync(staging / RECIPE, staging, plan.interpreter.path, link=link)
    # uv's lock file, writable by everybody; nobody is to change this environment again.
    (staging / ".lock").unlink(missing_ok=True)
    return before


def _record(
    staged: Staged, contents: Contents, files_sha256: str, checks: list[dict[str, Any]], bundled: _Bundled
) -> BuildRecord:
    plan, packages = staged.plan, staged.installed.packages
    return BuildRecord(
        name=plan.name,
        digest=staged.build.name,
        lock_sha256=sha256(staged.lock.encode()),
        rootstock=__version__,
        packages=packages,
        files=staged.installed.files,
        bytes=contents.bytes,
        inodes=contents.inodes,
        sources=installed_files(staged.lock, plan.interpreter.version, packages),
        built_by=user_name(),
        built_on=platform.node(),
        built_at=now(),
        verification=checks,
        bundled=dict(bundled),
        header=plan.source.summary() if plan.source else {},
        files_sha256=files_sha256,
        links=contents.links,
        serves=accelerator_of(staged.folder, packages, plan.accelerator) if staged.folder else "",
        **plan.inputs,
    )
