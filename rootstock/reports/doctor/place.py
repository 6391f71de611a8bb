"""Checks of the root itself: is it there, may this user read it, is there room, do clocks and locks agree."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from rootstock.client.scratch import private_scratch
from rootstock.config.registry_files import RegistryWarning
from rootstock.config.site import check_place, installed_site, installed_versions
from rootstock.errors import RootError, RootstockError
from rootstock.reports.doctor.finding import DoctorContext, Finding, check, failed, from_error, ok, skipped, warning
from rootstock.root.disk_usage import DiskUsage, check_space, free_space, megabytes
from rootstock.root.layout import LAYOUT_VERSION
from rootstock.root.lock import probe_lock
from rootstock.root.modes import modes_needed
from rootstock.root.mounts import noexec_mount
from rootstock.root.ownership import Admins, check_owners
from rootstock.root.permissions import Access
from rootstock.root.reachability import group_name, obstacle, owner, user_of, writable_above
from rootstock.root.records import read_marker

_CLOCK_S = 60.0
_SCRATCH_BYTES, _FILES = 100e6, 1000


@check
def reachable(context: DoctorContext) -> Iterator[Finding]:
    """Check that every folder above the root, and the root, lets this user in."""
    root = context.layout.root
    if error := obstacle(root):
        yield from_error(error)
    elif not root.is_dir():
        yield failed(f"{root} is not there", "Is its file system mounted on this node? Look at: ls -ld " + str(root))
    else:
        yield ok(f"{root}, mode {root.stat().st_mode & 0o7777:04o}, and every folder above it lets you in")


@check
def layout(context: DoctorContext) -> Iterator[Finding]:
    """Check that it is a root of a layout that this version knows, and that its folders can be read."""
    marker = read_marker(context.layout)
    version = marker.get("layout", 0)
    if version < LAYOUT_VERSION:
        yield failed(
            f"{context.layout.root} has the old layout {version}; this rootstock knows {LAYOUT_VERSION}",
            f"An admin brings it up to date with: rootstock-site install --root {context.layout.root}",
        )
        return
    for folder in (folder for folder in context.layout.folders() if folder not in context.layout.admin_folders()):
        if error := obstacle(folder):
            yield from_error(error)
        elif not folder.is_dir():
            yield warning(
                f"{folder} is missing", f"An admin makes it with: rootstock-site install --root {context.layout.root}"
            )
    try:
        with warnings.catch_warnings(action="ignore", category=RegistryWarning):  # told with the device
            installed_site(context.layout)
        check_place(context.layout)
    except RootstockError as error:  # models run all the same
        told = from_error(error)
        yield warning(told.reason, told.remedy or "An admin corrects it.")
    except OSError as error:
        yield warning(f"{error.filename}: {error.strerror}", "An admin corrects it.")
    versions = ", ".join(installed_versions(context.layout)) or "none"
    yield ok(f"layout {marker['layout']}, cluster {marker['cluster']}, rootstock {versions}")


@check
def space(context: DoctorContext) -> Iterator[Finding]:
    """Say how much room there is where admins install; check that a home is not full."""
    root = context.layout.root
    try:
        check_space(root)
        yield ok(f"root: {_left(free_space(root))} at {root}")
    except RootError as error:  # models run all the same
        yield warning(error.message, error.hint)
    home = Path.home()
    try:
        if home.is_dir() and (free := shutil.disk_usage(home).free) < _SCRATCH_BYTES:
            yield warning(f"home: {megabytes(free)} left at {home}", "Remove what you do not need.")
    except OSError as error:  # as in a job whose ticket has expired
        yield warning(f"home: {home}: {error.strerror}", "Models run without it; write results elsewhere.")


def _left(room: DiskUsage) -> str:
    return megabytes(room.bytes) + ("" if room.files is None else f" and {room.files} files") + " left"


@check
def scratch(context: DoctorContext) -> Iterator[Finding]:  # noqa: ARG001  # every check is given the context
    """Check that this user can write in a folder that nobody else reads, and that there is room.

    One check, since whoever asks for the temporary folder while this one fills it is given another.
    """
    folder = private_scratch()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 2**20)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield failed(
            f"Cannot write a megabyte to {folder}: {error.strerror}.", "Set TMPDIR to a folder that you can write.", 18
        )
        return
    room = free_space(folder)
    text = f"{folder}, mode {folder.stat().st_mode & 0o7777:04o}, can be written; {_left(room)}"
    if room.bytes < _SCRATCH_BYTES or (room.files is not None and room.files < _FILES):
        yield warning(text, "Compilers and logs need room there: set TMPDIR to a folder with more.")
    elif mount := noexec_mount(folder):
        yield warning(
            f"{text}; {mount} is mounted with noexec", "Models that compile code cannot use it: set TMPDIR to another."
        )
    else:
        yield ok(text)


@check
def clock(context: DoctorContext) -> Iterator[Finding]:
    """Check that the file systems' time is this node's."""
    newest = max(
        path.stat().st_mtime for path in (context.layout.marker, context.layout.environments, context.layout.all_active)
    )
    differences = [("the root", newest - time.time())]  # its files may be old, and never of the future
    for name, folder in (("scratch", private_scratch()), ("your home", Path.home())):
        if os.access(folder, os.W_OK | os.X_OK):
            with tempfile.TemporaryFile(dir=folder) as file:
                differences.append((name, abs(os.fstat(file.fileno()).st_mtime - time.time())))
    name, worst = max(differences, key=lambda pair: pair[1])
    if worst > _CLOCK_S:
        yield warning(
            f"this node's clock and the file system of {name} differ by {worst:.0f} s",
            "Records will carry wrong times, and make-like tools rebuild: ask the site's admin about the node's clock.",
        )
    else:
        yield ok("this node and its file systems agree on the time")


@check
def access(context: DoctorContext) -> Iterator[Finding]:
    """Check whose the root is, that nobody else can replace it, and that its files have the modes that it notes."""
    layout, admins = context.layout, Admins.of(context.layout)
    if admins is None:
        return
    noted, well = Access.noted(read_marker(layout)), True
    whose = f"it belongs to {user_of(admins.uid)}"
    if admins.gid is not None:
        whose += f" and the admins of the group {group_name(admins.gid)}"
    if os.geteuid() == 0 and not admins.trust(layout.root.stat()):
        well = False
        yield warning(f"{whose}, and you are root: what they have installed runs as root", "Compute as another user.")
    if admins.gid is None and admins.group is not None:
        well = False
        yield warning(
            f"{whose}, who is not in the group of admins {group_name(admins.group)}: nobody can install",
            f"Put {user_of(admins.uid)} into it; or let root give the root to a member: chown -hR USER {layout.root}",
        )
    for text, remedy in writable_above(layout.root, admins.gid, {admins.uid}):
        well = False
        yield warning(text, f"An admin of that folder: {remedy}")
    try:
        check_owners(layout)
    except RootError as error:
        well = False
        yield warning(error.message, error.hint)
    if wrong := [change for change in modes_needed(layout, noted, everything=context.full) if change.old is not None]:
        well = False
        more = f", and so for {len(wrong) - 1} more" if wrong[1:] else ""
        yield warning(
            f"the root's settings say otherwise: {wrong[0].describe(layout.root)}{more}",
            f"{user_of(wrong[0].uid)} mends that: rootstock-site install --root {layout.root}",
        )
    if well:
        yield ok(f"{whose}; its files have the modes for access.readers={noted.readers}")


@check
def locks(context: DoctorContext) -> Iterator[Finding]:
    """Check that locks keep two admins apart. Nobody else needs them."""
    folder, admins = context.layout.locks, Admins.of(context.layout)
    if admins is None or not admins.include(os.geteuid(), -1):
        yield skipped("only admins of the root lock; you are none")
        return
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        yield skipped("the root is mounted read-only on this node")
        return
    try:
        kind = probe_lock(context.layout)
    except PermissionError as error:
        yield failed(
            f"you are an admin of this root, and may not write to {error.filename}",
            f"{owner(Path(error.filename))} mends that: rootstock-site install --root {context.layout.root}",
        )
        return
    if kind:
        yield ok(f"two processes exclude each other in {context.layout.locks} ({kind})")
    else:
        yield warning(
            f"{context.layout.locks} has no working lock: two processes held it at once",
            "Let one admin at a time change this root, and from one node.",
        )
