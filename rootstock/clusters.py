"""The registry of clusters: what is known about each, and which file said so.

A cluster is a table of settings. They are merged from several files, each outranking those before it::

    packaged    site_templates/clusters/NAME.toml
    site        /etc/rootstock/clusters.toml, then {ROOTSTOCK_ROOT}/clusters.toml
    user        clusters.toml in the user's configuration folder (~/.config/rootstock)
    argument    what a command line or a call says

The site's and the user's files hold ``[clusters.NAME]`` tables, and may name a default cluster with
``default = "NAME"``. All of them are read when they are asked for, never at import.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import platformdirs

from rootstock.data import data_folder
from rootstock.errors import ConfigurationError
from rootstock.layout import RootLayout

SITE_FILE = Path("/etc/rootstock/clusters.toml")


def _key(name: str, default: Any, choices: tuple[str, ...] = ()) -> Any:
    factory = {"default_factory": tuple} if default == () else {"default": default}
    return field(metadata={"key": name, "choices": choices}, **factory)


@dataclass(frozen=True)
class Cluster:
    """Settings of one cluster. The key of each in a cluster file stands beside it."""

    name: str
    origins: Mapping[str, str] = field(compare=False, repr=False)

    description: str = _key("description", "")
    root: str = _key("root", "")
    environments: tuple[str, ...] = _key("environments", ())
    hosts: tuple[str, ...] = _key("hosts", ())
    contact: str = _key("contact", "")
    url: str = _key("url", "")

    readers: str = _key("access.readers", "world", ("world", "group", "owner"))
    group: str = _key("access.group", "")

    scheduler: str = _key("jobs.scheduler", "none", ("slurm", "pbs", "none"))
    network: str = _key("jobs.network", "open", ("none", "proxy", "open"))
    proxy: str = _key("jobs.proxy", "")
    scratch: str = _key("jobs.scratch", "TMPDIR")
    # How a job asks for its {cpus} and {gpus}, where that is not the scheduler's usual way.
    directives: tuple[str, ...] = _key("jobs.directives", ())

    module_system: str = _key("modules.system", "none", ("lmod", "tcl", "none"))
    module_depends: tuple[str, ...] = _key("modules.depends", ())

    accelerator: str = _key("hardware.accelerator", "cpu", ("cuda", "rocm", "xpu", "cpu"))
    architecture: str = _key("hardware.architecture", "x86_64", ("x86_64", "aarch64"))

    interpreter: str = _key("python.interpreter", "auto")

    default_index: str = _key("uv.default-index", "")
    indexes: tuple[str, ...] = _key("uv.index", ())
    find_links: tuple[str, ...] = _key("uv.find-links", ())
    constraints: tuple[str, ...] = _key("uv.constraints", ())
    overrides: tuple[str, ...] = _key("uv.overrides", ())

    notes: tuple[str, ...] = _key("notes", ())

    def settings(self) -> dict[str, Any]:
        """Return the value of every key."""
        return {f.metadata["key"]: getattr(self, f.name) for f in _KEYED}


_KEYED = [f for f in fields(Cluster) if f.metadata]
_BY_KEY = {f.metadata["key"]: f for f in _KEYED}


@dataclass(frozen=True)
class Scope:
    """What one file, or the caller, says about clusters."""

    origin: str
    clusters: Mapping[str, Mapping[str, Any]]
    default: str = ""


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``. A key that takes a list takes its values separated by commas.

    >>> parse_setting("uv.constraints=torch==2.8.0,numpy<2")
    ('uv.constraints', ['torch==2.8.0', 'numpy<2'])
    """
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigurationError(f"{text!r} is not KEY=VALUE.", "For example: --set access.readers=group")
    if key in _BY_KEY and _takes_list(key):
        return key, [part.strip() for part in value.split(",") if part.strip()]
    return key, value


def argument_scope(name: str, settings: Mapping[str, Any]) -> Scope:
    """Return the scope of the caller's own settings for cluster `name`, given by dotted key."""
    return Scope("argument", {name: _nest(settings)})


def scopes() -> list[Scope]:
    """Read every scope but the caller's, lowest rank first."""
    found = packaged_scopes()
    shared = [SITE_FILE]
    if root := os.environ.get("ROOTSTOCK_ROOT"):
        shared.append(RootLayout(Path(root)).clusters_file)
    for path in (*shared, Path(platformdirs.user_config_dir("rootstock")) / "clusters.toml"):
        try:
            found.append(read_scope(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigurationError(f"Cannot read the cluster registry {path}: {error.strerror}.") from error
    return found


def packaged_scopes() -> list[Scope]:
    """Read the cluster files that come with Rootstock."""
    paths = sorted((data_folder("site_templates") / "clusters").glob("*.toml"))
    return [Scope(str(path), {path.stem: _read(path)}) for path in paths]


def read_scope(path: Path) -> Scope:
    """Read a registry file of the site or of the user."""
    data = _read(path)
    clusters, default = data.get("clusters", {}), data.get("default", "")
    if not isinstance(clusters, dict) or not all(isinstance(table, dict) for table in clusters.values()):
        raise ConfigurationError(f"{path}: 'clusters' must hold one table for each cluster, [clusters.NAME].")
    if not isinstance(default, str):
        raise ConfigurationError(f"{path}: 'default' must be the name of a cluster.")
    if unknown := sorted(set(data) - {"clusters", "default"}):
        raise ConfigurationError(f"{path}: unknown key {unknown[0]!r}; there are 'default' and [clusters.NAME] tables.")
    return Scope(str(path), clusters, default)


def cluster_names(found: list[Scope] | None = None) -> list[str]:
    """Return the names of all known clusters."""
    return sorted({name for scope in (scopes() if found is None else found) for name in scope.clusters})


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


def cluster_from(found: list[Scope], name: str) -> Cluster:
    """Return the settings of a cluster by the scopes `found`, lowest rank first; raise as `get_cluster` does."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for scope in found:
        for key, value in _flatten(scope.clusters.get(name, {})):
            values[key] = _checked(key, value, f"{scope.origin}, cluster {name}")
            origins[key] = scope.origin
    if not values:
        raise ConfigurationError(
            f"Unknown cluster {name!r}. Known clusters: {', '.join(cluster_names(found))}.",
            "For any other place give its path: root='/path/to/rootstock'.",
        )
    return Cluster(name=name, origins=origins, **{_BY_KEY[key].name: value for key, value in values.items()})


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
    root = get_cluster(name).root
    if not root:
        raise ConfigurationError(
            f"Cluster {name!r} has no root of its own.", "Give its path: root='/path/to/rootstock'."
        )
    return Path(root).expanduser()


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
        return Path(root).expanduser().absolute()
    cluster = cluster or os.environ.get("ROOTSTOCK_CLUSTER") or default_cluster()
    return get_root_for_cluster(cluster).absolute() if cluster else None


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


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, last = key.split(".")
        inner = table
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return table


def _takes_list(key: str) -> bool:
    return str(_BY_KEY[key].type).startswith("tuple")


def _checked(key: str, value: Any, where: str) -> Any:
    if key not in _BY_KEY:
        raise ConfigurationError(f"{where}: unknown key {key!r}.", f"Known keys: {', '.join(sorted(_BY_KEY))}.")
    if _takes_list(key):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigurationError(f"{where}: {key} must be a list of strings, not {value!r}.")
    elif not isinstance(value, str):
        raise ConfigurationError(f"{where}: {key} must be a string, not {value!r}.")
    # One line each: these values end up in modulefiles and scripts, where a line break would begin a new command.
    for text in value if isinstance(value, list) else [value]:
        if not text.isprintable():
            raise ConfigurationError(f"{where}: {key} holds a control character: {text!r}.")
    choices = _BY_KEY[key].metadata["choices"]
    if choices and value not in choices:
        raise ConfigurationError(f"{where}: {key} is {value!r}; allowed are {', '.join(choices)}.")
    return tuple(value) if isinstance(value, list) else value
