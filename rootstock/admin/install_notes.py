"""What an admin is told beside the plan of an installation; it keeps nothing from being done."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rootstock import __version__
from rootstock.admin.asked_for import Asked
from rootstock.admin.bundle import Bundle
from rootstock.config.environment_file import packaged_names, packaged_source
from rootstock.config.environment_text import read_text
from rootstock.config.site import Site, installed_versions, newer_versions
from rootstock.root.layout import RootLayout
from rootstock.root.managed_files import FileChange, Written, is_ours, sha256, stray_modulefiles
from rootstock.root.modes import ModeChange, describe_foreign
from rootstock.root.reachability import group_name, writable_above


def notes_of_place(site: Site, foreign: Sequence[ModeChange], *, created: bool) -> Iterator[str]:
    """Yield what an admin is to know of the root's place and modes.

    Parameters
    ----------
    site : Site
    foreign : sequence of ModeChange
        What has wrong modes and belongs to others.
    created : bool
        Whether the root is yet to be made.
    """
    if created:
        yield from site.cluster.notes
        if os.geteuid() == 0:
            yield "You are root. You need not be: an ordinary account that owns the folder is enough, and safer."
    yield from _module_system(site)
    for path in stray_modulefiles(site.layout):
        yield f"{path} is none of ours, and may load as a version: move it out of {site.layout.modulepath}"
    for folder in site.access.obstacles(site.layout.root):
        whom = "other users" if site.access.readers == "world" else "the group"
        yield f"{folder} does not let {whom} pass: they cannot reach the root. {_way_through(site, folder)}"
    gid = site.access.gid if site.access.shared else None
    uids = {os.geteuid(), *([] if created else [site.layout.root.stat().st_uid])}
    for text, remedy in writable_above(site.layout.root, gid, uids):
        yield f"{text}. For example: {remedy}"
    yield from describe_foreign(foreign)


def _way_through(site: Site, folder: Path) -> str:
    """Say what to do about a folder above the root that readers cannot pass; it may be closed on purpose."""
    access, status = site.access, folder.stat()
    bits = "g+x" if access.readers == "group" and status.st_gid == access.gid else "o+x"
    if access.readers != "world" or not status.st_mode & stat.S_IXGRP:
        return f"Its owner decides about that: chmod {bits} {folder}"
    group = group_name(status.st_gid)
    return (
        f"The group {group} can. If the root is meant for that group: --group {group} --set access.readers=group. "
        f"If for everybody: chmod {bits} {folder}"
    )


def _module_system(site: Site) -> Iterator[str]:
    """Say what a root does without whose module system nobody has named, though the admin's own shell has one."""
    if "modules.system" in site.cluster.origins:
        return
    for variable, name, value in (("LMOD_CMD", "Lmod", "lmod"), ("MODULES_CMD", "Environment Modules", "tcl")):
        if variable in os.environ:
            yield (
                f"This shell has {name}, but the setting modules.system does not say so: users are shown a file to "
                "source, and modulefiles are written for both module systems. If users have it too: rootstock-site "
                f"install --root {site.layout.root} --set modules.system={value}"
            )
            return


def notes_of_files(layout: RootLayout, files: Iterable[FileChange]) -> Iterator[str]:
    """Yield what these files leave as it is.

    Parameters
    ----------
    layout : RootLayout
    files : iterable of FileChange
    """
    others = [version for version in installed_versions(layout) if version != __version__]
    changed = [change for change in files if layout.modules in change.path.parents and change.action != "create"]
    if others and changed:
        yield (
            f"The modulefiles of rootstock {', '.join(others)} stay as they are. To render them anew, run "
            "rootstock-site render of each version."
        )


def notes_of_edits(asked: Asked, written: Written, bundle: Bundle | None) -> Iterator[str]:
    """Yield the environments that are left alone: to a newer release, or because an admin has edited the file.

    Parameters
    ----------
    asked : Asked
    written : mapping of str to list of str
        The marker's hashes of what we wrote.
    bundle : Bundle, optional
    """
    layout = asked.site.layout
    if asked.left:
        yield (
            f"{', '.join(asked.left)}: left to rootstock {newer_versions(layout)[-1]}, which this root holds as well "
            "and which is newer. --env NAME builds one all the same."
        )
    for source in asked.sources:
        path = layout.environment_file(source.name)
        if source.path != path or is_ours(layout.root, path, written):
            continue
        key = path.relative_to(layout.root).as_posix()
        if bundle and source.name in bundle.environments:
            whose, text = "The bundle", read_text(bundle.environment(source.name))
        elif source.name in packaged_names() and key in written:
            whose, text = f"rootstock {__version__}", packaged_source(source.name).text
        else:
            continue
        if text != source.text and sha256(text.encode()) not in written.get(key, ()):
            yield f"You have edited {path}. {whose} has a newer one: move yours away to use that."
