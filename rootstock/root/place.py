"""Whether a root can be made, or written to, where it is or is to be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rootstock.errors import RootError, SiteError
from rootstock.root.generations import friendly_os_errors
from rootstock.root.layout import RootLayout

_ELSEWHERE = "Choose another --root."


def check_path(root: Path) -> None:
    """Refuse the path of a root that is yet to be made, if something else than a folder is in its way.

    Parameters
    ----------
    root : Path

    Raises
    ------
    RootError
        It names what is in the way.
    """
    existing = _existing(root)
    if not existing.is_dir():
        what = f"a link to {os.readlink(existing)}, which leads to no folder" if existing.is_symlink() else "no folder"
        raise RootError(f"Cannot make the root {root}: {existing} is {what}.", _ELSEWHERE)


def check_writable(layout: RootLayout) -> None:
    """Refuse a root that this user cannot write to, or make.

    Raises
    ------
    RootError
        If they may not.
    SiteError
        If the file system is read-only.
    """
    root, existing = layout.root, _existing(layout.root)
    read_only = bool(os.statvfs(existing).f_flag & os.ST_RDONLY)
    allowed = os.access(existing, os.W_OK | os.X_OK, effective_ids=True)
    if layout.marker.is_file():
        with friendly_os_errors(layout):
            if read_only:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(root))
            if not allowed:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(root))
    elif read_only:
        raise SiteError(f"Cannot make the root {root}: {existing} is on a read-only file system.", _ELSEWHERE)
    elif not allowed:
        raise RootError(f"Cannot make the root {root}: you may not write to {existing}.", _ELSEWHERE)


def _existing(root: Path) -> Path:
    return next(path for path in (root, *root.parents) if os.path.lexists(path))
