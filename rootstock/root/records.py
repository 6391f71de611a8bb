"""What a root says about itself and its builds. Reading needs no lock; writing replaces whole files."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootstock.errors import RootError
from rootstock.root.layout import CLIENT, LAYOUT_VERSION, RootLayout, absolute
from rootstock.root.plain_files import RECORD_LIMIT, parse_toml, read_text
from rootstock.root.reachability import refusal
from rootstock.root.record_files import Record, parse_record, read_record
from rootstock.root.weights_file import WeightsFile

_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # a path that leads to nothing

BUILD_RECORD = "build.json"
SBOM = "sbom.cdx.json"  # in a build: what was installed, as a bill of materials
BUILD_SOURCE = "environment.py"  # in a build: the environment file that it was made from


@dataclass(frozen=True)
class BuildRecord(Record):
    """``build.json``: what a build was made from, by whom, and what verification saw.

    A folder under ``builds`` that holds one is complete: it is written before the folder gets its name.

    Attributes
    ----------
    accelerator : str
        What it was made for.
    files : int
        Number of installed files.
    bytes, inodes : int
        What everything in the build takes.
    sources : list of dict
        For each package the file that it was installed from: package, version, file, sha256.
    """

    name: str
    digest: str
    source_sha256: str
    lock_sha256: str
    recipe_sha256: str
    interpreter: str
    python: str
    platform: str
    accelerator: str
    uv: str
    rootstock: str
    packages: dict[str, str]
    files: int
    bytes: int
    built_by: str
    built_on: str
    built_at: str
    verification: list[dict[str, Any]] = field(default_factory=list)
    # What `EnvironmentSource.summary` returns: a hundred of them are read as JSON in milliseconds, and not as TOML.
    header: dict[str, Any] = field(default_factory=dict)
    # Of the list of all hashes, and the symbolic links, which are not in that list: see `rootstock.root.checksums`.
    files_sha256: str = ""
    inodes: int = 0
    sources: list[dict[str, str]] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    # By model, the weights inside the packages, each with its path in the build. Verification has seen that it needs no
    # others. A build of an older version says nothing of that.
    bundled: dict[str, tuple[WeightsFile, ...]] = field(default_factory=dict)
    serves: str = ""  # the accelerator that its packages compute on; empty in records of older versions

    @property
    def computes_on(self) -> str:
        """The accelerator that its packages compute on, whatever it was made for; ``cpu`` if none knows GPUs."""
        return self.serves or self.accelerator


def read_build(folder: Path) -> BuildRecord | None:
    """Return the record of a build; None where there is no build.

    Raises
    ------
    RootError
        If there is one that cannot be read.
    """
    return read_record(BuildRecord, folder / BUILD_RECORD, how_to_replace(folder))


def how_to_replace(build: Path) -> str:
    """Say what to do about a damaged build."""
    which = "" if build.parent.name == CLIENT else f" --env {build.parent.name}"
    return f"An admin runs: rootstock-site repair --root {build.parents[2]}{which}"


def active_build(link: Path) -> Path | None:
    """Return the folder of the build that `link` points to; None if there is no link.

    The link is followed here, once: what is started from the result is not affected when an admin activates another
    build.

    Raises
    ------
    RootError
        If no build is where it leads, or you may not look there.
    """
    if not os.path.lexists(link):
        return None
    if build := _build_at(link):
        return build
    folder = Path(os.path.realpath(link))
    root = link.parents[1]
    if folder.is_dir() and folder.parents[2:3] == (Path(os.path.realpath(root)),):
        raise RootError(f"{folder} is no complete build: {BUILD_RECORD} is missing.", how_to_replace(folder))
    what = "which is no build of this root" if os.path.lexists(folder) else "which is not there"
    raise RootError(f"{link} leads to {folder}, {what}.", f"An admin mends that: rootstock-site install --root {root}")


def _build_at(link: Path) -> Path | None:
    folder = Path(os.path.realpath(link))
    try:
        os.stat(folder / BUILD_RECORD)
    except OSError as error:
        if error.errno in _NOWHERE:
            return None
        raise refusal(folder, error) from error
    return folder


def is_in_use(link: Path) -> bool:
    """Tell whether `link` leads to a build, be its record readable or not.

    Raises
    ------
    RootError
        If you may not look there.
    """
    return _build_at(link) is not None


def active_record(link: Path) -> BuildRecord | None:
    """Return the record of the build that `link` points to; None if no build is there.

    Raises
    ------
    RootError
        As `read_build`.
    """
    build = _build_at(link)
    return read_build(build) if build else None


@dataclass(frozen=True)
class _Marker:
    """What ``rootstock.toml`` must hold; there may be more."""

    layout: int
    cluster: str
    default: str = ""
    readers: str = ""
    writers: str = ""
    written: dict[str, list[str]] = field(default_factory=dict)


def read_marker(layout: RootLayout) -> dict[str, Any]:
    """Return the contents of ``rootstock.toml``.

    Raises
    ------
    RootError
        If the folder is not a root, cannot be read, or has a newer layout than this version knows.
    """
    path = layout.marker
    try:
        marker = parse_toml(read_text(path, RECORD_LIMIT))
        parse_record(_Marker, marker)
    except (FileNotFoundError, NotADirectoryError):
        variable = os.environ.get("ROOTSTOCK_ROOT")
        named = " ROOTSTOCK_ROOT names it." if variable and absolute(Path(variable)) == layout.root else ""
        raise RootError(
            f"{layout.root} is not a Rootstock root: it has no rootstock.toml.{named}",
            f"An admin makes one with: rootstock-site install --cluster NAME --root {layout.root}",
        ) from None
    except OSError as error:
        raise refusal(path, error) from error
    except ValueError as error:
        raise RootError(f"Cannot read {path}: {error}.", "Ask the site's admin.") from error
    if marker["layout"] > LAYOUT_VERSION:
        raise RootError(
            f"{layout.root} has layout {marker['layout']}; this rootstock knows layouts up to {LAYOUT_VERSION}.",
            "Load the site's newer module: module load rootstock",
        )
    return marker


def user_name() -> str:
    """Return the name of who runs this process; its number where the machine knows no name for it."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def now() -> str:
    """Return the time, with its zone, as records hold it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def is_half_written(name: str) -> bool:
    """Tell whether a file has such a name as `write_file` and `point` give to what is not in its place yet."""
    return re.fullmatch(r"\..+\.([a-z0-9_]{8}|\d+)", name) is not None


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Replace a file in one step: a reader sees the old text or the new one.

    Parameters
    ----------
    path : Path
    content : bytes
        All that the file is to hold.
    mode : int
        The file's permissions.
    """
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def point(link: Path, target: Path) -> None:
    """Make a relative symlink, in one step.

    Parameters
    ----------
    link, target : Path
        Where the symlink is, and what it leads to.
    """
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(target, link.parent))
    os.replace(fresh, link)
