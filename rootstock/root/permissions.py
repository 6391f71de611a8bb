"""Who may do what under a root: modes are set explicitly, whatever the admin's umask is.

There are readers (everybody, a group, or the owner alone) and admins (the owner, or a whole group). A folder whose
group matters has the setgid bit, so that what a program like uv makes in it belongs to the group as well.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rootstock.errors import ConfigurationError
from rootstock.root.layout import RootLayout

_READ = {"world": 0o555, "group": 0o550, "owner": 0o500}


@dataclass(frozen=True)
class ModeChange:
    """A folder that is to be created (`old` is None), or a file or folder that is to get another mode or group."""

    path: Path
    old: int | None
    new: int

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


@dataclass(frozen=True)
class Access:
    """Modes for the readers and the admins of a root.

    Parameters
    ----------
    readers : {'world', 'group', 'owner'}
    gid : int
        The group that files are given to; -1 leaves it as it is.
    shared : bool
        Whether the group's members are admins, and not only the owner.
    """

    readers: str
    gid: int = -1
    shared: bool = False

    @classmethod
    def of(cls, readers: str, writers: str, group: str) -> Access:
        """Return the access that a cluster's settings ask for.

        Parameters
        ----------
        readers : {'world', 'group', 'owner'}
        writers : {'owner', 'group'}
        group : str
            A name or a number; empty leaves the group of files as it is.

        Raises
        ------
        ConfigurationError
            If there is no such group, or the caller is not in it.
        """
        shared = writers == "group"
        if shared and readers == "owner":
            raise ConfigurationError(
                "With access.writers=group every admin must be able to read what another one has installed; "
                "access.readers is owner.",
                "Add --set access.readers=group, or world.",
            )
        return cls(readers, _group_id(group) if group else -1, shared)

    def at(self, path: Path, layout: RootLayout) -> Access:
        """Return the access that holds for a path under the root.

        Modulefiles are readable by everybody who may enter the root: to a user root, Lmod does not show those of root
        that are not.

        Parameters
        ----------
        path : Path
        layout : RootLayout
        """
        return replace(self, readers="world") if layout.modulepath in (path, *path.parents) else self

    @property
    def folder(self) -> int:
        """Mode of a folder that admins write to."""
        return _READ[self.readers] | self._write | 0o010 * self.shared | self._setgid

    @property
    def admin_folder(self) -> int:
        """Mode of a folder for admins only."""
        return 0o700 | 0o070 * self.shared | self._setgid

    @property
    def admin_file(self) -> int:
        """Mode of a file for admins only."""
        return self.admin_folder & 0o666

    @property
    def file(self) -> int:
        """Mode of a file that admins replace."""
        return _READ[self.readers] & ~0o111 | self._write

    @property
    def admin_umask(self) -> int:
        """What a program must not allow for the files that it makes in an admin's folder."""
        return 0o007 if self.shared else 0o077

    @property
    def _write(self) -> int:
        return 0o260 if self.shared else 0o200

    @property
    def _setgid(self) -> int:
        return stat.S_ISGID if self.shared or self.readers == "group" or self.gid != -1 else 0

    def needs(self, path: Path, mode: int) -> ModeChange | None:
        """Return what has to be done for a file or folder to have a mode and our group; None if it has them.

        Parameters
        ----------
        path : Path
        mode : int
        """
        try:
            status = path.stat()
        except FileNotFoundError:
            return ModeChange(path, None, mode)
        old = stat.S_IMODE(status.st_mode)
        return None if old == mode and self.gid in (-1, status.st_gid) else ModeChange(path, old, mode)

    def apply(self, change: ModeChange) -> None:
        """Create the folder, or set mode and group."""
        if change.old is None:
            change.path.mkdir(mode=0o700, exist_ok=True)
        self._set(change.path, change.new)

    def make_folder(self, path: Path, *, private: bool = False) -> None:
        """Create a folder and those above it that are missing, and set their modes; one that exists keeps its own.

        Parameters
        ----------
        path : Path
        private : bool
            Whether it is for admins only; those above it are not.
        """
        for folder in reversed([path, *path.parents]):
            if not folder.is_dir():
                self.apply(ModeChange(folder, None, self.admin_folder if private and folder == path else self.folder))

    def make_immutable(self, tree: Path) -> None:
        """Make everything below `tree`, and `tree` itself, readable by the readers and writable by nobody."""
        read = _READ[self.readers]
        for path, status in _walk(tree):
            if stat.S_ISLNK(status.st_mode):
                if self.gid not in (-1, status.st_gid):
                    os.chown(path, -1, self.gid, follow_symlinks=False)
            else:
                executable = stat.S_ISDIR(status.st_mode) or status.st_mode & 0o100
                mode = read if executable else read & ~0o111
                try:
                    self._set(path, mode, status)
                except PermissionError:
                    # uv has linked it from its cache, where it is another admin's.
                    if not stat.S_ISREG(status.st_mode) or status.st_uid == os.geteuid():
                        raise
                    _make_own(path)
                    self._set(path, mode)

    def make_readable(self, tree: Path) -> None:
        """Make everything below `tree`, and `tree` itself, readable by the readers; admins may add to its folders."""
        self._set_all(tree, _READ[self.readers] & ~0o111)

    def restore_modes(self, tree: Path) -> None:
        """Give a folder of admins, and all below it, to the readers and the other admins."""
        self._set_all(tree, self.file)

    def _set_all(self, tree: Path, file_mode: int) -> None:
        for path, status in _walk(tree):
            if stat.S_ISDIR(status.st_mode):
                self._set(path, self.folder, status)
            elif stat.S_ISREG(status.st_mode):
                self._set(path, file_mode, status)

    def revoke_group_write(self, tree: Path) -> None:
        """Take from everybody else the right to write to what a program left below an admin's folder."""
        excess = self.admin_umask & 0o022
        for path, status in _walk(tree):
            # A link in the cache leads elsewhere, and a file of another admin is theirs to mend.
            if not stat.S_ISLNK(status.st_mode) and status.st_mode & excess and status.st_uid == os.geteuid():
                os.chmod(path, stat.S_IMODE(status.st_mode) & ~excess)

    def obstacles(self, path: Path) -> list[Path]:
        """Return the existing folders above `path` that keep readers from it."""
        if self.readers == "owner":
            return []
        above = {*path.parents, *path.resolve().parents}
        return sorted(folder for folder in above if folder.is_dir() and not self._lets_through(folder.stat()))

    def _lets_through(self, status: os.stat_result) -> bool:
        gid = os.getegid() if self.gid == -1 else self.gid
        # Other admins than the owner come by the group's way, too.
        by_group = self.readers == "group" and status.st_gid == gid
        return bool(status.st_mode & (stat.S_IXGRP if by_group else stat.S_IXOTH))

    def _set(self, path: str | Path, mode: int, status: os.stat_result | None = None) -> None:
        status = status or os.stat(path)
        if self.gid not in (-1, status.st_gid):
            os.chown(path, -1, self.gid)
            status = os.stat(path)  # a change of group takes the setgid bit away
        if stat.S_IMODE(status.st_mode) != mode:
            os.chmod(path, mode)


def _group_id(name: str) -> int:
    import grp

    try:
        gid = int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigurationError(
            f"There is no group {name!r} on this machine.", "Give --group one that exists, or set access.group to it."
        ) from None
    if os.geteuid() != 0 and gid not in (os.getegid(), *os.getgroups()):
        raise ConfigurationError(
            f"You are not in the group {name!r}, so you cannot give it the files.", "Install as one of its members."
        )
    return gid


def _walk(tree: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below `tree`, and it last: a folder comes after what it holds."""
    for folder, folders, files in os.walk(tree, topdown=False):
        for name in (*files, *folders):
            path = os.path.join(folder, name)
            yield path, os.lstat(path)
    yield os.fspath(tree), os.lstat(tree)


def _make_own(path: str) -> None:
    """Replace a file by a copy of it, which is ours."""
    fresh = f"{path}.own"
    try:
        shutil.copy2(path, fresh)
        os.replace(fresh, path)
    finally:
        Path(fresh).unlink(missing_ok=True)


def may_remove(path: Path) -> bool:
    """Tell whether this user may remove what was sealed: its owner may, and root."""
    return os.geteuid() in (0, path.lstat().st_uid)


def remove_tree(tree: Path) -> None:
    """Remove a folder and all below it, sealed or not; or a file or link."""
    if tree.is_symlink() or not tree.is_dir():
        tree.unlink(missing_ok=True)
        return
    for folder, _, _ in os.walk(tree):
        if not os.access(folder, os.W_OK | os.X_OK):
            os.chmod(folder, 0o700)
    shutil.rmtree(tree)
