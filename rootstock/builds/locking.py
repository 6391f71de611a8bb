"""Lock the requirements of a build: what its lock says is kept for as long as that fits."""

from __future__ import annotations

import errno
import json
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from rootstock.builds.installed import with_whole_packages
from rootstock.builds.lock_scope import plain, scope_of
from rootstock.builds.package_cache import DamagedPackagesError
from rootstock.builds.plan import LOCK, RECIPE, BuildPlan
from rootstock.builds.uv import Uv
from rootstock.errors import BuildError, RootstockError, SiteError
from rootstock.root.layout import STAGING
from rootstock.root.plain_files import RECORD_LIMIT, read_bytes

_UV_LOCK = "`uv.lock`"
_WORKING = "rootstock-uv-"
_ELSEWHERE = "uv works there before anything is written. Name a folder with room: TMPDIR=/path rootstock-site ..."


def lock_text(
    plan: BuildPlan,
    folder: Path,
    uv: Uv,
    upgrade: Sequence[str] = (),
    files: Mapping[Path, bytes | None] = MappingProxyType({}),
) -> str:
    """Return the lock that a plan's recipe has now: the one that is kept, with what no longer fits resolved anew.

    Parameters
    ----------
    plan : BuildPlan
    folder : Path
        For uv to work in.
    uv : Uv
    upgrade : sequence of str
        Packages to resolve anew though they fit; ``*`` is all of them.
    files : mapping of Path to bytes or None
        What files are about to hold, if that is not what they hold now.

    Raises
    ------
    BuildError
        If the requirements cannot be met.
    """
    with tempfile.TemporaryDirectory(prefix=STAGING, dir=folder) as scratch:
        recipe, lock = Path(scratch, RECIPE), Path(scratch, LOCK)
        moved = _moved(plan, files, Path(scratch))
        recipe.write_text(_replaced(plan.recipe, moved), encoding="utf-8")
        candidates = [path for path in (plan.lock_file, plan.seed) if path]
        kept = next((path for path in candidates if files.get(path) is not None or path.is_file()), None)
        if kept is not None:
            content = files.get(kept)
            content = read_bytes(kept, RECORD_LIMIT) if content is None else content
            lock.write_bytes(
                _replaced(content.decode(errors="surrogateescape"), moved).encode(errors="surrogateescape")
            )
        # Our wheel can change under the same version and path: its hash is not to be kept.
        renew = () if plan.source or uv.wheels else ("rootstock",)
        names = (*renew, *upgrade)
        before = lock.read_text(encoding="utf-8", errors="replace") if kept else ""
        with _lock_named(lock, _origin(plan, kept), before):
            try:
                with_whole_packages(lambda _: uv.lock(recipe, plan.interpreter.path, renew=names), uv, uv.log)
            except SiteError as error:
                if isinstance(error, BuildError) or not folder.name.startswith(_WORKING):
                    raise
                raise SiteError(error.message, _ELSEWHERE) from error
        return _replaced(lock.read_text(encoding="utf-8"), {new: old for old, new in moved.items()})


def _moved(plan: BuildPlan, files: Mapping[Path, bytes | None], folder: Path) -> dict[str, str]:
    """Put what a recipe names and is yet to be written into a folder, and return that path for the other one."""
    moved = {}
    for path, content in files.items():
        if content is not None and quoted(path) in plan.recipe:
            (folder / path.name).write_bytes(content)
            moved[quoted(path)] = quoted(folder / path.name)
    return moved


def _replaced(text: str, paths: Mapping[str, str]) -> str:
    for old, new in paths.items():
        text = text.replace(old, new)
    return text


def quoted(path: Path) -> str:
    """Return a path as it stands in a string of a recipe or a lock."""
    return json.dumps(str(path), ensure_ascii=False)[1:-1]


def _origin(plan: BuildPlan, kept: Path | None) -> Path | None:
    """Return where the lock that is kept lies: in the root, or yet beside an environment file."""
    beside = plan.source and kept and plan.source.path.with_name(kept.name)
    return beside if kept and beside and beside.is_file() and not kept.is_file() else kept


@contextmanager
def working_folder() -> Iterator[Path]:
    """Yield a folder outside of the root for uv to work in.

    Raises
    ------
    SiteError
        If it is full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=_WORKING) as folder:
            yield Path(folder)
    except OSError as error:
        if isinstance(error, RootstockError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SiteError(f"Cannot write in {tempfile.gettempdir()}: {error.strerror}.", _ELSEWHERE) from error


@contextmanager
def _lock_named(lock: Path, path: Path | None, text: str) -> Iterator[None]:
    """Say which lock uv could not read (it calls all the same), or could not keep because it is for too much."""
    try:
        yield
    except BuildError as error:
        if isinstance(error, DamagedPackagesError):
            raise
        said, remedy = plain(error.message), ""
        if path is None:
            raise BuildError(said) from error
        message = said.replace(_UV_LOCK, str(path)).replace(str(lock), str(path))
        if message != said:
            remedy = f"To have it made anew, remove it: rm {shlex.quote(str(path))}"
        elif not scope_of(text):
            remedy = (
                f"{path} is for every platform and Python. Lock for those of the root: rootstock-site lock --upgrade"
            )
        raise BuildError(message, remedy) from error
