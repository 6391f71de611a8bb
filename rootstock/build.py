"""Make builds: immutable environments, named by their content.

A build comes about in a staging folder beside its final place: uv installs it, every file is checked against what its
wheel says, a worker is run on it, modes are set, and one rename gives it its name. A staging folder is never taken up
again: an environment that was left half installed looks complete to uv.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from rootstock import __version__
from rootstock.access import Access, remove_tree
from rootstock.clusters import Cluster
from rootstock.errors import BuildError
from rootstock.integrity import SUMS, Contents, Installed, check_records, read_contents
from rootstock.interpreters import Interpreter, find_interpreter
from rootstock.layout import STAGING, RootLayout
from rootstock.records import (
    BUILD_RECORD,
    BUILD_SOURCE,
    BuildRecord,
    active_build,
    now,
    point,
    read_build,
    user_name,
    write_file,
)
from rootstock.sources import EnvironmentSource
from rootstock.uv import Uv, recipe_text, uv_version

_RECIPE, _LOCK = "recipe.py", "recipe.py.lock"
_LITTLE_SPACE, _FEW_FILES = 2**20, 100  # what is left of a file system when hardly anything can be installed any more

Report = Callable[[str], None]
Verify = Callable[[Path], list[dict[str, Any]]]


@dataclass(frozen=True)
class BuildPlan:
    """A build that is to be made.

    Attributes
    ----------
    name : str
        Name of the environment.
    source : EnvironmentSource or None
        Its file; None for the client's environment, which has none.
    recipe : str
        What uv locks and installs.
    interpreter : Interpreter
    platform, accelerator : str
        What the build is for.
    link, lock_file : Path
        What points to the build in use, and where its lock is kept.
    reason : str
        Why it is to be made.
    """

    name: str
    source: EnvironmentSource | None
    recipe: str
    interpreter: Interpreter
    platform: str
    accelerator: str
    link: Path
    lock_file: Path
    reason: str = ""

    @property
    def inputs(self) -> dict[str, str]:
        """What the build is made from, except for the lock."""
        return {
            "source_sha256": self.source.sha256 if self.source else "",
            "recipe_sha256": _sha256(self.recipe.encode()),
            "interpreter": self.interpreter.path,
            "python": self.interpreter.version,
            "platform": self.platform,
            "accelerator": self.accelerator,
            "uv": uv_version(),
        }

    def digest(self, lock: str) -> str:
        """Return the name of the build."""
        content = {**self.inputs, "lock_sha256": _sha256(lock.encode())}
        return _sha256(json.dumps(content, sort_keys=True).encode())[:16]


def plan_environment(
    layout: RootLayout, cluster: Cluster, source: EnvironmentSource, own: Sequence[Interpreter] = ()
) -> BuildPlan | None:
    """Return how to bring an environment's active build up to date; None if it is.

    Parameters
    ----------
    layout, cluster, source
    own : sequence of Interpreter
        The root's interpreters.
    """
    return _plan(cluster, own, source.name, source, source.header, layout.active(source.name),
                 layout.lock_file(source.name))  # fmt: skip


def plan_client(
    layout: RootLayout, cluster: Cluster, wheel: Path, wheel_sha256: str, own: Sequence[Interpreter] = ()
) -> BuildPlan | None:
    """Return how to bring this version's client environment up to date; None if it is.

    Parameters
    ----------
    layout, cluster
    wheel : Path
        Our wheel in the root.
    wheel_sha256 : str
        Its hash: the same version can be another build of a checkout.
    own : sequence of Interpreter
        The root's interpreters.
    """
    header = {
        "requires-python": ">=3.11",
        "dependencies": [f"rootstock=={__version__}"],
        "tool": {
            "uv": {"sources": {"rootstock": {"path": str(wheel)}}},
            "rootstock-client": {"wheel-sha256": wheel_sha256},
        },
    }
    return _plan(cluster, own, CLIENT, None, header, layout.client(__version__), client_lock(layout))


def client_lock(layout: RootLayout) -> Path:
    """Return where the lock of this version's client environment is kept."""
    return layout.runtime(__version__) / "client.lock"


CLIENT = "rootstock-client"  # the folder under builds/ for the client's environments


def _plan(
    cluster: Cluster,
    own: Sequence[Interpreter],
    name: str,
    source: EnvironmentSource | None,
    header: Any,
    link: Path,
    lock_file: Path,
) -> BuildPlan | None:
    requires = SpecifierSet(header.get("requires-python", ""))
    interpreter = find_interpreter(requires, cluster.interpreter, cluster.readers, own)
    plan = BuildPlan(name, source, recipe_text(header, cluster), interpreter, platform.machine(), cluster.accelerator,
                     link, lock_file)  # fmt: skip
    reason = _difference(plan, active_build(link))
    return replace(plan, reason=reason) if reason else None


def _difference(plan: BuildPlan, active: Path | None) -> str:
    """Say why the active build is not what `plan` would make; empty if it is."""
    record = read_build(active) if active else None
    if record is None:
        return "not built yet"
    names = {"source_sha256": "environment file", "recipe_sha256": "requirements"}
    for key, value in plan.inputs.items():
        if getattr(record, key) != value:
            return f"{names.get(key, key)} changed"
    if not plan.lock_file.is_file() or _sha256(plan.lock_file.read_bytes()) != record.lock_sha256:
        return "lock changed"
    return ""


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
        lock = _make_lock(plan, staging, uv)
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


def _make_lock(plan: BuildPlan, staging: Path, uv: Uv) -> str:
    with tempfile.TemporaryDirectory(prefix=STAGING, dir=staging.parent) as folder:
        recipe, lock = Path(folder, _RECIPE), Path(folder, _LOCK)
        recipe.write_text(plan.recipe, encoding="utf-8")
        if plan.lock_file.is_file():
            lock.write_bytes(plan.lock_file.read_bytes())
        # Our wheel can change under the same version and path: its hash is not to be kept.
        uv.lock(recipe, plan.interpreter.path, renew=() if plan.source or uv.wheels else ("rootstock",))
        return lock.read_text(encoding="utf-8")


def _install(plan: BuildPlan, lock: str, staging: Path, uv: Uv) -> None:
    uv.make_environment(staging, plan.interpreter.path)
    (staging / _RECIPE).write_text(plan.recipe, encoding="utf-8")
    (staging / _LOCK).write_text(lock, encoding="utf-8")
    uv.sync(staging / _RECIPE, staging, plan.interpreter.path)
    # uv's lock file, writable by everybody; nobody is to change this environment again.
    (staging / ".lock").unlink(missing_ok=True)


def _record(
    plan: BuildPlan, lock: str, digest: str, installed: Installed, contents: Contents, checks: list[dict[str, Any]]
) -> BuildRecord:
    return BuildRecord(
        name=plan.name,
        digest=digest,
        lock_sha256=_sha256(lock.encode()),
        rootstock=__version__,
        packages=installed.packages,
        files=installed.files,
        bytes=installed.bytes,
        built_by=user_name(),
        built_on=platform.node(),
        built_at=now(),
        verification=checks,
        files_sha256=_sha256(contents.text().encode("utf-8", "surrogateescape")),
        links=contents.links,
        header=plan.source.summary() if plan.source else {},
        **plan.inputs,
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
