"""The registry of clusters: what is known about each, and which root a command or a call means.

A cluster is a table of settings, merged from several files (`rootstock.config.registry_files`), each outranking those
before it, and from what a command line or a call says. All of them are read when they are asked for, never at import.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rootstock.config.cluster_settings import Cluster, check_setting, field_name, flatten, parse_setting
from rootstock.config.model_string import did_you_mean
from rootstock.config.registry_files import RegistryWarning, Scope, packaged_scopes, read_scope, scopes
from rootstock.errors import ConfigurationError
from rootstock.root.layout import absolute
from rootstock.root.user_folders import expanded

__all__ = [
    "AUTO", "CLUSTER_REGISTRY", "Cluster", "RegistryWarning", "Scope", "cluster_from", "cluster_names",
    "default_cluster", "find_root", "get_cluster", "get_root_for_cluster", "known_clusters", "packaged_scopes",
    "parse_setting", "read_scope", "recognise", "require_root", "root_of", "scopes",
]  # fmt: skip

AUTO = "auto"  # in place of a cluster's name: the one that this machine belongs to
_PATH = "root='/path/to/rootstock' in Python, --root /path/to/rootstock in a command"


def cluster_names(registry: list[Scope] | None = None) -> list[str]:
    """Return the names of all known clusters; by default those of `scopes`."""
    return sorted({name for scope in (scopes() if registry is None else registry) for name in scope.clusters})


def known_clusters(registry: list[Scope] | None = None) -> list[Cluster]:
    """Return all known clusters whose settings are right; by default those of `scopes`.

    Warns
    -----
    RegistryWarning
        If a setting of a cluster is wrong.
    """
    registry, clusters = scopes() if registry is None else registry, []
    for name in cluster_names(registry):
        try:
            clusters.append(cluster_from(registry, name))
        except ConfigurationError as error:
            warnings.warn(f"Cluster {name} is left out: {error.message}", RegistryWarning, stacklevel=1)
    return clusters


def default_cluster() -> str:
    """Return the cluster of ``ROOTSTOCK_CLUSTER``, or the registry's default, the user's before the site's; or none."""
    return os.environ.get("ROOTSTOCK_CLUSTER") or next(
        (scope.default for scope in reversed(scopes()) if scope.default), ""
    )


def get_cluster(name: str, *extra: Scope) -> Cluster:
    """Return the settings of a cluster.

    Parameters
    ----------
    name : str
        A registered cluster; ``auto`` for the one that this machine's name fits.
    *extra : Scope
        Scopes that outrank all others.

    Raises
    ------
    ConfigurationError
        If no scope knows the cluster, or a value is wrong. It names the file, the key and what is allowed.
    """
    registry = [*scopes(), *extra]
    return cluster_from(registry, recognise(registry)[0] if name == AUTO else name)


def cluster_from(registry: list[Scope], name: str, hint: str = "") -> Cluster:
    """Return the settings of a cluster as some scopes say them.

    Parameters
    ----------
    registry : list of Scope
        Lowest rank first.
    name : str
        The cluster.
    hint : str
        What to do about an unknown one; by default what a user does.

    Raises
    ------
    ConfigurationError
        As `get_cluster`.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for scope in registry:
        for key, value in flatten(scope.clusters.get(name, {})):
            values[key] = check_setting(key, value, f"{scope.origin}, cluster {name}")
            origins[key] = scope.origin
    if name not in (known := cluster_names(registry)):
        unread = "".join(f"\n{scope.problem}" for scope in registry if scope.problem)
        raise ConfigurationError(
            f"Unknown cluster {name!r}.{did_you_mean(name, known)} Known clusters: {', '.join(known)}.{unread}",
            hint or f"For any other place give its path: {_PATH}.",
        )
    return Cluster(name=name, origins=origins, **{field_name(key): value for key, value in values.items()})


def recognise(registry: list[Scope] | None = None) -> tuple[str, str]:
    """Return the cluster, by default of `scopes`, whose patterns this machine's name fits, and that name.

    Raises
    ------
    ConfigurationError
        If it fits none, or several.
    """
    registry = scopes() if registry is None else registry
    patterns = {cluster.name: cluster.hosts for cluster in known_clusters(registry)}
    host, names = "", []
    # The short name is there at once; the full one may take the name service a while.
    for ask in (socket.gethostname, socket.getfqdn):
        host = ask()
        names = [name for name, hosts in patterns.items() if any(fnmatchcase(host, pattern) for pattern in hosts)]
        if names:
            break
    if len(names) != 1:
        fits = f"fits several clusters: {', '.join(names)}" if names else "fits no known cluster"
        raise ConfigurationError(
            f"The name of this machine, {host!r}, {fits}.",
            f"Give --cluster NAME (in Python: cluster='NAME'). Known: {', '.join(cluster_names(registry))}.",
        )
    return names[0], host


def get_root_for_cluster(name: str) -> Path:
    """Return the root of a registered cluster.

    Parameters
    ----------
    name : str
        As for `get_cluster`; `rootstock cluster list` shows those that are registered.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the cluster is not registered. The message lists those that are.
    """
    return root_of(get_cluster(name))


def root_of(cluster: Cluster) -> Path:
    """Return the root of a cluster.

    Raises
    ------
    ConfigurationError
        If it has none of its own.
    """
    if not cluster.root:
        raise ConfigurationError(
            f"Cluster {cluster.name!r} is a template: only its site knows where the root is.",
            f"Give its path: {_PATH}.",
        )
    return expanded(Path(cluster.root))


def find_root(cluster: str | None, root: str | os.PathLike[str] | None) -> Path | None:
    """Return the root that the arguments, the variables or the user's registry name, in this order.

    Parameters
    ----------
    cluster : str or None
        As for `get_cluster`.
    root : path or None
        A root. Not both.

    Returns
    -------
    Path or None
        None if nothing names one.

    Raises
    ------
    ValueError
        If both are given, or the cluster is unknown.
    """
    for name, value in (("cluster", cluster), ("root", root)):
        if value is not None and not os.fspath(value):
            raise ConfigurationError(f"{name} is an empty string.", "Leave it out to take what the variables name.")
    if cluster and root:
        raise ConfigurationError("Cannot specify both 'cluster' and 'root'.", "Either finds the root; leave one out.")
    root = root or (None if cluster else os.environ.get("ROOTSTOCK_ROOT"))
    if root:
        return absolute(Path(root))
    cluster = cluster or default_cluster()
    return get_root_for_cluster(cluster).absolute() if cluster else None


def require_root(cluster: str | None, root: str | os.PathLike[str] | None) -> Path:
    """Return the root as `find_root` does.

    Parameters
    ----------
    cluster, root
        As `find_root`.

    Raises
    ------
    ValueError
        If nothing names one; and as `find_root`.
    """
    path = find_root(cluster, root)
    if path is None:
        raise ConfigurationError(
            "Must specify either 'cluster' or 'root'.",
            "Or run 'module load rootstock', set ROOTSTOCK_ROOT, or name a default cluster in "
            "~/.config/rootstock/clusters.toml.",
        )
    return path


class _Registry(Mapping[str, str]):
    """Cluster name -> root, read anew at each use so that a change of the site's files is seen."""

    def __getitem__(self, name: str) -> str:
        try:
            return str(get_root_for_cluster(name))
        except ConfigurationError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return (cluster.name for cluster in known_clusters() if cluster.root)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"CLUSTER_REGISTRY({dict(self)!r})"


CLUSTER_REGISTRY: Mapping[str, str] = _Registry()
