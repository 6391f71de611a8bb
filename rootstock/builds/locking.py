"""Lock the requirements of a build: what its lock says is kept for as long as that fits."""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from rootstock.builds.installed import with_whole_packages
from rootstock.builds.lock_scope import made_anew, plain, read_lock, scope_of
from rootstock.builds.package_cache import DamagedPackagesError
from rootstock.builds.plan import LOCK, RECIPE, BuildPlan
from rootstock.builds.subprocesses import NoRoomError
from rootstock.builds.uv import Uv
from rootstock.errors import BuildError, RootstockError, SiteError
from rootstock.root.layout import STAGING

_UV_LOCK = "`uv.lock`"
_WORKING = "rootstock-uv-"
_ELSEWHERE = "uv works there before anything is written. Name a folder with room: TMPDIR=/path rootstock-site ..."


def lock_text(
    plan: BuildPlan,
    folder: Path,
    uv: Uv,
    upgrade: Sequence[str] = (),
    locks: Mapping[Path, bytes] = MappingProxyType({}),
    wheel: tuple[Path, bytes] | None = None,
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
    locks : mapping of Path to bytes
        What lock files are about to hold, if that is not what they hold now.
    wheel : tuple of Path and bytes, optional
        Where our own wheel is about to be, and what it holds.

    Raises
    ------
    BuildError
        If the requirements cannot be met.
    RootError
        If the lock that is kept cannot be read.
    SiteError
        If the file system is full.
    """
    with tempfile.TemporaryDirectory(prefix=STAGING, dir=folder) as scratch:
        recipe, lock = Path(scratch, RECIPE), Path(scratch, LOCK)
        moved = _moved(plan, wheel, Path(scratch))
        recipe.write_text(_replaced(plan.recipe, moved), encoding="utf-8")
        kept, content = _kept(plan, locks)
        if kept is not None:
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
            except NoRoomError as error:
                if not uv.cache.is_relative_to(folder):
                    raise
                raise SiteError(error.message, _ELSEWHERE) from error
        return _replaced(lock.read_text(encoding="utf-8"), {new: old for old, new in moved.items()})


def _kept(plan: BuildPlan, locks: Mapping[Path, bytes]) -> tuple[Path | None, bytes]:
    """Return the lock to begin with, and where it is or will be."""
    for path in filter(None, (plan.lock_file, plan.seed)):
        content = locks[path] if path in locks else read_lock(path)
        if content is not None:
            return path, content
    return None, b""


def _moved(plan: BuildPlan, wheel: tuple[Path, bytes] | None, folder: Path) -> dict[str, str]:
    """Put our wheel, if the recipe names it, into a folder, and return that path for the one where it will be."""
    if wheel is None or quoted(wheel[0]) not in plan.recipe:
        return {}
    path, content = wheel
    (folder / path.name).write_bytes(content)
    return {quoted(path): quoted(folder / path.name)}


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
            remedy = made_anew(path)
        elif not scope_of(text):
            remedy = (
                f"{path} is for every platform and Python. Lock for those of the root: rootstock-site lock --upgrade"
            )
        raise BuildError(message, remedy) from error
