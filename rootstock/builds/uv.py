"""The only module that runs uv.

uv is asked for what it does best: locking and installing. It never sees the caller's own uv or pip settings, which
would silently change what is resolved; a site's settings reach it through the recipe (`rootstock.builds.uv_scripts`).
"""

from __future__ import annotations

import errno
import functools
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import Version

from rootstock.builds.interpreters import Interpreter
from rootstock.builds.package_cache import DamagedPackagesError, damaged_packages
from rootstock.builds.subprocesses import Programs
from rootstock.builds.variables import clean_variables
from rootstock.config.clusters import Cluster
from rootstock.config.site import Site
from rootstock.errors import BuildError, ConfigurationError, RootError
from rootstock.root.lock import Report
from rootstock.root.user_folders import expanded

# How long to wait for whoever uses the cache. A worker that `uv run` has started keeps it for as long as it runs, and
# takes nothing from it any more.
_WAIT_S = 60


@functools.cache
def find_uv() -> str:
    """Return the path of the uv program that is installed beside Rootstock.

    Raises
    ------
    ConfigurationError
        If it is missing.
    """
    try:
        from uv import find_uv_bin

        return os.fspath(find_uv_bin())
    except (ImportError, FileNotFoundError) as error:
        raise ConfigurationError(
            f"The program uv is missing from this installation of rootstock: {error}.",
            "Install the package 'uv' into it.",
        ) from error


@functools.cache
def uv_version() -> str:
    """Return the version of uv."""
    return Programs().run([find_uv(), "--version"], clean_variables()).split()[1]


def package_cache_path(site: Site) -> Path:
    """Return uv's cache: the root's, or where the cluster's setting ``uv.cache`` says. It need not be there.

    Raises
    ------
    RootError
        If it could not be made, or is somebody else's: what they put there would be installed.
    ConfigurationError
        If the setting is no absolute path.
    """
    cluster = site.cluster
    if not cluster.uv_cache:
        return site.layout.uv_cache
    cache = expanded(Path(cluster.uv_cache))
    if not cache.is_absolute():
        raise ConfigurationError(f"The setting uv.cache is {cluster.uv_cache!r}; it must be an absolute path.")
    existing = next(path for path in (cache, *cache.parents) if os.path.lexists(path))
    if not existing.is_dir() or (existing != cache and not os.access(existing, os.W_OK | os.X_OK, effective_ids=True)):
        why = os.strerror(errno.EACCES if existing.is_dir() else errno.ENOTDIR)
        raise RootError(f"Cannot create uv's cache {cache}: {why}.", "Name another: --set uv.cache=~/.cache/uv")
    if existing == cache and cache.stat().st_uid not in (0, os.geteuid()):
        raise RootError(
            f"The folder {cache}, which the setting uv.cache names, belongs to another user.",
            "Name a folder of your own, such as: --set uv.cache=~/.cache/uv",
        )
    return cache


def package_cache(site: Site) -> Path:
    """Return uv's cache, as `package_cache_path` does, and make the folder.

    Raises
    ------
    RootError
        If the folder cannot be made, or is somebody else's.
    ConfigurationError
        If the setting is no absolute path.
    """
    cache = package_cache_path(site)
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700 if site.cluster.uv_cache else 0o777)
    except OSError as error:
        raise RootError(f"Cannot create uv's cache {cache}: {error.strerror}.") from error
    return cache


def python_downloads(cluster: Cluster, folder: Path) -> list[Interpreter]:
    """Return the finished releases of CPython that uv can fetch for this machine, by its own list or the site's.

    Parameters
    ----------
    cluster : Cluster
        Its settings say where the list is, and where interpreters are fetched.
    folder : Path
        Each would be put into a folder of its own in this one.

    Raises
    ------
    BuildError
        If the site's list cannot be read.
    """
    command = [find_uv(), "python", "list", "--only-downloads", "--all-versions", "--output-format", "json"]
    variables = {**clean_variables(), "UV_NO_CONFIG": "1", "UV_NO_CACHE": "1", **_python_source(cluster)}
    try:
        output = Programs().run(command, variables)
    except BuildError as error:
        hint = f"The setting python.downloads is {cluster.python_downloads!r}."
        raise BuildError(f"Cannot list the Pythons that uv can fetch.\n{error.message}", hint) from error
    # A mirror keeps the last two parts of an address, the day and the file.
    mirror = cluster.python_mirror.rstrip("/")
    entries = [entry for line in output.splitlines() if line.startswith("[") for entry in json.loads(line)]
    return [
        Interpreter(
            str(folder / entry["key"] / "bin" / "python3"), entry["version"], str(folder / entry["key"]), entry["key"],
            "/".join([mirror, *entry["url"].rsplit("/", 2)[1:]]) if mirror else entry["url"],
        )
        for entry in entries
        if (entry["implementation"], entry["variant"]) == ("cpython", "default")
        and not Version(entry["version"]).is_prerelease
    ]  # fmt: skip


def _python_source(cluster: Cluster) -> dict[str, str]:
    """Return what tells uv where the site has its Pythons fetched."""
    settings = {
        "UV_PYTHON_INSTALL_MIRROR": cluster.python_mirror,
        "UV_PYTHON_DOWNLOADS_JSON_URL": cluster.python_downloads,
    }
    return {name: value for name, value in settings.items() if value}


@dataclass(frozen=True)
class Uv:
    """Runs uv with one package cache.

    Where uv cannot use what it has in the cache, methods raise `DamagedPackagesError`.

    Parameters
    ----------
    cache : Path
        uv's cache.
    log : callable
        Is given every line that uv prints.
    umask : int
        For the files that uv makes, whatever the caller's own is.
    wheels : Path or None
        A folder with every package that is needed: nothing is fetched then.
    programs : Programs
        What runs at the same time.
    """

    cache: Path
    log: Report
    umask: int = 0o077
    wheels: Path | None = None
    programs: Programs = field(default_factory=Programs)

    def lock(self, script: Path, interpreter: str, renew: Sequence[str] = ()) -> None:
        """Write ``<script>.lock``, keeping what an existing one says where that still fits.

        Parameters
        ----------
        script : Path
            Script whose requirements are locked.
        interpreter : str
            The Python to lock for.
        renew : sequence of str
            Packages to resolve anew though they fit; ``*`` is all of them.
        """
        options = ["--upgrade" if package == "*" else f"--upgrade-package={package}" for package in renew]
        self._uv("lock", "--script", str(script), "--python", interpreter, *options)

    def install_python(self, key: str, folder: Path, cluster: Cluster) -> None:
        """Fetch a Python, and compare it with uv's hash.

        Parameters
        ----------
        key : str
            uv's name of it.
        folder : Path
            It is put into a folder of its own in this one.
        cluster : Cluster
            Its settings say where interpreters are fetched.
        """
        self._uv(
            "python", "install", "--no-bin", "--install-dir", str(folder), key,
            extra={"UV_PYTHON_DOWNLOADS": "manual", **_python_source(cluster)},
        )  # fmt: skip

    def make_environment(self, prefix: Path, interpreter: str) -> None:
        """Make an empty environment that may be moved.

        Parameters
        ----------
        prefix : Path
            Its folder.
        interpreter : str
            The Python that it is made on.
        """
        self._uv("venv", "--relocatable", "--no-project", "--python", interpreter, str(prefix))

    def sync(self, script: Path, prefix: Path, interpreter: str, *, link: bool) -> None:
        """Install what ``<script>.lock`` says, and nothing else; fails if the lock does not fit the script.

        Parameters
        ----------
        script : Path
        prefix : Path
            The environment's folder.
        interpreter : str
            The Python that it was made on.
        link : bool
            Whether its files are links to those in the cache, not copies.
        """
        mode = {} if link else {"UV_LINK_MODE": "copy"}
        if self.wheels is None:
            self._uv(
                "sync", "--script", str(script), "--locked", "--active", "--python", interpreter,
                extra={"VIRTUAL_ENV": str(prefix), **mode},
            )  # fmt: skip
            return
        # `uv sync` fetches from the addresses in the lock, whatever else it is given. A list of what it would install,
        # with the hashes, can be served from anywhere.
        with tempfile.TemporaryDirectory() as folder:
            requirements = Path(folder, "requirements.txt")
            self.export(script, requirements, interpreter)
            self._uv(
                "pip", "sync", "--python", str(prefix / "bin" / "python"), "--no-index",
                "--find-links", str(self.wheels), "--only-binary=:all:", str(requirements), extra=mode,
            )  # fmt: skip

    def forget(self, packages: Iterable[str]) -> None:
        """Remove packages from the cache; builds keep what they have of them.

        Parameters
        ----------
        packages : iterable of str
            Their names.
        """
        command = ("cache", "clean", *packages)
        try:
            self._uv(*command, extra={"UV_LOCK_TIMEOUT": str(_WAIT_S)})
        except BuildError:
            self._uv(*command, "--force")

    def export(self, script: Path, target: Path, interpreter: str, form: str = "") -> None:
        """Write what ``<script>.lock`` says in a standard format.

        Parameters
        ----------
        script : Path
        target : Path
            The file to write: ``requirements.txt``, ``pylock.toml``, or any name with a `form`.
        interpreter : str
            The Python that the lock is for.
        form : str
            Another format that uv can write, such as ``cyclonedx1.5``: a software bill of materials.
        """
        self._uv(
            "export", "--script", str(script), "--locked", "--python", interpreter, "--format", form or target.name,
            "--preview-features", "sbom-export", "--output-file", str(target), "--quiet",
        )  # fmt: skip

    def _uv(self, *arguments: str, extra: Mapping[str, str] | None = None) -> str:
        variables = {
            **clean_variables(),
            "UV_CACHE_DIR": str(self.cache),
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            **({"UV_OFFLINE": "1"} if self.wheels is not None else {}),
            **(extra or {}),
        }
        try:
            return self.programs.run([find_uv(), *arguments], variables, self.log, self.umask)
        except BuildError as error:
            if damaged := damaged_packages(error.message):
                raise DamagedPackagesError(damaged) from error
            raise
