"""What can be wrong with packages in uv's cache, and who shares files with it."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import math
import os
import re
import time
from collections.abc import Collection, Container, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from packaging.utils import canonicalize_name, canonicalize_version

from rootstock.errors import BuildError, RootError
from rootstock.root.layout import RootLayout
from rootstock.root.plain_files import RECORD_LIMIT, parse_toml, read_text
from rootstock.root.records import read_build

# What uv says of a package in its cache that is not whole. Of the system's errors, those that a full disk or a folder
# that nobody may write to gives are not the package's fault.
_DAMAGED = re.compile(
    r"Failed to install: \S+ \((?P<installed>[^=\s]+)==|"
    r"Failed to \w+ `(?P<fetched>[^=\s]+)==[^`]*`\s+cause: Failed to deserialize cache entry"
)
_SYSTEM_ERROR, _OF_PACKAGES = re.compile(r"\(os error (\d+)\)"), {2, 5, 20, 21}  # ENOENT, EIO, ENOTDIR, EISDIR


class DamagedPackagesError(BuildError):
    """Packages in uv's cache are not what they were when they were fetched.

    Parameters
    ----------
    packages : Mapping[str, str]
        Name -> what is wrong.
    """

    def __init__(self, packages: Mapping[str, str]) -> None:
        super().__init__("\n".join(dict.fromkeys(packages.values())))
        self.packages = {canonicalize_name(name): what for name, what in packages.items()}


def damaged_packages(message: str) -> dict[str, str]:
    """Return the packages in its cache that uv could not use, each with what it said; none where it failed otherwise.

    Parameters
    ----------
    message : str
        What uv printed.
    """
    if not _OF_PACKAGES.issuperset(map(int, _SYSTEM_ERROR.findall(message))):
        return {}
    return {match["installed"] or match["fetched"]: message for match in _DAMAGED.finditer(message)}


def shares_files(cache: Path, root: Path, folder: Path) -> bool:
    """Tell whether files of a folder in a root can and may be links to those in a package cache.

    They share modes and damages. So a root shares files with nothing that is outside of it: two roots with one cache
    would take each other's readers away.

    Parameters
    ----------
    cache, root, folder : Path
    """
    try:
        return cache.resolve().is_relative_to(root.resolve()) and cache.stat().st_dev == folder.stat().st_dev
    except OSError:
        return False


def holders(cache: Path, path: str) -> set[str]:
    """Return the packages in uv's cache that have brought a file.

    Parameters
    ----------
    cache : Path
    path : str
        Path within a build.
    """
    path = path.partition("/site-packages/")[2]
    held = cache.glob(f"archive-v*/*/{glob.escape(path)}") if path else ()
    infos = (info for file in held for info in file.parents[path.count("/")].glob("*.dist-info"))
    return {canonicalize_name(info.stem.partition("-")[0]) for info in infos}


class Package(NamedTuple):
    """A package of one version, both spelt in the way that can be compared."""

    name: str
    version: str


def package(name: str, version: str) -> Package:
    """Return a package as `Package` has it.

    Parameters
    ----------
    name, version : str
        As a lock, a record or the name of a folder spells them.
    """
    return Package(canonicalize_name(name), canonicalize_version(version.replace("_", "-"), strip_trailing_zero=False))


def installed_packages(layout: RootLayout, without: Container[Path] = ()) -> set[Package]:
    """Return the packages of the builds of a root.

    Parameters
    ----------
    layout : RootLayout
    without : container of Path
        Builds that do not count.

    Raises
    ------
    RootError
        If the record of one cannot be read.
    """
    builds = (path for path in layout.all_builds.glob("*/[!.]*") if path not in without)
    records = (record for build in builds if (record := read_build(build)))
    return {package(*each) for record in records for each in record.packages.items()}


def locked_packages(layout: RootLayout) -> set[Package]:
    """Return the packages that the locks of a root name.

    Raises
    ------
    RootError
        If one cannot be read.
    """
    found = set()
    for path in (*layout.environments.glob("*.lock"), *layout.runtimes.glob("*/client.lock")):
        try:
            entries = parse_toml(read_text(path, RECORD_LIMIT)).get("package", [])
            found |= {package(entry["name"], entry.get("version", "")) for entry in entries}
        except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise RootError(f"Cannot read the lock {path}: {error}.") from error
    return found


def unneeded(layout: RootLayout, without: Container[Path] = (), before: float = math.inf) -> dict[Path, Package]:
    """Return what the root's cache holds unpacked and no build and no lock names, by its folder.

    What is in an environment that uv made for a worker, where there was no build, is left out.

    Parameters
    ----------
    layout : RootLayout
    without : container of Path
        Builds that do not count.
    before : float
        What was unpacked since is left out.

    Raises
    ------
    RootError
        If the record of a build, or a lock, cannot be read.
    """
    needed = installed_packages(layout, without) | locked_packages(layout)
    needed |= {_of(info) for info in layout.uv_cache.glob("environments-v*/*/lib/python*/site-packages/*-*.dist-info")}
    doomed = {}
    for folder in sorted(layout.uv_cache.glob("archive-v*/*")):
        held = [*map(_of, folder.glob("*-*.dist-info"))]
        # What holds no package, or several, is something else than an unpacked wheel.
        if len(held) == 1 and held[0] not in needed and folder.lstat().st_mtime <= before:
            doomed[folder] = held[0]
    return doomed


def _of(info: Path) -> Package:
    return package(*info.stem.split("-", 1))


@contextlib.contextmanager
def no_uv_runs(cache: Path, wait: float) -> Iterator[str]:
    """Keep uv from the cache, as it keeps others of its processes from it; say why not if that cannot be done in time.

    Parameters
    ----------
    cache : Path
    wait : float
        Seconds.
    """
    path = cache / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            # NFS makes an exclusive lock of a flock only if the file is open for writing.
            _lock(stack.enter_context(open(path, "r+b")), wait)
            fault = ""
        except BlockingIOError:
            fault = "uv is using it; run gc again when it is done"
        except OSError as error:  # who knows whether uv runs?
            fault = f"{path} cannot be locked: {error.strerror}"
        yield fault


def _lock(file: BinaryIO, wait: float) -> None:
    end = time.monotonic() + wait
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
        time.sleep(0.1)


def with_pointers(cache: Path, folders: Collection[Path]) -> list[Path]:
    """Return unpacked packages of uv's cache, after what leads to them there. uv fetches again what is missing.

    Its own `cache clean` knows no versions, and its `cache prune` keeps what was ever fetched.

    Parameters
    ----------
    cache : Path
    folders : collection of Path
        As `unneeded` returns them.
    """
    if not folders:
        return []
    doomed = {os.path.realpath(folder) for folder in folders}
    pointers = [path for path in _links(cache) if os.path.realpath(path) in doomed]
    notes = [path for link in pointers for path in link.parent.glob(f"{glob.escape(link.name)}.*")]
    return [*notes, *pointers, *folders]


def _links(cache: Path) -> Iterator[Path]:
    """Yield the links in the parts of uv's cache that lead to unpacked packages, as its own `cache prune` looks."""
    for part in (*cache.glob("wheels-v*"), *cache.glob("sdists-v*")):
        for folder, folders, names in os.walk(part):
            yield from (path for name in (*folders, *names) if (path := Path(folder, name)).is_symlink())
            folders[:] = [name for name in folders if name != "src"]  # an unpacked source
