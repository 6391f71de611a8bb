"""The only module that runs uv.

uv is asked for what it does best: locking and installing. It never sees the caller's own uv or pip settings, which
would silently change what is resolved; a site's settings reach it through the recipe (`recipe_text`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from rootstock.clusters import Cluster
from rootstock.errors import ConfigurationError, RootError
from rootstock.layout import RootLayout
from rootstock.programs import Programs

_FOREIGN = ("UV_", "PIP_", "PYTHON", "VIRTUAL_ENV", "CONDA_")


@functools.cache
def find_uv() -> str:
    """Return the path of the uv program that is installed beside this package."""
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


def clean_variables() -> dict[str, str]:
    """Return the caller's environment without what would change how uv or Python behave."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}


def package_cache(layout: RootLayout, cluster: Cluster) -> Path:
    """Return uv's cache, and make the folder: the root's, or where the cluster's setting ``uv.cache`` says.

    Raises
    ------
    RootError
        If the folder cannot be made, or is somebody else's: what they put there would be installed.
    """
    cache = Path(cluster.uv_cache).expanduser() if cluster.uv_cache else layout.uv_cache
    if not cache.is_absolute():
        raise ConfigurationError(f"The setting uv.cache is {cluster.uv_cache!r}; it must be an absolute path.")
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700 if cluster.uv_cache else 0o777)
        owner = cache.stat().st_uid
    except OSError as error:
        raise RootError(f"Cannot create uv's cache {cache}: {error.strerror}.") from error
    if cluster.uv_cache and owner not in (0, os.geteuid()):
        raise RootError(
            f"The folder {cache}, which the setting uv.cache names, belongs to another user.",
            "Name a folder of your own, such as: --set uv.cache=~/.cache/uv",
        )
    return cache


def recipe_text(header: Mapping[str, Any], cluster: Cluster, accelerator: str) -> str:
    """Return the script that uv locks and installs: an environment file's header with the site's settings in it.

    The environment file's own settings come first where order matters. Its ``[tool.rootstock]`` is left out: it
    changes nothing that is installed.

    Parameters
    ----------
    header : Mapping
        The inline metadata of the environment file.
    cluster : Cluster
    accelerator : str
        What the build is for.

    Raises
    ------
    ConfigurationError
        If a path in the header's settings for uv is relative.
    """
    tools = {key: value for key, value in header.get("tool", {}).items() if key != "rootstock"}
    dependencies = list(header.get("dependencies", []))
    uv = dict(tools.get("uv", {}))
    _refuse_relative_paths(uv)
    lists = {
        "find-links": cluster.find_links,
        "constraint-dependencies": cluster.constraints,
        "override-dependencies": cluster.overrides,
    }
    for key, values in lists.items():
        if values:
            uv[key] = [*uv.get(key, []), *values]
    indexes: list[dict[str, Any]] = [{"url": url} for url in cluster.indexes]
    if cluster.default_index:
        indexes.append({"url": cluster.default_index, "default": True})
    if (url := cluster.torch_index(accelerator)) and "torch" in map(_package, dependencies):
        name, sources = f"torch-{accelerator}", uv.get("sources", {})
        indexes.insert(0, {"name": name, "url": url, "explicit": True})
        extra = cluster.torch_packages if accelerator == cluster.accelerator else ()
        uv["sources"] = {**{package: {"index": name} for package in ("torch", *extra)}, **sources}
        # uv asks such an index only for what a script itself depends on.
        dependencies += sorted({*extra} - {*map(_package, dependencies)})
    if indexes:
        uv["index"] = [*uv.get("index", []), *indexes]
    if uv:
        tools["uv"] = uv
    recipe = {key: value for key, value in header.items() if key != "tool"}
    if dependencies:
        recipe["dependencies"] = dependencies
    if tools:
        recipe["tool"] = tools
    import tomli_w

    body = "\n".join(f"# {line}".rstrip() for line in tomli_w.dumps(recipe).splitlines())
    return f"# /// script\n{body}\n# ///\n"


def _package(requirement: str) -> str:
    """Return the normalized name of the package that a requirement is for; uv says what is wrong with a bad one."""
    return canonicalize_name(re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0])


def _refuse_relative_paths(settings: Mapping[str, Any]) -> None:
    sources = settings.get("sources", {}).values()
    tables = [table for source in sources for table in (source if isinstance(source, list) else [source])]
    paths = [*settings.get("find-links", []), *(table.get("path") for table in tables),
             *(index.get("url") for index in settings.get("index", []))]  # fmt: skip
    for path in paths:
        if isinstance(path, str) and "://" not in path and not os.path.isabs(path):
            raise ConfigurationError(
                f"[tool.uv] in an environment file names {path!r}, a relative path.",
                "Write it as an absolute one: the file is copied into roots.",
            )


def wrapper_file(folder: Path, recipe: str) -> Path:
    """Return a script for ``uv run`` that runs the Python file given as its first argument.

    uv names the environment that it makes for a script by the script's path. The path here follows from the content,
    so the same requirements find the same environment again.
    """
    text = recipe + 'import runpy, sys\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name="__main__")\n'
    path = folder / hashlib.sha256(text.encode()).hexdigest()[:16] / "rootstock_environment.py"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)
    return path


@dataclass(frozen=True)
class Uv:
    """Runs uv with one package cache.

    Parameters
    ----------
    cache : Path
        uv's cache.
    log : Callable[[str], None]
        Is given every line that uv prints.
    umask : int
        For the files that uv makes, whatever the caller's own is.
    wheels : Path or None
        A folder with every package that is needed: nothing is fetched then.
    programs : Programs
        What runs at the same time.
    """

    cache: Path
    log: Callable[[str], None]
    umask: int = 0o077
    wheels: Path | None = None
    programs: Programs = field(default_factory=Programs)

    def lock(self, script: Path, interpreter: str, renew: Sequence[str] = ()) -> None:
        """Write ``<script>.lock``, keeping what an existing one says where that still fits, except for `renew`.

        In `renew`, ``*`` means every package.
        """
        options = ["--upgrade" if package == "*" else f"--upgrade-package={package}" for package in renew]
        self._uv("lock", "--script", str(script), "--python", interpreter, *options)

    def make_environment(self, prefix: Path, interpreter: str) -> None:
        """Make an empty environment at `prefix` that may be moved."""
        self._uv("venv", "--relocatable", "--no-project", "--python", interpreter, str(prefix))

    def sync(self, script: Path, prefix: Path, interpreter: str) -> None:
        """Install what ``<script>.lock`` says, and nothing else, into `prefix`; fails if the lock does not fit."""
        if self.wheels is not None:
            self._sync_from(self.wheels, script, prefix, interpreter)
            return
        self._uv(
            "sync", "--script", str(script), "--locked", "--active", "--python", interpreter,
            extra={"VIRTUAL_ENV": str(prefix), **self._links(prefix)},
        )  # fmt: skip

    def _sync_from(self, wheels: Path, script: Path, prefix: Path, interpreter: str) -> None:
        # `uv sync` fetches from the addresses in the lock, whatever else it is given. A list of what it would install,
        # with the hashes, can be served from anywhere.
        with tempfile.TemporaryDirectory() as folder:
            requirements = Path(folder, "requirements.txt")
            self.export(script, requirements, interpreter)
            self._uv(
                "pip", "sync", "--python", str(prefix / "bin" / "python"), "--no-index", "--find-links", str(wheels),
                "--only-binary=:all:", str(requirements), extra=self._links(prefix),
            )  # fmt: skip

    def _links(self, prefix: Path) -> dict[str, str]:
        """Say that files are to be copied where the cache is on another file system; else uv warns at every build."""
        same = self.cache.is_dir() and self.cache.stat().st_dev == prefix.stat().st_dev
        return {} if same else {"UV_LINK_MODE": "copy"}

    def export(self, script: Path, target: Path, interpreter: str) -> None:
        """Write what ``<script>.lock`` says in a standard format: ``requirements.txt`` or ``pylock.toml``."""
        self._uv(
            "export", "--script", str(script), "--locked", "--python", interpreter, "--format", target.name,
            "--output-file", str(target), "--quiet",
        )  # fmt: skip

    def export_sbom(self, script: Path, interpreter: str) -> dict[str, Any]:
        """Return what ``<script>.lock`` says as a software bill of materials (CycloneDX)."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "sbom.cdx.json")
            self._uv(
                "export", "--script", str(script), "--locked", "--python", interpreter, "--format", "cyclonedx1.5",
                "--preview-features", "sbom-export", "--output-file", str(target), "--quiet",
            )  # fmt: skip
            found: dict[str, Any] = json.loads(target.read_bytes())
            return found

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
        return self.programs.run([find_uv(), *arguments], variables, self.log, self.umask)
