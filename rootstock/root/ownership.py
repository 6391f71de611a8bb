"""Whose a root is, and what in it: who may change it, whose programs in it are run, and who could replace all of it.

Modes say what the kernel lets somebody do. To root it lets everything, and so root would run hooks, templates and
environment files that somebody else can write.
"""

from __future__ import annotations

import os
import stat
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
    gid : int or None
        The group whose members are admins too, if it has one.
    """

    uid: int
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
        return cls(status.st_uid, gid if status.st_uid == 0 or _is_member(status.st_uid, gid, status.st_gid) else None)

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
            return f"{layout.root} belongs to {user_of(admins.uid)}, and you are root: you remove what others own."
        raise _refusal(layout, admins)
    for path in _what_is_run(layout):
        _check_owner(layout, path, admins)
    return ""


def _refusal(layout: RootLayout, admins: Admins) -> RootError:
    name, root = user_of(admins.uid), layout.root
    if os.geteuid() == 0:
        hint = f"Do this as its owner: sudo -u {name} rootstock-site ... To make it yours, look at what it holds, "
        hint += f"hooks and templates too, then: chown -hR {user_name()} {root}"
    elif admins.gid is not None:
        hint = f"Its admins are the members of the group {group_name(admins.gid)}: do this as one of them."
    else:
        hint = f"Do this as {name}, who can give the root to a group of admins: "
        hint += f"rootstock-site install --root {root} --group GROUP --set access.writers=group"
    return RootError(f"You may not change {root}: it belongs to {name}, and you are {user_name()}.", hint)


def _what_is_run(layout: RootLayout) -> Iterator[Path]:
    """Yield what decides about the programs that an admin runs."""
    yield from (layout.marker, layout.clusters_file, layout.environments, layout.templates, layout.hooks)
    yield from layout.templates.rglob("*")
    yield from layout.hooks.glob("*")
    for pattern in ("*.py", "*.py.lock"):
        yield from layout.environments.glob(pattern)


def _check_owner(layout: RootLayout, path: Path, admins: Admins) -> None:
    if all(map(admins.trust, _statuses(path))):
        return
    name, place = owner(path), path.relative_to(layout.root)
    kind = HookError if place.parts[0] == layout.hooks.name else RootError
    raise kind(
        f"{path} belongs to {name}, who is no admin of this root: whatever they write there would be run by you.",
        f"Look at it. Then, as root: chown -h {user_of(os.geteuid())} {path}; or remove it.",
    )


def _statuses(path: Path) -> list[os.stat_result]:
    """Return what is known of a file, and of the link that leads to it."""
    try:
        link = path.lstat()
        return [link, path.stat()] if stat.S_ISLNK(link.st_mode) else [link]
    except FileNotFoundError:
        return []


def check_templates(layout: RootLayout) -> None:
    """Check that the caller may run the root's own templates, which can hold any Python.

    Parameters
    ----------
    layout : RootLayout

    Raises
    ------
    RootError
        If somebody else could have written them.
    """
    if layout.templates.is_dir() and (admins := Admins.of(layout)):
        for path in (layout.templates, *layout.templates.rglob("*")):
            _check_owner(layout, path, admins)


def check_build(layout: RootLayout, build: Path) -> None:
    """Check that root does not run what somebody else has built; everybody else runs what the root's admins have.

    Parameters
    ----------
    layout : RootLayout
    build : Path

    Raises
    ------
    RootError
        If it belongs to somebody whom root has no reason to trust.
    """
    if os.geteuid() == 0 and (admins := Admins.of(layout)) and not admins.trust(build.stat()):
        raise RootError(
            f"The build {build} belongs to {owner(build)}: as root you would run whatever they have put there.",
            f"Do this as another user: sudo -u {owner(build)} rootstock-site verify ...",
        )


def check_hook(layout: RootLayout, hook: Path) -> None:
    """Check that the caller may run a hook. Root runs its own ones only, that nobody else can write to.

    Parameters
    ----------
    layout : RootLayout
    hook : Path

    Raises
    ------
    HookError
        If somebody else could have written it.
    """
    statuses, admins = _statuses(hook), Admins.of(layout)
    if not statuses or admins is None:
        return
    if os.geteuid() != 0:
        for path in (hook, layout.hooks):
            _check_owner(layout, path, admins)
        return
    statuses += _statuses(layout.hooks)
    remedy = f"Look at it, then: chown -h root {layout.hooks} {hook} && chmod go-w {layout.hooks} {hook}"
    if others := [status for status in statuses if status.st_uid != 0]:
        name = user_of(others[0].st_uid)
        hint = f"Do this as {name}; or make it root's. {remedy}"
        raise HookError(f"Root does not run the site's hook {hook}: it belongs to {name}, or its folder does.", hint)
    if any(status.st_mode & 0o022 and not stat.S_ISLNK(status.st_mode) for status in statuses):
        raise HookError(f"Root does not run the site's hook {hook}: others can write to it, or to its folder.", remedy)


def give_to_owner(path: Path, layout: RootLayout) -> None:
    """Give what root has made in somebody else's root to them: it must not stand in their way later.

    Parameters
    ----------
    path : Path
    layout : RootLayout
    """
    uid = os.stat(layout.root).st_uid
    if os.geteuid() == 0 and uid != 0 and path.lstat().st_uid == 0:
        os.chown(path, uid, path.parent.stat().st_gid, follow_symlinks=False)


def writable_above(layout: RootLayout, gid: int | None) -> Iterator[tuple[str, str]]:
    """Say of each folder above the root who could put another root in its place, and what to do about it.

    Where the sticky bit is set, one can rename and remove only what is one's own.

    Parameters
    ----------
    layout : RootLayout
    gid : int or None
        The group of admins, if there is one.
    """
    for folder in sorted({*layout.root.parents, *layout.root.resolve().parents}):
        try:
            status = folder.stat()
        except OSError:
            continue
        if status.st_mode & stat.S_ISVTX:
            continue
        if status.st_mode & stat.S_IWOTH:
            whom, remedy = "everybody", f"chmod o-w {folder}, or chmod +t {folder}"
        elif status.st_mode & stat.S_IWGRP and status.st_gid != gid and not _of_one(status):
            whom, remedy = f"the group {group_name(status.st_gid)}", f"chmod g-w {folder}, or chmod +t {folder}"
        else:
            continue
        yield f"{whom} can write to {folder}, and put another root in the place of this one", remedy


def _of_one(status: os.stat_result) -> bool:
    """Tell whether a folder's group has no other member than its owner: many systems give each user such a group."""
    import grp

    name = user_of(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return group.gr_name == name and set(group.gr_mem) <= {name}
