"""From a model string or an environment file to the command that starts a worker."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from rootstock.builds.uv import clean_variables, find_uv, package_cache
from rootstock.builds.uv_scripts import recipe_text, wrapper_file
from rootstock.client.process import Launch
from rootstock.client.scratch import private_scratch
from rootstock.config.clusters import Cluster, Scope, get_cluster, read_scope
from rootstock.config.environment_file import (
    EnvironmentSource,
    model_strings,
    packaged_names,
    packaged_strings,
    read_source,
    registered_names,
)
from rootstock.config.model_string import did_you_mean, is_environment_name, parse_model_string
from rootstock.errors import ConfigurationError, RootError, UnknownEnvironmentError
from rootstock.root.layout import RootLayout, absolute
from rootstock.root.records import BUILD_SOURCE, active_build, read_marker
from rootstock.root.variants import fitting_build
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

_ISOLATED = ("-I", "-B", "-u")


class EnvironmentManager:
    """Finds environments in a root and says how to start them.

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
        cache = package_cache(self.layout, self.cluster())
        return [find_uv(), "run", "--cache-dir", str(cache), "--no-project", "--script", str(wrapper_path)]

    def get_environment_variables(self) -> dict[str, str]:
        """Return the variables that point uv and the model libraries to the caches in the root."""
        return {"UV_CACHE_DIR": str(self.layout.uv_cache), "HF_HOME": str(self.layout.huggingface_cache)}

    def find_model(self, model: str) -> tuple[EnvironmentSource, str]:
        """Return the environment that a model string names, and the argument for its ``setup()``.

        Raises
        ------
        RootError
            If the root is none, or cannot be read.
        UnknownEnvironmentError
            If it has no such environment.
        """
        read_marker(self.layout)
        name, argument = parse_model_string(model, registered_names(self.layout))
        return self.find(name), argument

    def find(self, name: str) -> EnvironmentSource:
        """Return the environment file of a registered environment.

        Raises
        ------
        UnknownEnvironmentError
            With the places that were looked at, what is there, and what may have been meant.
        """
        path = self.layout.environment_file(name)
        if is_environment_name(name) and path.is_file():
            return read_source(path)
        registered, packaged = registered_names(self.layout), packaged_names()
        meant = did_you_mean(name, model_strings(self.layout))
        if not meant and name not in packaged:
            meant = did_you_mean(name, packaged_strings(), " (not installed here)")
        others = [name] if name in packaged else sorted({*registered, *packaged})
        raise UnknownEnvironmentError(
            f"Environment {name!r} not found in {self.layout.environments}. "
            f"Available there: {', '.join(registered) or 'none'}.{meant}",
            f"An admin adds {'it' if len(others) == 1 else 'one of ' + ', '.join(others)} with: rootstock-site install "
            f"--root {self.layout.root} --env {others[0] if len(others) == 1 else 'NAME'}",
        )

    def launch(self, source: EnvironmentSource, mode: str = "auto", threads: int = 0, device: str = "") -> Launch:
        """Say how to start a worker of an environment.

        Parameters
        ----------
        source : EnvironmentSource
        mode : {'auto', 'build', 'uv-run'}
            ``build`` starts the interpreter of the active build. ``uv-run`` lets uv make or reuse an environment in
            its cache, which needs a root that the caller may write to. ``auto`` takes the build where there is one.
        threads : int
            Number of threads of the worker's numerical libraries; 0 leaves that to them.
        device : str
            What it is to compute on: of several builds, the one for this machine and this device is taken.

        Raises
        ------
        RootError
            If there is no build for such a machine, or no permission to let uv make an environment.
        """
        if mode not in LAUNCH_MODES:
            raise ConfigurationError(f"launch={mode!r} is unknown; it is one of {', '.join(LAUNCH_MODES)}.")
        registered = source.path == self.layout.environment_file(source.name)
        build = fitting_build(self.layout, source.name, device) if registered and mode != "uv-run" else None
        if build is not None:
            return self.launch_build(source.name, build, threads)
        if mode == "build":
            raise RootError(
                f"Environment {source.name!r} has no build in {self.layout.root}.", self._how_to_build(source)
            )
        return self._launch_uv(source, threads)

    def used_source(self, source: EnvironmentSource) -> EnvironmentSource:
        """Return the file that the active build was made from; `source` itself where there is none."""
        build = active_build(self.layout.active(source.name))
        return read_source(build / BUILD_SOURCE, source.name) if build else source

    def launch_build(self, name: str, build: Path, threads: int = 0) -> Launch:
        """Say how to start a worker of a build, whether it is the active one or not."""
        source = read_source(build / BUILD_SOURCE)
        variables = self._variables(source, threads)
        return Launch(
            name, (str(build / "bin" / "python"), *_ISOLATED), variables, source.path, self.layout.root, "build", build
        )

    def launch_offline(self, name: str, build: Path, home: Path) -> Launch:
        """Say how to start a worker of a build as any user of the root does: with nothing of the caller's own home."""
        launch = self.launch_build(name, build, threads=1)
        own = {name for name in launch.variables if name.startswith("XDG_")}
        variables = {name: value for name, value in launch.variables.items() if name not in own}
        return replace(launch, variables={**variables, "HOME": str(home)})

    def launch_fetch(self, name: str, build: Path, cache: Path) -> Launch:
        """Say how to start a worker of a build that fetches weights into the empty folder `cache`."""
        launch = self.launch_build(name, build, threads=1)
        fetch = fetch_variables(cache, read_source(build / BUILD_SOURCE).cache_variables, self.cluster().proxy)
        variables = {name: value for name, value in launch.variables.items() if name not in OFFLINE}
        return replace(launch, variables=variables | fetch)

    def weights(self, source: EnvironmentSource, model: str) -> tuple[WeightsFile, ...]:
        """Return the files that ``setup(model)`` reads, with their hashes: for a methods section.

        Parameters
        ----------
        source : EnvironmentSource
        model : str
            Argument of ``setup()``: a released model, or the path of a checkpoint of one's own.

        Returns
        -------
        tuple of WeightsFile
            Of a released model, what was recorded when it was fetched; empty if nothing was. A checkpoint of one's own
            is read and hashed now.
        """
        recorded = weights_of(self.layout, source.name, source.named(model))
        return recorded.files if recorded else own_weights(model) if model not in source.models else ()

    def _launch_uv(self, source: EnvironmentSource, threads: int) -> Launch:
        folder = self.layout.wrappers
        try:
            folder.mkdir(parents=True, exist_ok=True)
            cluster = self.cluster()
            wrapper = wrapper_file(folder, recipe_text(source.header, cluster, cluster.accelerator))
        except OSError as error:
            raise RootError(
                f"Environment {source.name!r} has no build in {self.layout.root}, and you cannot write there "
                f"({error.strerror}) to make one.",
                self._how_to_build(source),
            ) from error
        variables = self._variables(source, threads) | {
            "PYTHONSAFEPATH": "1",
            "PYTHONNOUSERSITE": "1",
            "PYTHONUNBUFFERED": "1",
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
        }
        del variables["UV_CACHE_DIR"]  # the command says it
        for name in OFFLINE:  # the root is the caller's own: weights may be fetched on first use
            del variables[name]
        command = tuple(self.get_spawn_command(wrapper))
        return Launch(source.name, command, variables, source.path, self.layout.root, "uv-run")

    def _variables(self, source: EnvironmentSource, threads: int) -> dict[str, str]:
        inherited = {name: value for name, value in clean_variables().items() if name not in LEAD_ASTRAY}
        variables = inherited | self.get_environment_variables()
        variables |= read_variables(self.layout.cache, source.cache_variables)
        variables |= write_variables(private_scratch() / "cache")
        # A worker makes and drops large arrays in every step: glibc should keep their pages, not fetch them anew.
        variables = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)} | variables
        if threads:
            variables |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        return variables

    def cluster(self) -> Cluster:
        """Return the settings that this root was installed with; those of a personal machine if it never was."""
        try:
            scope = read_scope(self.layout.clusters_file)
        except FileNotFoundError:
            scope = Scope("", {})
        return get_cluster(scope.default or "local", scope)

    def _how_to_build(self, source: EnvironmentSource) -> str:
        return f"An admin builds it with: rootstock-site install --root {self.layout.root} --env {source.name}"
