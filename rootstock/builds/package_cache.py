"""What can be wrong with packages in uv's cache, and who shares files with it."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path

from packaging.utils import canonicalize_name

from rootstock.errors import BuildError

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
