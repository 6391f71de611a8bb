"""A model that was found, and the command and variables that start a worker of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from rootstock.builds.uv import clean_variables, find_uv, package_cache
from rootstock.builds.uv_scripts import recipe_text, wrapper_file
from rootstock.client.process import Launch
from rootstock.client.scratch import private_scratch
from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.model_string import is_path
from rootstock.config.site import installed_site
from rootstock.errors import RootError
from rootstock.root.layout import RootLayout, absolute
from rootstock.root.weights import (
    LEAD_ASTRAY,
    OFFLINE,
    WeightsFile,
    fetch_variables,
    own_weights,
    read_variables,
    weights_of,
    write_variables,
)

LAUNCH_MODES = ("auto", "build", "uv-run")

_UV_VARIABLES = dict.fromkeys(
    ("PYTHONSAFEPATH", "PYTHONNOUSERSITE", "PYTHONUNBUFFERED", "UV_NO_CONFIG", "UV_NO_PROGRESS"), "1"
)


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


@dataclass(frozen=True)
class ResolvedModel:
    """A model, and what its worker is started from: found once, and passed on.

    Every worker that is started from it runs the same build, whatever an admin puts into use meanwhile.

    Attributes
    ----------
    layout : RootLayout
        The root.
    source : EnvironmentSource
        The environment file: the one that the build was made from, where there is a build.
    argument : str
        Argument of ``setup()``; empty for the environment's default model.
    build : Path or None
        The build; None: uv makes an environment.
    registered : bool
        Whether the environment is one of the root's, and no file of the user's own.
    """

    layout: RootLayout
    source: EnvironmentSource
    argument: str = ""
    build: Path | None = None
    registered: bool = False

    def launch(self, threads: int = 0) -> Launch:
        """Say how to start a worker.

        Parameters
        ----------
        threads : int
            Number of threads of the worker's numerical libraries; 0 leaves that to them.

        Raises
        ------
        RootError
            If there is no build, and no permission to let uv make an environment; or the build was removed meanwhile.
        """
        if self.build is not None and not self.build.is_dir():
            raise RootError(
                f"The build {self.build.name} of {self.source.name!r} is gone from {self.layout.root}: gc removed it.",
                "Make a new calculator: it takes the build that is in use now.",
            )
        variables = self._variables(threads)
        if self.build is not None:
            mode, command = "build", [str(self.build / "bin" / "python"), "-I", "-B", "-u"]
        else:
            mode, command = "uv-run", self._uv_command()
            # The command names uv's cache. The root is the caller's own: weights may be fetched on first use.
            dropped = {"UV_CACHE_DIR", *OFFLINE}
            variables = {name: value for name, value in variables.items() if name not in dropped} | _UV_VARIABLES
        return Launch(self.source.name, tuple(command), variables, self.source.path, self.layout, mode, self.build)

    def launch_offline(self, home: Path) -> Launch:
        """Say how to start a worker as any user of the root does: with nothing of the caller's own home."""
        launch = self.launch(threads=1)
        variables = {name: value for name, value in launch.variables.items() if not name.startswith("XDG_")}
        return replace(launch, variables={**variables, "HOME": str(home)})

    def launch_fetch(self, cache: Path) -> Launch:
        """Say how to start a worker that fetches weights into the empty folder `cache`."""
        launch = self.launch(threads=1)
        proxy = installed_site(self.layout).cluster.proxy
        variables = {name: value for name, value in launch.variables.items() if name not in OFFLINE}
        return replace(launch, variables=variables | fetch_variables(cache, self.source.cache_variables, proxy))

    def weights(self) -> tuple[WeightsFile, ...]:
        """Return the files that ``setup()`` reads, with their hashes: for a methods section.

        Returns
        -------
        tuple of WeightsFile
            Of a released model, what was recorded when it was fetched; empty if nothing was. A checkpoint of one's own
            is read and hashed now.
        """
        if self.registered and not is_path(self.argument):
            recorded = weights_of(self.layout, self.source.name, self.source.named(self.argument))
            if recorded:
                return recorded.files
        return own_weights(self.argument)

    def _uv_command(self) -> list[str]:
        layout, name = self.layout, self.source.name
        try:
            layout.wrappers.mkdir(parents=True, exist_ok=True)
            cluster = installed_site(layout).cluster
            wrapper = wrapper_file(layout.wrappers, recipe_text(self.source.header, cluster, cluster.accelerator))
        except OSError as error:
            raise RootError(
                f"Environment {name!r} has no build in {layout.root}, and you cannot write there "
                f"({error.strerror}) to make one.",
                how_to_build(layout, name if self.registered else self.source.path),
            ) from error
        return EnvironmentManager(layout.root).get_spawn_command(wrapper)

    def _variables(self, threads: int) -> dict[str, str]:
        inherited = {name: value for name, value in clean_variables().items() if name not in LEAD_ASTRAY}
        variables = inherited | EnvironmentManager(self.layout.root).get_environment_variables()
        variables |= read_variables(self.layout.cache, self.source.cache_variables)
        variables |= write_variables(private_scratch() / "cache")
        # A worker makes and drops large arrays in every step: glibc should keep their pages, not fetch them anew.
        variables = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)} | variables
        if threads:
            variables |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        return variables


def how_to_build(layout: RootLayout, environment: str | Path) -> str:
    """Say how an environment gets a build.

    Parameters
    ----------
    layout : RootLayout
    environment : str or Path
        Its name, or the path of its file.
    """
    return f"An admin builds it with: rootstock-site install --root {layout.root} --env {environment}"
