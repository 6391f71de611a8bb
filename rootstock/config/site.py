"""The root that an admin's command is about, and the settings of its cluster."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rootstock import __version__
from rootstock.config.clusters import (
    AUTO,
    Cluster,
    Scope,
    cluster_from,
    default_cluster,
    get_cluster,
    parse_setting,
    read_scope,
    recognise,
    root_of,
    scopes,
)
from rootstock.errors import ConfigurationError, RootError
from rootstock.root.layout import RootLayout, absolute
from rootstock.root.ownership import check_caller, check_templates
from rootstock.root.permissions import Access
from rootstock.root.records import read_marker

if TYPE_CHECKING:
    from packaging.version import Version

_DESCRIBE = (
    "To install for a cluster that is not known, describe it first: a table [clusters.{name}] in "
    "~/.config/rootstock/clusters.toml, as the guide 'Install on a cluster' shows."
)


@dataclass(frozen=True)
class Site:
    """A root and its cluster.

    Attributes
    ----------
    layout : RootLayout
    cluster : Cluster
    template_dirs : tuple of Path
        Folders of templates that outrank the packaged ones, the first most; the root's own need not be there.
    recognised : str
        The host name that the cluster was recognised by; empty if somebody named it.
    """

    layout: RootLayout
    cluster: Cluster
    template_dirs: tuple[Path, ...] = ()
    recognised: str = ""

    @functools.cached_property
    def templates(self) -> tuple[Path, ...]:
        """The folders of templates, after a look at whose the root's own are: a template can hold any Python."""
        if self.layout.templates in self.template_dirs:
            check_templates(self.layout)
        return self.template_dirs

    @functools.cached_property
    def access(self) -> Access:
        """Who may do what there.

        Found when it is first asked for: a command that only reads may run where nobody knows the cluster's group.
        """
        return Access.of(self.cluster.readers, self.cluster.writers, self.cluster.group)


def check_site(site: Site, command: str) -> str:
    """Check, before anything is written, that the caller may change a root; return what they are to know.

    Parameters
    ----------
    site : Site
    command : str
        The name of the command.

    Raises
    ------
    RootError
        If the root is somebody else's.
    """
    return check_caller(site.layout, command, None if site.layout.marker.is_file() else site.access)


def find_site(
    name: str | None,
    root: Path | None,
    settings: Sequence[str] = (),
    group: str | None = None,
    *,
    installed: bool = False,
    brought: Scope | None = None,
) -> Site:
    """Return the root that a site's command is about, and the settings of its cluster.

    Parameters
    ----------
    name : str or None
        A registered cluster; ``auto`` for the one that this machine's name fits. By default that of the bundle, of the
        root, or of ``ROOTSTOCK_CLUSTER``, or the default one of the registry, or again by the machine's name.
    root : Path or None
        By default ``ROOTSTOCK_ROOT``, or the cluster's.
    settings : sequence of str
        ``KEY=VALUE``, outranking what the root was installed with, which outranks the registry.
    group : str or None
        The same as the setting ``access.group``.
    installed : bool
        Whether the root must be there already.
    brought : Scope, optional
        The cluster of a bundle. Its settings outrank the packaged ones only.

    Raises
    ------
    ConfigurationError
        If nothing names a cluster, no file knows it, or a setting is wrong.
    RootError
        If there is no root where there must be one.
    """
    if root is None and not name and (variable := os.environ.get("ROOTSTOCK_ROOT")):
        root = Path(variable)
    layout = None if root is None else RootLayout(absolute(root))
    if layout is not None and installed:
        read_marker(layout)  # a folder that is no root says nothing about its cluster
    registry = [*scopes(brought), *([_root_scope(layout)] if layout else [])]
    name, host = _cluster_name(name or (brought.default if brought else ""), layout, registry)
    arguments = dict(map(parse_setting, settings)) | ({"access.group": group} if group else {})
    if layout is None or not installed:  # before the arguments, which say something of any name
        described = cluster_from(registry, name, "" if installed else _DESCRIBE.format(name=name))
    if layout is None:
        layout = RootLayout(root_of(described).absolute())
        registry.append(_root_scope(layout))
    else:
        arguments = {"root": str(layout.root), **arguments}
    if installed and (owner := read_marker(layout).get("cluster")) != name:
        raise RootError(
            f"{layout.root} is the root of cluster {owner!r}, not {name!r}.",
            f"Use --cluster {owner}, or another --root.",
        )
    cluster = cluster_from([*registry, Scope("argument", {name: arguments})], name)
    return Site(layout, cluster, (layout.templates,), host)


def _root_scope(layout: RootLayout) -> Scope:
    """Return what a root was installed with; nothing for a root that is yet to be made."""
    try:
        return read_scope(layout.clusters_file)
    except (FileNotFoundError, NotADirectoryError):
        return Scope("", {})


def _cluster_name(name: str | None, layout: RootLayout | None, registry: list[Scope]) -> tuple[str, str]:
    if not name and layout is not None:
        name = _root_scope(layout).default
    name = name or default_cluster()
    if name == AUTO:
        return recognise(registry)
    if name:
        return name, ""
    try:
        return recognise(registry)
    except ConfigurationError as error:
        raise ConfigurationError(f"Which cluster is this for? {error.message}", error.hint) from None


def is_new(layout: RootLayout) -> bool:
    """Tell whether a root is yet to be made.

    Raises
    ------
    RootError
        If the folder holds something else.
    """
    try:
        if layout.marker.exists():
            return False
        strangers = layout.strangers()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise RootError(
            f"Cannot use {layout.root} as a root: {error.strerror}.", "Name another folder with --root."
        ) from error
    # Folders of ours are what an installation leaves that was cut off before its first file, or an admin has put an
    # environment file there beforehand.
    if strangers:
        raise RootError(
            f"{layout.root} is not a Rootstock root, and not empty: it holds {', '.join(strangers[:3])}.",
            "Choose an empty folder.",
        )
    return True


def installed_site(layout: RootLayout) -> Site:
    """Return a root with the settings that it was installed with; those of a personal machine if it never was."""
    scope = _root_scope(layout)
    return Site(layout, get_cluster(scope.default or "local", scope), (layout.templates,))


def users_site(layout: RootLayout, *, strict: bool = False) -> Site:
    """Return a root with the settings that a user's jobs go by: what the user's own file says outranks the root's.

    Parameters
    ----------
    layout : RootLayout
    strict : bool
        Whether a file that cannot be read is an error: jobs would go without what it says.

    Raises
    ------
    ConfigurationError
        If a setting is wrong.
    """
    name, registry = _root_scope(layout).default or "local", scopes(root=layout.root)
    if strict and (problem := next((scope.problem for scope in registry if scope.problem), "")):
        raise ConfigurationError(problem, "Correct it: jobs would go without what it says.")
    return Site(layout, cluster_from(registry, name), (layout.templates,))


def moved_from(layout: RootLayout) -> Path | None:
    """Return the path that a root was installed at, if that is not this folder by another name; else None.

    Raises
    ------
    ConfigurationError
        If the root's own registry is not valid.
    """
    scope = _root_scope(layout)
    noted = scope.clusters.get(scope.default, {}).get("root")
    if not isinstance(noted, str) or not noted:
        return None
    try:
        return None if os.path.samefile(noted, layout.root) else Path(noted)
    except OSError:
        return Path(noted)


def check_place(layout: RootLayout) -> None:
    """Refuse a root that was moved or copied.

    Raises
    ------
    RootError
        With the path that its modulefiles and activation scripts lead to.
    """
    if before := moved_from(layout):
        raise RootError(
            f"{layout.root} was installed as {before}: its modulefiles and activation scripts lead there.",
            f"If you have moved or copied it, mend it: rootstock-site install --root {layout.root}",
        )


def installed_versions(layout: RootLayout) -> list[str]:
    """Return the versions of Rootstock that a root holds, oldest first."""
    return sorted((path.name for path in layout.runtimes.glob("[!.]*") if path.is_dir()), key=version_order)


def has_client(layout: RootLayout, version: str) -> bool:
    """Tell whether a root holds what the module of a version puts on PATH: ``install --no-client`` leaves it out.

    Parameters
    ----------
    layout : RootLayout
    version : str
        Empty: no.
    """
    return bool(version) and (layout.client(version) / "bin").is_dir()


def newer_versions(layout: RootLayout) -> list[str]:
    """Return the versions of Rootstock in a root that are newer than this one."""
    return [version for version in installed_versions(layout) if version_order(version) > version_order(__version__)]


def version_order(version: str) -> tuple[bool, Version, str]:
    """Return what sorts versions as releases follow each other: 2026.9.1 comes before 2026.12.0."""
    from packaging.version import InvalidVersion, Version

    try:
        return True, Version(version), version
    except InvalidVersion:  # a folder that somebody has made
        return False, Version("0"), version
