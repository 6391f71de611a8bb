"""Which mode and group everything under a root has: one list of rules, for plans, for changes, and for `doctor`."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rootstock.errors import RootError
from rootstock.root.layout import STAGING, RootLayout
from rootstock.root.lock import LOCK_MODE, Report
from rootstock.root.permissions import Access
from rootstock.root.reachability import cause, user_of
from rootstock.root.records import is_half_written
from rootstock.root.signals import held

_SHOWN = 5
_Entry = tuple[str, os.stat_result]
_Rule = Callable[[Access, int], int]  # the mode of what has that mode and kind now


@dataclass(frozen=True)
class ModeChange:
    """A folder that is to be created (`old` is None), or what is to get another mode or group.

    Attributes
    ----------
    path : Path
    old : int or None
    new : int
    uid : int
        Whom it belongs to; -1 for what is to be created.
    link : bool
        Whether it is a symbolic link, which gets the group only.
    """

    path: Path
    old: int | None
    new: int
    uid: int = -1
    link: bool = False

    @property
    def allowed(self) -> bool:
        """Whether the caller may do it."""
        return self.old is None or os.geteuid() in (0, self.uid)

    def describe(self, root: Path) -> str:
        """Say in a line what is to be done."""
        name = "the root" if self.path == root else self.path.relative_to(root).as_posix()
        if self.old is None:
            return f"create {name} with mode {self.new:04o}"
        if self.old == self.new:
            return f"change the group of {name}"
        return f"change the mode of {name} from {self.old:04o} to {self.new:04o}"

    def to_json(self, root: Path) -> dict[str, Any]:
        """Return what `describe` says for programs."""
        old = None if self.old is None else f"{self.old:04o}"
        return {"path": self.path.relative_to(root).as_posix(), "old": old, "new": f"{self.new:04o}"}


def _shown(access: Access, mode: int) -> int:
    return access.folder if stat.S_ISDIR(mode) else access.file


def _logged(access: Access, mode: int) -> int:
    return access.admin_folder if stat.S_ISDIR(mode) else access.admin_file


def _locked(access: Access, mode: int) -> int:
    return access.admin_folder if stat.S_ISDIR(mode) else LOCK_MODE


def _programs(access: Access, mode: int) -> int:
    return access.for_admins(mode, programs=True)


def modes_needed(layout: RootLayout, access: Access, *, everything: bool = False) -> Iterator[ModeChange]:
    """Find what under a root has another mode or group than its access says, folders before what they hold.

    What a build that was cut off has left is of no use to anybody, and interpreters that an admin put there are theirs.

    Parameters
    ----------
    layout : RootLayout
    access : Access
        Where it names no group and depends on one, that of the root's folder is meant.
    everything : bool
        Whether to look into all builds, interpreters and caches, and not only into those with a wrong mode themselves:
        that may be hundreds of thousands of files.

    Yields
    ------
    ModeChange
    """
    access = _with_group(layout, access)
    for folder in layout.folders():
        mode = access.admin_folder if folder in layout.admin_folders() else access.at(folder, layout).folder
        try:
            status = os.stat(folder)
        except FileNotFoundError:
            yield ModeChange(folder, None, mode)
            continue
        if change := _needed(access, folder, status, mode):
            yield change
    folders = {str(folder) for folder in layout.folders()}
    for rule, entries in _entries(layout, access, everything):
        for path, status in entries:
            if path not in folders:
                there = access.at(Path(path), layout) if rule is _shown else access
                change = _needed(access, path, status, rule(there, status.st_mode))
                if change and (change.allowed or not change.link):  # a link keeps nobody from anything
                    yield change


def _with_group(layout: RootLayout, access: Access) -> Access:
    """Return the access with the group that it leaves to the root's folder."""
    if access.gid != -1 or not (access.shared or access.readers == "group"):
        return access
    try:
        gid = os.stat(layout.root).st_gid
    except OSError:
        return access
    return replace(access, gid=gid) if os.geteuid() == 0 or gid in (os.getegid(), *os.getgroups()) else access


def _needed(access: Access, path: str | Path, status: os.stat_result, mode: int) -> ModeChange | None:
    old, link = stat.S_IMODE(status.st_mode), stat.S_ISLNK(status.st_mode)
    new = old if link else mode
    same = old == new and access.gid in (-1, status.st_gid)
    return None if same else ModeChange(Path(path), old, new, status.st_uid, link)


def _entries(layout: RootLayout, access: Access, everything: bool) -> Iterator[tuple[_Rule, Iterable[_Entry]]]:
    files = (layout.marker, layout.clusters_file)
    yield _shown, (entry for entry in _inside(layout.root) if Path(entry[0]) in files)
    for folder in (
        layout.environments, layout.runtimes, layout.all_weights, layout.all_verifications, layout.modulepath,
        layout.activations, layout.generations, layout.all_active, layout.clients, layout.aside,
    ):  # fmt: skip
        yield _shown, _below(folder, half_written=False)
    yield _locked, _inside(layout.locks, half_written=False)
    yield _logged, _inside(layout.log)
    yield Access.for_admins, (*_itself(layout.templates), *_below(layout.templates))
    yield _programs, (*_itself(layout.hooks), *_below(layout.hooks))
    trees: list[tuple[_Rule, _Entry]] = [(Access.for_admins, entry) for entry in _inside(layout.uv_cache)]
    for name in _inside(layout.all_builds):
        yield _shown, [name]
        trees += [(Access.sealed, build) for build in _inside(name[0])]
    for python in _inside(layout.python):
        if layout.interpreter_record(os.path.basename(python[0])).exists():
            trees.append((Access.sealed, python))
    trees += [(Access.downloaded, cache) for cache in _inside(layout.cache) if cache[0] != str(layout.uv_cache)]
    for rule, (path, status) in trees:
        yield rule, [(path, status)]
        # What is wrong at the top is wrong below.
        if everything or _needed(access, path, status, rule(access, status.st_mode)):
            yield rule, _below(path) if stat.S_ISDIR(status.st_mode) else ()


def _itself(path: Path) -> list[_Entry]:
    with contextlib.suppress(OSError):
        return [(str(path), os.lstat(path))]
    return []


def _inside(folder: str | Path, *, half_written: bool = True) -> Iterator[_Entry]:
    """Yield what lies in a folder, but for what is not finished; nothing, if the caller may not look."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(STAGING) and (half_written or not is_half_written(entry.name)):
            with contextlib.suppress(FileNotFoundError):
                yield entry.path, entry.stat(follow_symlinks=False)


def _below(folder: str | Path, *, half_written: bool = True) -> Iterator[_Entry]:
    for path, status in _inside(folder, half_written=half_written):
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            yield from _below(path, half_written=half_written)


def describe_foreign(changes: Sequence[ModeChange]) -> Iterator[str]:
    """Say which files have other modes than they should, and who can mend that.

    Parameters
    ----------
    changes : sequence of ModeChange
    """
    for change in changes[:_SHOWN]:
        other = f"mode {change.old:04o}, not {change.new:04o}" if change.old != change.new else "another group"
        yield f"{change.path} has {other}: {user_of(change.uid)} can change that"
    if len(changes) > _SHOWN:
        yield f"and so for {len(changes) - _SHOWN} more files and folders"


def refuse_foreign(layout: RootLayout, changes: Iterable[ModeChange]) -> None:
    """Check that the caller may make changes of modes, all of them.

    Parameters
    ----------
    layout : RootLayout
    changes : iterable of ModeChange

    Raises
    ------
    RootError
        If files belong to others. It names the first, how many there are, and what root can do about it.
    """
    foreign = [change for change in changes if not change.allowed]
    if not foreign:
        return
    first, root, holder = foreign[0], layout.root, os.stat(layout.root).st_uid
    hint = f"Let root give you all of it: chown -hR {user_of(holder)} {root}   Then run the same command again."
    hint = hint if os.geteuid() == holder else f"Do this as {user_of(holder)}, who owns the root."
    more = f", and {len(foreign) - 1} more files or folders are not yours" if foreign[1:] else ""
    raise RootError(
        f"The access to {root} cannot be changed: {first.path} belongs to {user_of(first.uid)}{more}. Its owner alone "
        "can change its mode. Nothing was changed.",
        hint,
    )


@contextlib.contextmanager
def modes_changed(layout: RootLayout, access: Access, changes: Iterable[ModeChange], log: Report) -> Iterator[None]:
    """Change modes and groups; if one cannot be changed, or the block fails, all are as they were.

    Parameters
    ----------
    layout : RootLayout
    access : Access
    changes : iterable of ModeChange
    log : callable
        Is given a line for each.

    Raises
    ------
    RootError
        If the system refuses one.
    """
    access = _with_group(layout, access)
    done: list[tuple[ModeChange, os.stat_result | None]] = []
    try:
        for change in changes:
            try:
                _apply(access, change, done)
            except FileNotFoundError:  # gone meanwhile
                continue
            except OSError as error:
                raise RootError(
                    f"Cannot change the mode or the group of {change.path}: {cause(error)}.",
                    f"Look at: lsattr -d {change.path}; findmnt -T {change.path}. Then run the same command again.",
                ) from error
            log(f"mode {change.new:04o} of {change.path}")
        yield
    except BaseException as error:
        with held():
            left = [change.path for change, status in reversed(done) if not _undone(change, status, log)]
        if isinstance(error, RootError):
            state = f"{left[0]} and perhaps others could not be put back" if left else "All modes are as they were"
            raise RootError(f"{error.message} {state}.", error.hint) from error
        raise


def _apply(access: Access, change: ModeChange, done: list[tuple[ModeChange, os.stat_result | None]]) -> None:
    if change.old is None:
        if not change.path.is_dir():
            done.append((change, None))
            change.path.mkdir(mode=0o700)
        access.set_mode(change.path, change.new)
        return
    status = os.lstat(change.path) if change.link else os.stat(change.path)
    done.append((change, status))
    access.set_mode(change.path, change.new, status)


def _undone(change: ModeChange, status: os.stat_result | None, log: Report) -> bool:
    """Take a change back; tell whether that went well."""
    try:
        if status is None:
            change.path.rmdir()
            return True
        os.chown(change.path, -1, status.st_gid, follow_symlinks=not change.link)
        if not change.link:
            os.chmod(change.path, stat.S_IMODE(status.st_mode))
    except OSError as error:
        if os.lstat(change.path).st_mode == (status or os.lstat(change.path)).st_mode:
            return True
        log(f"{change.path} is not as it was: {cause(error)}")
        return False
    return True
