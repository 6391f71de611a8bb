"""Who may read what under a root: modes are set explicitly, whatever the admin's umask is."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from rootstock.clusters import Cluster
from rootstock.errors import ConfigurationError

_READ = {"world": 0o555, "group": 0o550, "owner": 0o500}
_SETGID = {"world": 0, "group": stat.S_ISGID, "owner": 0}


@dataclass(frozen=True)
class Access:
    """Modes for the readers of a root.

    Parameters
    ----------
    readers : {'world', 'group', 'owner'}
    gid : int
        The group that files are given to; -1 leaves it as it is.
    """

    readers: str
    gid: int = -1

    @classmethod
    def of(cls, cluster: Cluster) -> Access:
        """Return the access that a cluster's settings ask for."""
        if not cluster.group:
            return cls(cluster.readers)
        import grp

        try:
            return cls(cluster.readers, grp.getgrnam(cluster.group).gr_gid)
        except KeyError:
            raise ConfigurationError(
                f"There is no group {cluster.group!r} on this machine.", "Set access.group to one that exists."
            ) from None

    @property
    def folder(self) -> int:
        """Mode of a folder that admins write to."""
        return _READ[self.readers] | 0o200 | _SETGID[self.readers]

    @property
    def file(self) -> int:
        """Mode of a file that admins replace."""
        return _READ[self.readers] & ~0o111 | 0o200

    def make_folder(self, path: Path, *, private: bool = False) -> None:
        """Create a folder, if it does not exist, and set its mode."""
        mode = 0o700 if private else self.folder
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if self.gid not in (-1, status.st_gid):
            os.chown(path, -1, self.gid)
        if stat.S_IMODE(status.st_mode) != mode:
            path.chmod(mode)

    def seal(self, tree: Path) -> None:
        """Make everything below `tree`, and `tree` itself, readable by the readers and writable by nobody."""
        read = _READ[self.readers]
        for folder, folders, files in os.walk(tree, topdown=False):
            for name in files:
                self._set(os.path.join(folder, name), read)
            for name in folders:
                self._set(os.path.join(folder, name), read)
        self._set(os.fspath(tree), read)

    def _set(self, path: str, read: int) -> None:
        status = os.lstat(path)
        if self.gid not in (-1, status.st_gid):
            os.chown(path, -1, self.gid, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return
        executable = stat.S_ISDIR(status.st_mode) or status.st_mode & 0o100
        mode = read if executable else read & ~0o111
        if stat.S_IMODE(status.st_mode) != mode:
            os.chmod(path, mode)


def remove_tree(tree: Path) -> None:
    """Remove a folder and all below it, sealed or not."""
    import shutil

    if not tree.is_dir():
        return
    for folder, _, _ in os.walk(tree):
        os.chmod(folder, 0o700)
    shutil.rmtree(tree)
