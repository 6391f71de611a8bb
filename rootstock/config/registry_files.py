"""The files of the cluster registry: where they are, and what each says.

The files, each outranking those before it::

    packaged    site_templates/clusters/NAME.toml
    bundle      what `install --bundle` brings along
    site        /etc/rootstock/clusters.toml, then {ROOTSTOCK_ROOT}/clusters.toml
    user        clusters.toml in the user's configuration folder (~/.config/rootstock)

The site's and the user's files hold ``[clusters.NAME]`` tables, and may name a default cluster with
``default = "NAME"``.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock.config.packaged import data_folder
from rootstock.errors import ConfigurationError
from rootstock.root.layout import RootLayout
from rootstock.root.plain_files import TEXT_LIMIT, UnfitFileError, parse_toml, read_text
from rootstock.root.user_folders import user_folder

SITE_FILE = Path("/etc/rootstock/clusters.toml")


class RegistryWarning(UserWarning):
    """A registry file, or a cluster in it, cannot be read; the others are used."""


@dataclass(frozen=True)
class Scope:
    """What one file, or the caller, says about clusters; settings are in tables, as in a file, or by dotted key.

    A file that cannot be read says nothing, and `problem` says why.
    """

    origin: str
    clusters: Mapping[str, Mapping[str, Any]]
    default: str = ""
    problem: str = ""


def scopes(brought: Scope | None = None, root: Path | None = None) -> list[Scope]:
    """Read every scope but the caller's, lowest rank first; what a bundle has brought outranks packaged ones only.

    A file that cannot be read, such as one in a home whose ticket has expired, keeps nobody from the others.

    Parameters
    ----------
    brought : Scope, optional
        Of a bundle.
    root : Path, optional
        The root whose file counts; by default ``ROOTSTOCK_ROOT``.

    Warns
    -----
    RegistryWarning
        If a file cannot be read, or is no registry.
    """
    registry = [*packaged_scopes(), *([brought] if brought else []), *map(_lenient, _files(root))]
    for scope in registry:
        if scope.problem:
            warnings.warn(f"{scope.problem} Its settings are not used.", RegistryWarning, stacklevel=1)
    return registry


def _files(root: Path | None) -> Iterator[Path]:
    yield SITE_FILE
    if root is None and (variable := os.environ.get("ROOTSTOCK_ROOT")):
        root = Path(variable)
    if root is not None:
        yield RootLayout(root).clusters_file
    with contextlib.suppress(ConfigurationError):  # no home, so no file in it
        yield user_folder("XDG_CONFIG_HOME", "~/.config") / "clusters.toml"


def _lenient(path: Path) -> Scope:
    """Read a registry file; one that cannot be read says nothing but why."""
    try:
        return read_scope(path)
    except (FileNotFoundError, NotADirectoryError):
        return Scope(str(path), {})
    except OSError as error:
        problem = f"Cannot read the cluster registry {path}: {error.strerror}."
    except ConfigurationError as error:
        problem = error.message
    return Scope(str(path), {}, problem=problem)


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


def _read(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_text(path, TEXT_LIMIT))
    except UnfitFileError as error:
        raise ConfigurationError(f"Cannot read the cluster registry {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.") from error
