"""Which packages a lock asks for on this machine, and where to get them."""

from __future__ import annotations

import base64
import functools
import hashlib
import netrc
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.markers import default_environment
from packaging.pylock import (
    Package,
    PackageArchive,
    PackageWheel,
    Pylock,
    PylockSelectError,
    PylockValidationError,
)
from packaging.tags import Tag, compatible_tags, cpython_tags, create_compatible_tags_selector
from packaging.utils import parse_wheel_filename

from rootstock.errors import BundleError

_TIMEOUT_S, _ATTEMPTS = 60.0, 3
_BUILD_IT = "Build one, and name its folder with --set uv.find-links=DIR."


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
        OSError
            If it cannot be written.
        """
        reason = ""
        for _ in range(_ATTEMPTS):
            digest = hashlib.sha256()
            with (folder / self.name).open("wb") as target:
                try:
                    for block in _blocks(self.url):
                        digest.update(block)
                        target.write(block)
                except _CutError as error:
                    reason = str(error)
                    continue
            if digest.hexdigest() != self.sha256:
                raise BundleError(
                    f"{self.url} is not the file that the lock names: {digest.hexdigest()}, expected {self.sha256}."
                )
            return
        raise BundleError(f"Cannot fetch {self.url}: {reason}.", "Run the same command again.")


class _CutError(Exception):
    """A file did not come, or not to its end; it says why."""


def _blocks(url: str) -> Iterator[bytes]:
    """Yield a file piece by piece."""
    import urllib.request  # commands that fetch nothing go without it, and what comes with it
    from http.client import HTTPException

    request, received = urllib.request.Request(url), 0  # noqa: S310  # the address is the lock's
    if credentials := _credentials(urlsplit(url).hostname or ""):
        # Not for where a server may send us on to.
        request.add_unredirected_header("Authorization", f"Basic {credentials}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as source:  # noqa: S310  # the address is the lock's
            while block := source.read(2**20):
                received += len(block)
                yield block
            length = source.headers["Content-Length"]
    except (OSError, HTTPException) as error:
        raise _CutError(str(error) or type(error).__name__) from error
    if length is not None and received < int(length):
        raise _CutError(f"it ended after {received} of {length} bytes")


def _credentials(host: str) -> str:
    """Return what ``~/.netrc`` says for a host, as uv finds it there too; empty if that is nothing."""
    try:
        login = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return ""
    return base64.b64encode(f"{login[0]}:{login[2]}".encode()).decode() if login else ""


_FILES = {"wheels", "sdist", "archive", "directory", "vcs"}  # where a package comes from, in pylock.toml


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
    minor = minor_version(python)
    environment = default_environment() | {"python_version": minor, "python_full_version": python}
    content = tomllib.loads(lock.read_text(encoding="utf-8"))
    # One with wheels for other platforms only, which uv leaves out.
    if empty := [package["name"] for package in content.get("packages", []) if not package.keys() & _FILES]:
        raise BundleError(f"{', '.join(empty)}: there is no wheel for Python {minor} on this machine.", _BUILD_IT)
    try:
        packages = Pylock.from_dict(content)
        chosen = list(packages.select(environment=environment, tags=_tags(minor)))
    except (PylockValidationError, PylockSelectError) as error:
        raise BundleError(f"A lock has no packages for Python {minor} on this machine: {error}.", _BUILD_IT) from error
    return sorted((_wheel(package, file, minor, lock.parent) for package, file in chosen), key=lambda wheel: wheel.name)


def _wheel(package: Package, file: object, minor: str, folder: Path) -> Wheel:
    """Return what the lock says of a package, of which it names a file, or where to build it."""
    if isinstance(file, PackageWheel | PackageArchive):
        url = file.url or (folder / str(file.path)).resolve().as_uri()
        name = getattr(file, "name", None) or unquote(urlsplit(url).path).rpartition("/")[2]
        if best_wheel([name], minor):
            if "sha256" in file.hashes:
                return Wheel(name, url, file.hashes["sha256"])
            raise BundleError(
                f"The index of {url} gives no SHA-256 of it, by which a bundle's packages are known.",
                "Name an index that does: --set uv.default-index=https://...",
            )
    raise BundleError(
        f"{package.name} {package.version or ''} has no wheel for Python {minor} on this machine.", _BUILD_IT
    )


def file_name(entry: Mapping[str, Any]) -> str:
    """Return the name of a file that uv's lock lists."""
    address = entry.get("filename") or entry.get("url") or entry.get("path", "")
    return unquote(urlsplit(address).path).rpartition("/")[2]


def best_wheel(names: Iterable[str], minor: str) -> str:
    """Return the wheel that an installer takes on this machine; empty if none can be installed here.

    Parameters
    ----------
    names : iterable of str
        Names of files; others than wheels do not count.
    minor : str
        Version of Python, such as 3.12.
    """
    wheels = ((name, parse_wheel_filename(name)[3]) for name in names if name.endswith(".whl"))
    return next(create_compatible_tags_selector(_tags(minor))(wheels), "")


@functools.cache
def _tags(minor: str) -> tuple[Tag, ...]:
    """Return what wheels for a Python of this machine are tagged with, best first."""
    major, _, rest = minor.partition(".")
    version = int(major), int(rest)
    return (*cpython_tags(version), *compatible_tags(version, f"cp{version[0]}{version[1]}"))


def minor_version(version: str) -> str:
    """Shorten a version of Python.

    >>> minor_version("3.11.2")
    '3.11'
    """
    return ".".join(version.split(".")[:2])
