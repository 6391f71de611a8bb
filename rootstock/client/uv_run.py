"""Environments that uv makes for a worker, where there is no build: in a root that the caller may write to."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from rootstock.builds.uv import find_uv, package_cache
from rootstock.builds.uv_scripts import recipe_text, wrapper_file
from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.site import installed_site
from rootstock.errors import ConfigurationError, RootError
from rootstock.root.layout import RootLayout, absolute
from rootstock.root.variants import how_to_build
from rootstock.root.weights import OFFLINE, home_links

_VARIABLES = dict.fromkeys(
    ("PYTHONSAFEPATH", "PYTHONNOUSERSITE", "PYTHONUNBUFFERED", "UV_NO_CONFIG", "UV_NO_PROGRESS"), "1"
)
_PACKAGES = {"uv": "uv", "tomli-w": "tomli_w"}  # by their modules: all else that a calculator needs comes with ASE


class EnvironmentManager:
    """Where the environments of a root get their packages and weights from.

    Parameters
    ----------
    root : str or Path
        The root. It need not exist for `get_environment_variables`.
    """

    __module__ = "rootstock.environment"  # where it is imported from

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.layout = RootLayout(absolute(Path(root)))

    def get_spawn_command(self, wrapper_path: str | os.PathLike[str]) -> list[str]:
        """Return the command that runs a script with inline metadata in an environment that uv makes for it.

        Parameters
        ----------
        wrapper_path : path
            The script. uv reuses the environment for the same path and requirements.

        Returns
        -------
        list of str
            ``uv run --cache-dir {root}/cache/uv ... --script wrapper_path``; the folder is created. If the root's
            cluster has the setting ``uv.cache``, it is that folder.

        Raises
        ------
        RootError
            If the cache cannot be created.
        """
        cache = package_cache(installed_site(self.layout))
        return [find_uv(), "run", "--cache-dir", str(cache), "--no-project", "--script", str(wrapper_path)]

    def get_environment_variables(self) -> dict[str, str]:
        """Return the variables that point uv and the model libraries to the caches in the root."""
        return {"UV_CACHE_DIR": str(self.layout.uv_cache), "HF_HOME": str(self.layout.huggingface_cache)}


def uv_variables(variables: Mapping[str, str], layout: RootLayout, source: EnvironmentSource) -> dict[str, str]:
    """Return the variables of a worker that uv starts, given those of one in a build.

    The root is the caller's own: weights may be fetched on first use.

    Parameters
    ----------
    variables, layout, source
    """
    dropped = {"UV_CACHE_DIR", *OFFLINE}  # the command names uv's cache
    kept = {name: value for name, value in variables.items() if name not in dropped} | _VARIABLES
    if source.home_folders:
        for folder in home_links(source.home_folders).values():
            (layout.cache / folder).mkdir(parents=True, exist_ok=True)
        data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        kept = {"UV_PYTHON_INSTALL_DIR": os.path.join(data, "uv", "python")} | kept  # uv's own, whatever HOME is
    return kept


def uv_command(layout: RootLayout, source: EnvironmentSource, *, registered: bool) -> list[str]:
    """Return the command that runs a Python with the packages that an environment file asks for.

    Parameters
    ----------
    layout, source
    registered : bool
        Whether the environment is one of the root's.

    Raises
    ------
    ConfigurationError
        If a package for it is missing, as where Rootstock was installed beside ASE without its own.
    RootError
        If the caller may not write to the root.
    """
    name = source.name
    if missing := [package for package, module in _PACKAGES.items() if find_spec(module) is None]:
        raise ConfigurationError(
            f"Environment {name!r} has no build in {layout.root}. To make an environment for it, Rootstock needs "
            f"{' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed here.",
            f"Install: {sys.executable} -m pip install {' '.join(missing)}",
        )
    try:
        layout.wrappers.mkdir(parents=True, exist_ok=True)
        cluster = installed_site(layout).cluster
        wrapper = wrapper_file(layout.wrappers, recipe_text(source.header, cluster, cluster.accelerator))
    except OSError as error:
        raise RootError(
            f"Environment {name!r} has no build in {layout.root}, and you cannot write there "
            f"({error.strerror}) to make one.",
            how_to_build(layout, name if registered else source.path),
        ) from error
    return EnvironmentManager(layout.root).get_spawn_command(wrapper)
