"""Which environment file an administrator means: one given by its path, the root's own, the bundle's, or ours."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rootstock.admin.bundle import Bundle
from rootstock.config.environment_file import EnvironmentSource, packaged_names, packaged_source, read_source
from rootstock.config.model_string import is_environment_name
from rootstock.config.site import newer_versions
from rootstock.errors import ConfigurationError
from rootstock.root.layout import RootLayout
from rootstock.root.managed_files import Written, is_ours
from rootstock.root.user_folders import expanded


def find_sources(
    layout: RootLayout, names: Iterable[str], written: Written | None = None, bundle: Bundle | None = None
) -> list[EnvironmentSource]:
    """Return environment files, as `find_source` finds them.

    Parameters
    ----------
    layout, written, bundle
        See `find_source`.
    names : iterable of str
        Names or paths.

    Raises
    ------
    ConfigurationError
        If two of them are of one name.
    """
    sources: dict[str, EnvironmentSource] = {}
    for name in names:
        source = find_source(layout, name, written, bundle)
        if (other := sources.setdefault(source.name, source)).path != source.path:
            raise ConfigurationError(
                f"{other.path} and {source.path} are both of an environment {source.name!r}.", "Name one of them."
            )
    return list(sources.values())


def find_source(
    layout: RootLayout, name: str, written: Written | None = None, bundle: Bundle | None = None
) -> EnvironmentSource:
    """Return an environment file: one given by its path, the root's own if an admin wrote it, the bundle's, or ours.

    Parameters
    ----------
    layout : RootLayout
    name : str
        Name of the environment, or path of a file.
    written : Mapping, optional
        The marker's hashes of what we wrote; without it, every file in the root counts as an admin's.
    bundle : Bundle, optional

    Raises
    ------
    ConfigurationError
        If a file's name cannot be an environment's, or the file is none.
    UnknownEnvironmentError
        If there is no such environment.
    """
    if name.endswith(".py") or os.sep in name:
        path = expanded(Path(name)).absolute()
        if not is_environment_name(path.stem):
            raise ConfigurationError(
                f"{path.stem!r} cannot be an environment's name.", "Letters, digits, '.', '_' and '-' can be in one."
            )
        return read_source(path)
    path, brought = layout.environment_file(name), bundle is not None and name in bundle.environments
    if os.path.lexists(path):
        # A file of a release that is newer than this one is not taken back to this one's; a link to nothing is told.
        known = brought or (name in packaged_names() and not newer_versions(layout))
        if not known or not path.exists() or not is_ours(layout.root, path, written or {}):
            return read_source(path)
    return read_source(bundle.environment(name)) if bundle and brought else packaged_source(name)
