"""Which packages a lock asks for on this machine, and where to get them."""

from __future__ import annotations

import functools
import hashlib
import shutil
import tomllib
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.markers import Marker, default_environment
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from rootstock.errors import BundleError

_TIMEOUT_S, _ATTEMPTS = 60.0, 3


@dataclass(frozen=True)
class Wheel:
    """A package, where it is, and what it must be.

    Attributes
    ----------
    name : str
        The file's name.
    url : str
    sha256 : str
    """

    name: str
    url: str
    sha256: str

    def fetch(self, folder: Path) -> None:
        """Download it and compare its hash.

        Raises
        ------
        BundleError
            If it cannot be had, or is another file than the lock names.
        """
        path = folder / self.name
        for attempt in range(_ATTEMPTS):
            try:
                with urllib.request.urlopen(self.url, timeout=_TIMEOUT_S) as source, path.open("wb") as target:  # noqa: S310
                    shutil.copyfileobj(source, target, 2**20)
                break
            except OSError as error:
                if attempt + 1 == _ATTEMPTS:
                    raise BundleError(f"Cannot fetch {self.url}: {error}.", "Run the same command again.") from error
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != self.sha256:
            raise BundleError(f"{self.url} is not the file that the lock names: {actual}, expected {self.sha256}.")


def wheels_of(lock: Path, python: str) -> list[Wheel]:
    """Return the wheels that an installer takes on this machine, sorted by name.

    Parameters
    ----------
    lock : Path
        A lock in the standard format, ``pylock.toml``.
    python : str
        The version of Python that is installed for.

    Raises
    ------
    BundleError
        If a package has no wheel that fits.
    """
    variables: dict[str, Any] = {
        **default_environment(), "python_version": minor_version(python), "python_full_version": python,
    }  # fmt: skip
    packages = tomllib.loads(lock.read_text(encoding="utf-8")).get("packages", [])
    wanted = [p for p in packages if "marker" not in p or Marker(p["marker"]).evaluate(variables)]
    return sorted((_best(package, minor_version(python), lock.parent) for package in wanted), key=lambda w: w.name)


def _best(package: Mapping[str, Any], minor: str, folder: Path) -> Wheel:
    found = []
    for entry in [*package.get("wheels", []), *([package["archive"]] if "archive" in package else [])]:
        url = entry.get("url") or (folder / entry["path"]).resolve().as_uri()
        name = entry.get("name") or unquote(urlsplit(url).path).rpartition("/")[2]
        if name.endswith(".whl") and (rank := _rank(name, minor)) is not None:
            found.append((rank, Wheel(name, url, entry["hashes"]["sha256"])))
    if not found:
        raise BundleError(
            f"{package['name']} {package.get('version', '')} has no wheel for Python {minor} on this machine.",
            "Build one, and name its folder with --set uv.find-links=DIR.",
        )
    return min(found, key=lambda pair: pair[0])[1]


def runs_here(name: str, minor: str) -> bool:
    """Tell by a wheel's name whether it can be installed for a Python on this machine."""
    return _rank(name, minor) is not None


def best_wheel(names: Iterable[str], minor: str) -> str:
    """Return the wheel that an installer takes for a Python on this machine; empty if none fits."""
    ranks = {name: rank for name in names if name.endswith(".whl") and (rank := _rank(name, minor)) is not None}
    return min(ranks, key=lambda name: ranks[name], default="")


def _rank(name: str, minor: str) -> int | None:
    """Return how far a wheel is from the best that there could be; None if it does not fit."""
    ranks = _tags(minor)
    return min((ranks[tag] for tag in parse_wheel_filename(name)[3] if tag in ranks), default=None)


@functools.cache
def _tags(minor: str) -> dict[Tag, int]:
    """Return what wheels for a Python of this machine are tagged with, best first."""
    major, _, rest = minor.partition(".")
    version = int(major), int(rest)
    tags = [*cpython_tags(version), *compatible_tags(version, f"cp{version[0]}{version[1]}")]
    return {tag: rank for rank, tag in enumerate(tags)}


def minor_version(version: str) -> str:
    """Shorten a version of Python.

    >>> minor_version("3.11.2")
    '3.11'
    """
    return ".".join(version.split(".")[:2])
