"""Make builds: immutable environments, named by their content.

A build comes about in a staging folder beside its final place: uv installs it, every file is checked against what its
wheel says, a worker is run on it, modes are set, and one rename gives it its name. A staging folder is never taken up
again: an environment that was left half installed looks complete to uv.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rootstock import __version__
from rootstock.access import Access, remove_tree
from rootstock.errors import BuildError
from rootstock.integrity import SUMS, Contents, Installed, check_records, read_contents
from rootstock.layout import STAGING, RootLayout
from rootstock.recipes import LOCK, RECIPE, BuildPlan, lock_text, sha256
from rootstock.records import (
    BUILD_RECORD,
    BUILD_SOURCE,
    BuildRecord,
    now,
    point,
    read_build,
    user_name,
    write_file,
)
from rootstock.uv import Uv

_LITTLE_SPACE, _FEW_FILES = 2**20, 100  # what is left of a file system when hardly anything can be installed any more

Report = Callable[[str], None]
Verify = Callable[[Path], list[dict[str, Any]]]


def make_build(
    plan: BuildPlan,
    layout: RootLayout,
    access: Access,
    cache: Path,
    *,
    report: Report,
    log: Report,
    verify: Verify,
    wheels: Path | None = None,
) -> Path:
    """Make the build that `plan` describes and point its link to it.

    Parameters
    ----------
    plan : BuildPlan
    layout : RootLayout
    access : Access
        Who may read it.
    cache : Path
        uv's.
    report, log : callable
        Are given a line for each step, and every line that uv prints.
    verify : callable
        Is given the folder of the finished build, before it is published, and returns what it checked; raises if the
        build is not fit for use.
    wheels : Path, optional
        A folder with every package that the lock asks for. Nothing is fetched then, and the lock must fit as it is.

    Returns
    -------
    Path
        The build's folder.

    Raises
    ------
    BuildError
        If uv fails, or installs other files than the wheels hold.
    """
    uv = Uv(cache, log, access.admin_umask, wheels)
    folder = layout.builds(plan.name)
    access.make_folder(folder)
    _remove_leftovers(plan, folder)
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
    try:
        report("locking")
        lock = lock_text(plan, folder, uv)
        build = layout.build(plan.name, plan.digest(lock))
        if read_build(build) is None:
            report("installing")
            _install(plan, lock, staging, uv)
            if plan.source is not None:
                (staging / BUILD_SOURCE).write_text(plan.source.text, encoding="utf-8")
            report("checking files")
            contents = read_contents(staging)
            installed = check_records(staging, contents)
            checks = verify(staging)
            # Libraries that compile when they first run may leave something in their own folder.
            contents = read_contents(staging, contents)
            (staging / SUMS).write_text(contents.text(), encoding="utf-8", errors="surrogateescape")
            record = _record(plan, lock, build.name, installed, contents, checks)
            (staging / BUILD_RECORD).write_text(record.to_json(), encoding="utf-8")
            access.seal(staging)
            staging.rename(build)
        if not plan.lock_file.is_file() or plan.lock_file.read_text(encoding="utf-8") != lock:
            write_file(plan.lock_file, lock.encode(), access.file)
        point(plan.link, build)
        return build
    except BuildError as error:
        # uv has other names for a full file system, such as that a lock file is missing.
        if not error.hint and (hint := _short_of_space(folder)):
            raise BuildError(error.message, hint) from error
        raise
    finally:
        remove_tree(staging)


def _remove_leftovers(plan: BuildPlan, folder: Path) -> None:
    """Remove what builds that were cut off have left behind."""
    for leftover in folder.glob(f"{STAGING}*"):
        remove_tree(leftover)
    for path in (plan.link, plan.lock_file):
        for leftover in path.parent.glob(f".{path.name}.*"):
            leftover.unlink(missing_ok=True)


def _short_of_space(folder: Path) -> str:
    """Say how little is left on a file system that is as good as full; empty if it is not."""
    status = os.statvfs(folder)
    left, files = status.f_bavail * status.f_frsize, status.f_favail
    if left > _LITTLE_SPACE and (files > _FEW_FILES or not status.f_files):
        return ""
    return f"The file system of {folder} is nearly full: it has room for {left / 1e6:.1f} MB and {files} files."


def _install(plan: BuildPlan, lock: str, staging: Path, uv: Uv) -> None:
    uv.make_environment(staging, plan.interpreter.path)
    (staging / RECIPE).write_text(plan.recipe, encoding="utf-8")
    (staging / LOCK).write_text(lock, encoding="utf-8")
    uv.sync(staging / RECIPE, staging, plan.interpreter.path)
    # uv's lock file, writable by everybody; nobody is to change this environment again.
    (staging / ".lock").unlink(missing_ok=True)


def _record(
    plan: BuildPlan, lock: str, digest: str, installed: Installed, contents: Contents, checks: list[dict[str, Any]]
) -> BuildRecord:
    return BuildRecord(
        name=plan.name,
        digest=digest,
        lock_sha256=sha256(lock.encode()),
        rootstock=__version__,
        packages=installed.packages,
        files=installed.files,
        bytes=installed.bytes,
        built_by=user_name(),
        built_on=platform.node(),
        built_at=now(),
        verification=checks,
        files_sha256=sha256(contents.text().encode("utf-8", "surrogateescape")),
        links=contents.links,
        header=plan.source.summary() if plan.source else {},
        **plan.inputs,
    )
