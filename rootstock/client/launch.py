"""A model that was found, and the command and variables that start a worker of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rootstock.builds.variables import clean_variables
from rootstock.client.private_home import BESIDE_HOME, make_home, shared_home
from rootstock.client.process import Launch
from rootstock.client.scratch import private_scratch
from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.model_string import is_path
from rootstock.errors import RootError
from rootstock.root.layout import RootLayout
from rootstock.root.mounts import refuse_noexec
from rootstock.root.records import BUILD_SOURCE, read_build
from rootstock.root.weights import (
    LEAD_ASTRAY,
    OFFLINE,
    WeightsFile,
    fetch_variables,
    home_links,
    own_weights,
    read_variables,
    weights_of,
    write_variables,
)

LAUNCH_MODES = ("auto", "build", "uv-run")


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

    @property
    def build_name(self) -> str | None:
        """The build as ``ENVIRONMENT/DIGEST``; None where uv makes one."""
        return f"{self.build.parent.name}/{self.build.name}" if self.build else None

    def launch(self, threads: int = 0) -> Launch:
        """Say how to start a worker.

        Parameters
        ----------
        threads : int
            Number of threads of the worker's numerical libraries; 0 leaves that to them.

        Raises
        ------
        RootError
            If there is no build, and no permission to let uv make an environment; if the build was removed meanwhile,
            or lies where nothing may run.
        """
        if self.build is not None and not self.build.is_dir():
            raise RootError(
                f"The build {self.build.name} of {self.source.name!r} is gone from {self.layout.root}: gc removed it.",
                "Make a new calculator: it takes the build that is in use now.",
            )
        if self.build is not None:
            refuse_noexec(self.build)
        variables = self._variables(threads)
        if self.build is not None:
            mode, command = "build", [str(self.build / "bin" / "python"), "-I", "-B", "-u"]
        else:
            from rootstock.client.uv_run import uv_command, uv_variables  # whoever starts a build goes without it

            mode, command = "uv-run", uv_command(self.layout, self.source, registered=self.registered)
            variables = uv_variables(variables, self.layout, self.source)
        # A build has a copy of its own, which nobody edits.
        file = self.build / BUILD_SOURCE if self.build else self.source.path
        home = Path(variables["HOME"]) if self.source.home_folders else None
        return Launch(self.source.name, tuple(command), variables, file, self.layout, mode, self.build, home=home)

    def launch_offline(self, home: Path) -> Launch:
        """Say how to start a worker as any user of the root does: with nothing of the caller's own home."""
        launch, own = self.launch(threads=1), self.source.cache_variables
        outside = {name for name in launch.variables if name.startswith("XDG_")} - {*own}
        variables = {name: value for name, value in launch.variables.items() if name not in outside}
        own_home = make_home(home, self.layout.cache, self.source.home_folders) if launch.home else None
        return replace(launch, variables={**variables, "HOME": str(home)}, home=own_home)

    def launch_fetch(self, cache: Path, proxy: str, home: Path) -> Launch:
        """Say how to start a worker that fetches weights.

        Parameters
        ----------
        cache : Path
            An empty folder, where they go.
        proxy : str
            The site's proxy; empty without one.
        home : Path
            A folder for the worker's home, if the library looks for weights in one.
        """
        launch = self.launch(threads=1)
        variables = {name: value for name, value in launch.variables.items() if name not in OFFLINE}
        variables |= fetch_variables(cache, self.source.cache_variables, proxy)
        if folders := self.source.home_folders:
            for folder in home_links(folders).values():
                (cache / folder).mkdir(parents=True, exist_ok=True)
            variables["HOME"] = str(make_home(home, cache, folders))
        return replace(launch, variables=variables)

    def weights(self) -> tuple[WeightsFile, ...]:
        """Return the files that ``setup()`` reads, with their hashes: for a methods section.

        Returns
        -------
        tuple of WeightsFile
            Of a released model, what was recorded when it was fetched, or when the build was verified, if it is inside
            a package; empty if nothing was. A checkpoint of one's own is read and hashed now.
        """
        if self.registered and not is_path(self.argument):
            name = self.source.named(self.argument)
            inside = self._bundled().get(name)
            if inside is not None:
                return inside
            recorded = weights_of(self.layout, self.source.name, name)
            if recorded or self.argument in self.source.models:
                return recorded.files if recorded else ()
        return own_weights(self.argument)

    def _bundled(self) -> dict[str, tuple[WeightsFile, ...]]:
        """Return the weights inside the packages, each with its path in the root."""
        record = read_build(self.build) if self.build else None
        if record is None or self.build is None:
            return {}
        folder = f"{self.layout.all_builds.name}/{self.build_name}"
        return {
            model: tuple(replace(file, path=f"{folder}/{file.path}") for file in files)
            for model, files in record.bundled.items()
        }

    def _variables(self, threads: int) -> dict[str, str]:
        folders = self.source.home_folders
        dropped = (*LEAD_ASTRAY, *(BESIDE_HOME if folders else ()))
        inherited = {name: value for name, value in clean_variables().items() if name not in dropped}
        variables = {**inherited, "UV_CACHE_DIR": str(self.layout.uv_cache)}
        variables |= read_variables(self.layout.cache, self.source.cache_variables)
        variables |= write_variables(private_scratch() / "cache")
        if folders:
            variables["HOME"] = str(shared_home(self.layout.cache, folders))
        # A worker makes and drops large arrays in every step: glibc should keep their pages, not fetch them anew.
        variables = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)} | variables
        if threads:
            variables |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        return variables
