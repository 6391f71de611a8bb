"""From what a user calls a model to the environment file and the build that serve it.

This is done once for each calculator: a `ResolvedModel` is passed on, and nothing looks for the same again.
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

from rootstock.client.launch import LAUNCH_MODES, ResolvedModel
from rootstock.config.devices import check_device_name
from rootstock.config.environment_file import packaged_names, read_header, read_source, registered_names
from rootstock.config.model_names import find_alias, model_strings, packaged_strings
from rootstock.config.model_string import at_home, did_you_mean, is_environment_name, parse_model_string
from rootstock.errors import ConfigurationError, RootError, RootstockError, UnknownEnvironmentError
from rootstock.root.disk_usage import number_of
from rootstock.root.in_use import published_builds
from rootstock.root.layout import RootLayout
from rootstock.root.records import BUILD_SOURCE, active_build, read_marker
from rootstock.root.variants import fitting_build, how_to_build

logger = logging.getLogger("rootstock")


def resolve(layout: RootLayout, model: str, device: str = "", mode: str = "auto") -> ResolvedModel:
    """Return the model of a root that a model string or an alias means, for a device.

    An environment's own name and model win: an alias is looked for where there is no such environment, or where its
    file lists all models and not this one.

    Parameters
    ----------
    layout : RootLayout
    model : str
        A model string such as ``mace-medium``, or an alias such as ``mace-mp-0-medium``.
    device : str
        What it is to compute on: of several builds, the one for this machine and this device is taken.
    mode : {'auto', 'build', 'uv-run'}
        See `resolve_environment`.

    Raises
    ------
    ConfigurationError
        If the environment has no such model.
    RootError
        If the root is none or cannot be read; and as `resolve_environment`.
    UnknownEnvironmentError
        If it has no such environment.
    """
    try:
        return _resolve(layout, *_split(layout, model), device, mode)
    except (ConfigurationError, UnknownEnvironmentError):
        if (found := find_alias(layout, model)) is None:
            raise
    return _resolve(layout, *found, device, mode)


def _resolve(layout: RootLayout, name: str, argument: str, device: str, mode: str) -> ResolvedModel:
    resolved = resolve_environment(layout, name, argument, device, mode)
    resolved.source.check_model(argument)
    return resolved


def find_model(layout: RootLayout, model: str) -> tuple[str, str]:
    """Return the environment and the argument of its ``setup()`` that a model string or an alias means; see `resolve`.

    Parameters
    ----------
    layout : RootLayout
    model : str
        A model string such as ``mace-medium``, or an alias.

    Raises
    ------
    ConfigurationError
        If two environments have the alias.
    RootError
        If the root is none, or cannot be read.
    UnknownEnvironmentError
        If it has no such environment.
    """
    name, argument = _split(layout, model)
    try:
        require_environment(layout, name)
        build = active_build(layout.active(name))
        read_header(build / BUILD_SOURCE if build else layout.environment_file(name), name).check_model(argument)
    except RootstockError as error:
        if found := find_alias(layout, model):
            return found
        if isinstance(error, UnknownEnvironmentError):
            raise
    return name, argument  # whoever reads its file refuses what it lacks


def _split(layout: RootLayout, model: str) -> tuple[str, str]:
    read_marker(layout)
    # Those that ship with Rootstock count where they are not installed: what is missing is then named rightly.
    return parse_model_string(model, [*registered_names(layout), *packaged_names()])


def resolve_environment(
    layout: RootLayout, environment: str | Path, argument: str = "", device: str = "", mode: str = "auto"
) -> ResolvedModel:
    """Return a model of an environment by the argument for its ``setup()``, which is not checked.

    Parameters
    ----------
    layout : RootLayout
    environment : str or Path
        The name of an environment of the root, or the path of a file of the user's own, which has no build.
    argument : str
    device : str
        As in `resolve`.
    mode : {'auto', 'build', 'uv-run'}
        ``build`` takes the build in use. ``uv-run`` lets uv make or reuse an environment in its cache, which needs a
        root that the caller may write to. ``auto`` takes the build; where none was ever made, it lets uv do that, and
        logs a warning.

    Raises
    ------
    ConfigurationError
        If there is no such mode, the device is a misspelt one, or the environment file is not valid.
    RootError
        If there is no build for such a machine; or none at all, in mode ``build``.
    UnknownEnvironmentError
        If there is no such environment.
    """
    if mode not in LAUNCH_MODES:
        raise ConfigurationError(f"launch={mode!r} is unknown; it is one of {', '.join(LAUNCH_MODES)}.")
    if device:
        check_device_name(device)
    if isinstance(environment, str):
        require_environment(layout, environment)
        path = layout.environment_file(environment)
    else:
        path = environment
    registered = path == layout.environment_file(path.stem)
    build = fitting_build(layout, path.stem, device) if registered and mode != "uv-run" else None
    source = read_source(build / BUILD_SOURCE if build else path, path.stem)
    if build is None and registered and mode != "uv-run":
        _check_never_built(layout, source.name)
    if build is None and mode == "build":
        raise RootError(
            f"Environment {source.name!r} has no build in {layout.root}.", how_to_build(layout, environment)
        )
    if build is None and registered and mode == "auto":
        _warn_of_uv(layout, source.name)
    return ResolvedModel(layout, source, at_home(argument), build, registered)


def resolve_build(layout: RootLayout, environment: str, argument: str, digest: str) -> ResolvedModel | None:
    """Return a model of a build that the root holds, in use or not; None if it does not hold it.

    Parameters
    ----------
    layout : RootLayout
    environment : str
        The name of an environment of the root.
    argument : str
        Argument of its ``setup()``.
    digest : str
        The build's.
    """
    build = next((build for build in published_builds(layout, environment) if build.name == digest), None)
    if build is None:
        return None
    source = read_source(build / BUILD_SOURCE, environment)
    return ResolvedModel(layout, source, at_home(argument), build, registered=True)


def _check_never_built(layout: RootLayout, name: str) -> None:
    if builds := list(published_builds(layout, name)):
        raise RootError(
            f"Environment {name!r} has no build in use in {layout.root}: it was taken out of use. "
            f"{number_of(len(builds), 'build')} of it {'is' if len(builds) == 1 else 'are'} there.",
            how_to_build(layout, name),
        )


@functools.cache  # it is said once
def _warn_of_uv(layout: RootLayout, name: str) -> None:
    logger.warning(
        "Environment %r has no build in %s: uv installs its packages when a worker starts. %s",
        name, layout.root, how_to_build(layout, name),
    )  # fmt: skip


def require_environment(layout: RootLayout, name: str) -> None:
    """Refuse an environment that a root does not hold.

    Parameters
    ----------
    layout : RootLayout
    name : str
        Name of the environment.

    Raises
    ------
    UnknownEnvironmentError
        With the places that were looked at, the environments that there are, and what may have been meant.
    """
    if is_environment_name(name) and os.path.lexists(layout.environment_file(name)):  # whoever reads it says what it is
        return
    registered, packaged = registered_names(layout), packaged_names()
    meant = did_you_mean(name, model_strings(layout))
    if not meant and name not in packaged:
        meant = did_you_mean(name, packaged_strings(), " (not installed here)")
    others = [name] if name in packaged else sorted({*registered, *packaged})
    raise UnknownEnvironmentError(
        f"Environment {name!r} not found in {layout.environments}. "
        f"Available there: {', '.join(registered) or 'none'}.{meant}",
        f"An admin adds {'it' if len(others) == 1 else 'one of ' + ', '.join(others)} with: rootstock-site install "
        f"--root {layout.root} --env {others[0] if len(others) == 1 else 'NAME'}",
    )
