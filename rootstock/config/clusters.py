"""The registry of clusters: what is known about each, and which file said so.

A cluster is a table of settings. They are merged from several files, each outranking those before it::

    packaged    site_templates/clusters/NAME.toml
    bundle      what `install --bundle` brings along
    site        /etc/rootstock/clusters.toml, then {ROOTSTOCK_ROOT}/clusters.toml
    user        clusters.toml in the user's configuration folder (~/.config/rootstock)
    argument    what a command line or a call says

The site's and the user's files hold ``[clusters.NAME]`` tables, and may name a default cluster with
``default = "NAME"``. All of them are read when they are asked for, never at import.
"""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rootstock.config.cluster_settings import Cluster, check_setting, field_name, flatten, parse_setting
from rootstock.config.model_string import did_you_mean
from rootstock.config.packaged import data_folder
from rootstock.errors import ConfigurationError
from rootstock.root.layout import RootLayout, absolute
from rootstock.root.user_folders import user_folder

__all__ = [
    "AUTO", "CLUSTER_REGISTRY", "Cluster", "Scope", "cluster_from", "cluster_names", "default_cluster", "find_root",
    "get_cluster", "get_root_for_cluster", "packaged_scopes", "parse_setting", "read_scope", "recognise",
    "require_root", "root_of", "scopes",
]  # fmt: skip

AUTO = "auto"  # in place of a cluster's name: the one that this machine belongs to
_PATH = "root='/path/to/rootstock' in Python, --root /path/to/rootstock in a command"
SITE_FILE = Path("/etc/rootstock/clusters.toml")


@dataclass(frozen=True)
class Scope:
    """What one file, or the caller, says about clusters; settings are in tables, as in a file, or by dotted key."""

    origin: str
    clusters: Mapping[str, Mapping[str, Any]]
    default: str = ""


def scopes(brought: Scope | None = None) -> list[Scope]:
    """Read every scope but the caller's, lowest rank first; what a bundle has brought outranks packaged ones only.

    Raises
    ------
    ConfigurationError
        If a file cannot be read, or is no registry.
    """
    registry = [*packaged_scopes(), *([brought] if brought else [])]
    shared = [SITE_FILE]
    if root := os.environ.get("ROOTSTOCK_ROOT"):
        shared.append(RootLayout(Path(root)).clusters_file)
    for path in (*shared, user_folder("XDG_CONFIG_HOME", "~/.config") / "clusters.toml"):
        try:
            registry.append(read_scope(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigurationError(f"Cannot read the cluster registry {path}: {error.strerror}.") from error
    return registry


def packaged_scopes() -> list[Scope]:
    """Read the cluster files that come with Rootstock."""
    paths = sorted((data_folder("site_templates") / "clusters").glob("*.toml"))
    return [Scope(str(path), {path.stem: _read(path)}) for path in paths]


def read_scope(path: Path) -> Scope:
    """Read a registry file of the site or of the user.

    Raises
    ------
    ConfigurationError
        If it is no TOML, or holds anything else than clusters and a default one.
    """
    data = _read(path)
    clusters, default = data.get("clusters", {}), data.get("default", "")
    if not isinstance(clusters, dict) or not all(isinstance(table, dict) for table in clusters.values()):
        raise ConfigurationError(f"{path}: 'clusters' must hold one table for each cluster, [clusters.NAME].")
    if not isinstance(default, str):
        raise ConfigurationError(f"{path}: 'default' must be the name of a cluster.")
    if unknown := sorted(set(data) - {"clusters", "default"}):
        raise ConfigurationError(f"{path}: unknown key {unknown[0]!r}; there are 'default' and [clusters.NAME] tables.")
    return Scope(str(path), clusters, default)


def cluster_names(registry: list[Scope] | None = None) -> list[str]:
    """Return the names of all known clusters; by default those of `scopes`."""
    return sorted({name for scope in (scopes() if registry is None else registry) for name in scope.clusters})


def default_cluster() -> str:
    """Return the cluster that the user's or the site's registry names as the default; empty if none does."""
    return next((scope.default for scope in reversed(scopes()) if scope.default), "")


def get_cluster(name: str, *extra: Scope) -> Cluster:
    """Return the settings of a cluster.

    Parameters
    ----------
    name : str
        A registered cluster.
    *extra : Scope
        Scopes that outrank all others.

    Raises
    ------
    ConfigurationError
        If no scope knows the cluster, or a value is wrong. It names the file, the key and what is allowed.
    """
    return cluster_from([*scopes(), *extra], name)


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
        raise ConfigurationError(
            f"Unknown cluster {name!r}.{did_you_mean(name, known)} Known clusters: {', '.join(known)}.",
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
    patterns = {name: cluster_from(registry, name).hosts for name in cluster_names(registry)}
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
            f"Give --cluster NAME. Known: {', '.join(cluster_names(registry))}.",
        )
    return names[0], host


def get_root_for_cluster(name: str) -> Path:
    """Return the root of a registered cluster.

    Parameters
    ----------
    name : str
        A registered cluster, as `rootstock cluster list` shows them.

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
    return Path(cluster.root).expanduser()


def find_root(cluster: str | None, root: str | os.PathLike[str] | None) -> Path | None:
    """Return the root that the arguments, the variables or the user's registry name, in this order.

    Parameters
    ----------
    cluster : str or None
        A registered cluster.
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
    if cluster and root:
        raise ConfigurationError("Cannot specify both 'cluster' and 'root'.", "Either finds the root; leave one out.")
    root = root or (None if cluster else os.environ.get("ROOTSTOCK_ROOT"))
    if root:
        return absolute(Path(root))
    cluster = cluster or os.environ.get("ROOTSTOCK_CLUSTER") or default_cluster()
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
        return (name for name in cluster_names() if get_cluster(name).root)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"CLUSTER_REGISTRY({dict(self)!r})"


CLUSTER_REGISTRY: Mapping[str, str] = _Registry()


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.") from error
