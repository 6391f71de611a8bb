"""Whether a user gets to a folder, and who is in the way; and who could put another one in its place."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from rootstock.errors import RootError


def obstacle(path: Path) -> RootError | None:
    """Return the error that says what keeps this user from reading a folder or file, and how that can be changed.

    Parameters
    ----------
    path : Path
        Where the user wants to get, absolute.

    Returns
    -------
    RootError or None
        None if nothing is in the way, or if nothing is there at all.
    """
    # What the path leads through, and, if one of those is a link, what that leads through.
    for place in (path, Path(os.path.realpath(path))):
        for folder in (*reversed(place.parents), place):
            try:
                status = folder.stat()
            except PermissionError:
                return _explain(folder.parent, folder.parent.stat())
            except OSError:
                break
            last = folder == place
            needed = os.R_OK if not stat.S_ISDIR(status.st_mode) else os.R_OK | os.X_OK if last else os.X_OK
            if not os.access(folder, needed):
                return _explain(folder, status)
    return None


def refusal(path: Path, error: OSError) -> RootError:
    """Return the error for a file or folder of a root that cannot be read.

    Parameters
    ----------
    path : Path
    error : OSError
        What came of reading it.
    """
    if isinstance(error, PermissionError) and (in_the_way := obstacle(path)):
        return RootError(f"Cannot read {path}: {in_the_way.message}", in_the_way.hint)
    return RootError(f"Cannot read {path}: {error.strerror or error}", "Ask the site's admin.")


def cause(error: OSError) -> str:
    """Say in words what the system refused; of the files of a folder that could not be copied, the first."""
    return str(error.args[0][0][2]) if isinstance(error, shutil.Error) else error.strerror or str(error)


def _explain(path: Path, status: os.stat_result) -> RootError:
    mode, group = stat.S_IMODE(status.st_mode), group_name(status.st_gid)
    reason = f"{path} does not let you in: its mode is {mode:04o}, its owner {owner(path)}, its group {group}."
    if mode & stat.S_IXGRP and status.st_gid not in (os.getegid(), *os.getgroups()):
        if status.st_gid != 0 and not _of_one(status):
            return RootError(reason, f"Ask the site's admin to add you to the group {group}; then log in again.")
        return RootError(
            reason,
            f"Ask {owner(path)} or the site's admin to give it to a group of its users: {group} is one user's own.",
        )
    return RootError(
        reason,
        "Ask its owner or the site's admin for access: a root is opened by --set access.readers=world, "
        "a folder above it by chmod o+x.",
    )


def owner(path: Path) -> str:
    """Return the name of whom something belongs to; a number where the machine knows no name."""
    return user_of(path.lstat().st_uid)


def user_of(uid: int) -> str:
    """Return the name of a user; the number where the machine knows no name."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return the name of a group; the number where the machine knows no name."""
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def find_group(name: str) -> int | None:
    """Return the number of a group, given its name or number; None if there is no such group."""
    import grp

    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def writable_above(root: Path, gid: int | None, uids: Collection[int]) -> Iterator[tuple[str, str]]:
    """Say of each folder above the root who could put another root in its place, and what to do about it.

    Where the sticky bit is set, one can rename and remove only what is one's own; a folder's owner can do it all.

    Parameters
    ----------
    root : Path
    gid : int or None
        The group of admins, if there is one.
    uids : collection of int
        Owners that are trusted, beside root.
    """
    for folder in sorted({*root.parents, *root.resolve().parents}):
        try:
            status = folder.stat()
        except OSError:
            continue
        if status.st_uid not in (0, *uids):
            whom, can, remedy = user_of(status.st_uid), "owns", f"let root own {folder}, or install elsewhere"
        elif status.st_mode & stat.S_ISVTX:
            continue
        elif status.st_mode & stat.S_IWOTH:
            whom, can, remedy = "everybody", "can write to", f"chmod o-w {folder}, or chmod +t {folder}"
        elif status.st_mode & stat.S_IWGRP and status.st_gid != gid and not _of_one(status):
            whom, can = f"the group {group_name(status.st_gid)}", "can write to"
            remedy = f"chmod g-w {folder}, or chmod +t {folder}"
        else:
            continue
        yield f"{whom} {can} {folder}, and can put another root in the place of this one", remedy


def _of_one(status: os.stat_result) -> bool:
    """Tell whether a folder's group has no other member than its owner: many systems give each user such a group."""
    import grp

    name = user_of(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return group.gr_name == name and set(group.gr_mem) <= {name}
