"""Whose a root is, and what in it: who may change it, and whose programs in it are run.

Modes say what the kernel lets somebody do. To root it lets everything, and so root would run hooks, templates and
environment files that somebody else can write.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rootstock.errors import HookError, RootError
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import Access
from rootstock.root.reachability import group_name, owner, user_of
from rootstock.root.records import read_marker, user_name

_REMOVING = ("gc", "uninstall")  # which root may do to what others own: it runs nothing of theirs


@dataclass(frozen=True)
class Admins:
    """Who may change a root.

    Attributes
    ----------
    uid : int
        The owner of its folder.
    group : int or None
        The group whose members are to be admins too, if there is one.
    gid : int or None
        That group, if the owner is of it.
    """

    uid: int
    group: int | None = None
    gid: int | None = None

    @classmethod
    def of(cls, layout: RootLayout, access: Access | None = None) -> Admins | None:
        """Return who may change a root; None if there is no folder yet.

        Parameters
        ----------
        layout : RootLayout
        access : Access, optional
            What is to hold for a folder that is no root yet.
        """
        try:
            status = os.stat(layout.root)
            installed = layout.marker.is_file()
        except OSError:
            return None
        if installed:
            access = Access.noted(read_marker(layout))
        if access is None or not access.shared:
            return cls(status.st_uid)
        gid = status.st_gid if access.gid == -1 else access.gid
        owner_in = status.st_uid == 0 or _is_member(status.st_uid, gid, status.st_gid)
        return cls(status.st_uid, gid, gid if owner_in else None)

    def include(self, uid: int, gid: int) -> bool:
        """Tell whether somebody is one of them.

        Parameters
        ----------
        uid : int
        gid : int
            The group of what they own: it tells of a user whom this machine does not know. -1: of the caller.
        """
        return uid == self.uid or (self.gid is not None and _is_member(uid, self.gid, gid))

    def trust(self, status: os.stat_result) -> bool:
        """Tell whether the caller may run what its owner can change: their own, root's, or another admin's.

        Parameters
        ----------
        status : os.stat_result
        """
        me = os.geteuid()
        if status.st_uid in (0, me):
            return True
        # Root trusts nobody but members of a group that it is in.
        in_group = self.gid is not None and _is_member(me, self.gid)
        return (me != 0 or in_group) and self.include(status.st_uid, status.st_gid)


def _is_member(uid: int, gid: int, evidence: int = -1) -> bool:
    import pwd

    if uid == os.geteuid():
        return gid in (os.getegid(), *os.getgroups())
    try:
        entry = pwd.getpwuid(uid)
        return gid in os.getgrouplist(entry.pw_name, entry.pw_gid)
    except (KeyError, OSError):
        return evidence == gid


def check_caller(layout: RootLayout, command: str = "", access: Access | None = None) -> str:
    """Check, before anything is written, that the caller may change a root, and run what it holds.

    Parameters
    ----------
    layout : RootLayout
    command : str
        The name of the command: root may remove what others own, and does nothing else there.
    access : Access, optional
        What is to hold for a folder that is no root yet.

    Returns
    -------
    str
        What the caller is to know, if anything.

    Raises
    ------
    RootError
        If the root is somebody else's, or templates or environment files in it are.
    HookError
        If hooks in it are.
    """
    admins = Admins.of(layout, access)
    if admins is None:
        return ""
    me = os.geteuid()
    if not admins.include(me, -1):
        if me == 0 and command in _REMOVING:
            _refuse_links(layout, admins)
            return f"{layout.root} belongs to {user_of(admins.uid)}, and you are root: you remove what others own."
        raise _refusal(layout, admins)
    for path in _what_is_run(layout):
        check_owner(layout, path, admins)
    return ""


def _refuse_links(layout: RootLayout, admins: Admins) -> None:
    """Check that what root is about to write lies in the root, wherever its owner would like to have it."""
    whose = user_of(admins.uid)
    for path in (*layout.folders()[1:], layout.admin_lock, layout.admin_owner, *layout.all_builds.glob("*")):
        if path.is_symlink():
            reason = f"{path} is a symbolic link. Root follows none in a root of {whose}'s."
            raise RootError(reason, f"Do this as its owner: sudo -u {whose} rootstock-site ...")


def _refusal(layout: RootLayout, admins: Admins) -> RootError:
    name, root = user_of(admins.uid), layout.root
    if admins.group != admins.gid and admins.group is not None:
        hint = f"Its admins are the group {group_name(admins.group)}, which {name} is not in. "
        hint += f"Let root give it to one of them: chown -hR USER {root}"
    elif os.geteuid() == 0:
        hint = f"Do this as its owner: sudo -u {name} rootstock-site ... To make it yours, look at what it holds, "
        hint += f"hooks and templates too, then: chown -hR {user_name()} {root}"
    elif admins.gid is not None:
        hint = f"Its admins are the members of the group {group_name(admins.gid)}: do this as one of them."
    else:
        hint = f"Do this as {name}, who can give the root to a group of admins: "
        hint += f"rootstock-site install --root {root} --group GROUP --set access.writers=group"
    return RootError(f"You may not change {root}: it belongs to {name}, and you are {user_name()}.", hint)


def _what_is_run(layout: RootLayout) -> Iterator[Path]:
    """Yield what decides about the programs that admins and users run."""
    yield from (layout.marker, layout.clusters_file, layout.templates, layout.hooks, *layout.folders())
    yield from layout.all_builds.glob("*/[!.]*")  # before the links to them
    for folder in (layout.python, layout.all_builds, layout.all_active, layout.clients):
        yield from folder.glob("*")
    yield from (*layout.templates.rglob("*"), *layout.hooks.glob("*"))
    for pattern in ("*.py", "*.py.lock"):
        yield from layout.environments.glob(pattern)


def check_owners(layout: RootLayout) -> None:
    """Check that what decides about programs in a root belongs to its admins, or to root.

    Raises
    ------
    RootError
        With the first that does not.
    """
    admins = Admins.of(layout)
    if admins is None:
        return
    if strange := [path for path in _what_is_run(layout) if not _is_of(admins, path)]:
        more = f", and so for {len(strange) - 1} more" if strange[1:] else ""
        raise RootError(
            f"{strange[0]} belongs to {owner(strange[0])}, who is no admin of this root{more}.",
            f"Look at all of it. Then root gives it to an admin: chown -hR {user_of(admins.uid)} {strange[0]}",
        )


def _is_of(admins: Admins, path: Path) -> bool:
    """Tell whether a file belongs to admins, or to root."""
    return all(status.st_uid == 0 or admins.include(status.st_uid, status.st_gid) for status in statuses(path))


def check_owner(layout: RootLayout, path: Path, admins: Admins) -> None:
    """Check that the caller may run what the owner of a file can change.

    Parameters
    ----------
    layout : RootLayout
    path : Path
    admins : Admins
        Of that root.

    Raises
    ------
    RootError
        If they may not; HookError of a hook.
    """
    if all(map(admins.trust, statuses(path))):
        return
    name = user_of(next(status.st_uid for status in statuses(path) if not admins.trust(status)))
    kind = HookError if layout.hooks in (path, path.parent) else RootError
    raise kind(
        f"{path} belongs to {name}: you would run whatever they write there.",
        f"Look at it. Then remove it, or let root give it to you: chown -hR {user_of(os.geteuid())} {path}",
    )


def statuses(path: Path) -> list[os.stat_result]:
    """Return what is known of a file, and of the link that leads to it, which may lead to nothing.

    Parameters
    ----------
    path : Path
    """
    found = []
    for look in (os.lstat, os.stat):
        with contextlib.suppress(OSError):
            found.append(look(path))
    return found


def check_templates(layout: RootLayout) -> None:
    """Check that the caller may run the root's own templates, which can hold any Python.

    Raises
    ------
    RootError
        If somebody else could have written them.
    """
    if layout.templates.is_dir() and (admins := Admins.of(layout)):
        for path in (layout.templates, *layout.templates.rglob("*")):
            check_owner(layout, path, admins)


def check_build(layout: RootLayout, build: Path) -> None:
    """Check that a build belongs to somebody whose programs the caller may run.

    Parameters
    ----------
    layout : RootLayout
    build : Path

    Raises
    ------
    RootError
        If it belongs to somebody else.
    """
    if (admins := Admins.of(layout)) and not admins.trust(build.stat()):
        raise RootError(
            f"The build {build} belongs to {owner(build)}: you would run whatever they have put there.",
            f"Look at all of it. Then root gives it to an admin: chown -hR {user_of(admins.uid)} {build}",
        )


def give_to_owner(path: Path, layout: RootLayout) -> None:
    """Give what root has made in somebody else's root to them: it must not stand in their way later.

    Parameters
    ----------
    path : Path
    layout : RootLayout
    """
    uid = os.stat(layout.root).st_uid
    if os.geteuid() != 0 or uid == 0:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_nlink) == (0, 1):  # what we have made, not another name of something else
            os.fchown(descriptor, uid, path.parent.stat().st_gid)
    finally:
        os.close(descriptor)
