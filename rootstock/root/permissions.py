"""Who may do what under a root: modes are set explicitly, whatever the admin's umask is.

There are readers (everybody, a group, or the owner alone) and admins (the owner, or a whole group). A folder whose
group matters has the setgid bit, so that what a program like uv makes in it belongs to the group as well.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rootstock.errors import ConfigurationError
from rootstock.root.layout import RootLayout
from rootstock.root.reachability import find_group

_READ = {"world": 0o555, "group": 0o550, "owner": 0o500}


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

    @classmethod
    def noted(cls, marker: Mapping[str, Any]) -> Access:
        """Return the access that a root's marker notes, whoever asks.

        Parameters
        ----------
        marker : mapping of str to str
            With ``readers``, ``writers`` and ``group``.
        """
        gid = find_group(str(group)) if (group := marker.get("group")) else None
        return cls(marker.get("readers", "owner"), -1 if gid is None else gid, marker.get("writers") == "group")

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
        return _READ[self.readers] | self._write | 0o010 * self.shared | self.setgid

    @property
    def admin_folder(self) -> int:
        """Mode of a folder for admins only."""
        return 0o700 | 0o070 * self.shared | self.setgid

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
    def setgid(self) -> int:
        return stat.S_ISGID if self.shared or self.readers == "group" or self.gid != -1 else 0

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
                folder.mkdir(mode=0o700, exist_ok=True)
                self.set_mode(folder, self.admin_folder if private and folder == path else self.folder)

    def sealed(self, mode: int) -> int:
        """Return the mode of what nobody may write to, given that of now, with its kind.

        Parameters
        ----------
        mode : int
        """
        executable = stat.S_ISDIR(mode) or mode & 0o100
        return _READ[self.readers] if executable else _READ[self.readers] & ~0o111

    def downloaded(self, mode: int) -> int:
        """Return the mode of what readers read; admins may add to folders of it.

        Parameters
        ----------
        mode : int
            That of now, with its kind.
        """
        return self.folder if stat.S_ISDIR(mode) else _READ[self.readers] & ~0o111

    def for_admins(self, mode: int, *, programs: bool = False) -> int:
        """Return the mode of what programs and admins have made for admins: they may add to it, nobody else.

        Parameters
        ----------
        mode : int
            That of now, with its kind. What the owner may not do, nobody may.
        programs : bool
            Whether it is executed: then its owner alone may write to it.
        """
        if stat.S_ISREG(mode) and not mode & 0o200:
            return self.sealed(mode)  # the same file as one of a build, or of one that is gone
        group = (mode & 0o700) >> 3 if self.shared else 0
        if programs:
            group &= ~0o020
        excess = 0o002 if self.shared and not programs else 0o022
        return stat.S_IMODE(mode) & ~excess | group | (self.setgid if stat.S_ISDIR(mode) else 0)

    def make_immutable(self, tree: Path) -> None:
        """Make everything below `tree`, and `tree` itself, readable by the readers and writable by nobody."""
        for path, status in _walk(tree):
            try:
                self.set_mode(path, self.sealed(status.st_mode), status)
            except PermissionError:
                # uv has linked it from its cache, where it is another admin's.
                if not stat.S_ISREG(status.st_mode) or status.st_uid == os.geteuid():
                    raise
                _make_own(path)
                self.set_mode(path, self.sealed(status.st_mode))

    def make_readable(self, tree: Path) -> None:
        """Make everything below `tree`, and `tree` itself, readable by the readers; admins may add to its folders."""
        for path, status in _walk(tree):
            if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
                self.set_mode(path, self.downloaded(status.st_mode), status)

    def share_cache(self, tree: Path) -> None:
        """Let the other admins, and nobody else, add to what a program has left below a folder of admins.

        uv makes its own lock files writable by everybody.
        """
        for path, status in _walk(tree):
            # A link in the cache leads elsewhere, and a file of another admin is theirs to mend.
            if not stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid():
                self.set_mode(path, self.for_admins(status.st_mode), status)

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

    def set_mode(self, path: str | Path, mode: int, status: os.stat_result | None = None) -> None:
        """Give our group and a mode to a file or folder; to a link, which has no mode, the group.

        Parameters
        ----------
        path : str or Path
        mode : int
        status : os.stat_result, optional
            As `os.lstat` returns it, where a link itself is meant.
        """
        status = status or os.stat(path)
        link = stat.S_ISLNK(status.st_mode)
        if self.gid not in (-1, status.st_gid):
            os.chown(path, -1, self.gid, follow_symlinks=not link)
            status = status if link else os.stat(path)  # a change of group takes the setgid bit away
        if not link and stat.S_IMODE(status.st_mode) != mode:
            os.chmod(path, mode)


def _group_id(name: str) -> int:
    gid = find_group(name)
    if gid is None:
        raise ConfigurationError(
            f"There is no group {name!r} on this machine.", "Give --group one that exists, or set access.group to it."
        )
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
