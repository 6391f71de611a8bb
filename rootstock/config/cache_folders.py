"""The folders in which a model's library looks for weights, as an environment file names them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rootstock.errors import ConfigurationError
from rootstock.root.weights import home_links


def cache_variables(table: Mapping[str, Any], where: str) -> Mapping[str, str]:
    """Return the variables of a worker that lead to folders under the root's cache.

    Parameters
    ----------
    table : Mapping
        The table ``[tool.rootstock]`` of an environment file.
    where : str
        The file, for messages.

    Raises
    ------
    ConfigurationError
        If a folder would lie elsewhere: installations create these folders, and workers read what is in them.
    """
    variables: Mapping[str, Any] = table.get("cache", {})
    for name, folder in variables.items():
        place = f"{where}: [tool.rootstock.cache] {name}"
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigurationError(f"{place} is no name of an environment variable.")
        if not _is_inside(folder):
            raise ConfigurationError(f"{place} must name a folder under the root's cache, not {folder!r}.")
    return variables


def home_folders(table: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the folders below the home of a worker that lead into the root's cache.

    Parameters
    ----------
    table, where
        As for `cache_variables`.

    Raises
    ------
    ConfigurationError
        If one is no path below the home, or lies in another one: each is a link.
    """
    folders = tuple(dict.fromkeys(table.get("home", ())))
    for folder in folders:
        if not _is_inside(folder) or folder.startswith("~") or {"", "."} & {*folder.split("/")}:
            raise ConfigurationError(
                f"{where}: home must name folders below the home, such as .cache/sevennet, not {folder!r}."
            )
        if around := [other for other in folders if folder.startswith(f"{other}/")]:
            raise ConfigurationError(f"{where}: home names {folder!r}, which is in {around[0]!r} already.")
    return folders


def cache_folders(table: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return every folder under the root's cache where a library looks for weights.

    Parameters
    ----------
    table, where
        As for `cache_variables`; errors are those of both.
    """
    return (*cache_variables(table, where).values(), *home_links(home_folders(table, where)).values())


def _is_inside(folder: Any) -> bool:
    inside = isinstance(folder, str) and not folder.startswith("/") and ".." not in folder.split("/")
    return inside and folder != "" and folder.isprintable()
