"""Output files: symbolic links are followed, whole files are replaced in one step, and errors name the file."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rootstock.errors import ConfigurationError, OutputError, RootstockError

_OPTIONS = "--out, --traj or --file-prefix"
_HINTS = {
    errno.ENOSPC: "The file system is full: free space on it, or write to another one",
    errno.EDQUOT: "Your quota on that file system is used up: remove files, or write to another one",
    errno.EFBIG: "The file would be larger than a limit allows, as `ulimit -f` shows: raise it, or write other files",
    errno.EROFS: "The file system can only be read: write to another one",
    errno.EIO: "The file system reports a fault: tell its administrators, or write to another one",
}
_NAME_MAX = 255  # bytes, of all common file systems
_BESIDE = len("..lock.next")  # the longest that is added to a name: see `rootstock.simulations.claims`
_KEPT = 40  # characters of a name that a temporary file has as well: its ending says whether it is compressed


def target_of(path: Path) -> Path:
    """Return the file that a path leads to, which may not exist yet: a symbolic link is followed."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def seen_from(folder: Path, path: str) -> str:
    """Return a file that lies beside a folder as seen from there, so that a copy of the folder has its own; else whole.

    Parameters
    ----------
    folder : Path
    path : str
        Empty: there is none.
    """
    here, found = os.path.realpath(folder), os.path.realpath(path)
    beside = Path(found).is_relative_to(os.path.dirname(here))
    return path and (os.path.relpath(found, here) if beside else found)


def whole_path(folder: Path, seen: str) -> str:
    """Return the whole path of a file that `seen_from` gave.

    Parameters
    ----------
    folder : Path
    seen : str
    """
    return seen and os.path.normpath(os.path.join(os.path.realpath(folder), seen))


def check_name(path: Path) -> None:
    """Refuse a file whose name leaves no room for the files beside it.

    Raises
    ------
    ConfigurationError
        If it is too long, or is a link to itself.
    """
    for file in (path, target_of(path)):
        limit = _NAME_MAX
        with suppress(OSError, ValueError):
            limit = os.pathconf(file.parent, "PC_NAME_MAX")
        if (length := len(os.fsencode(file.name))) > limit - _BESIDE:
            raise ConfigurationError(
                f"The name {file.name} is too long: {length} bytes. {limit - _BESIDE} are possible here, since its "
                "lock file has a longer name.",
                f"Give a shorter one, with {_OPTIONS}.",
            )
    if os.path.islink(target_of(path)):
        raise ConfigurationError(f"{path} is a symbolic link that leads to itself.", "Remove it, or name another file.")


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written or replaced.

    Raises
    ------
    ConfigurationError
        If its folder is missing or cannot be written, or if it is a folder, a device or anything else but a file.
    """
    check_name(path)
    target = target_of(path)
    link = f" {path} is a symbolic link to {target}." if target != path else ""
    if os.path.lexists(target) and not target.is_file():
        raise ConfigurationError(f"{path} is not a regular file, and cannot be written.{link}", "Name another file.")
    folder = target.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        number = errno.EACCES if folder.is_dir() else errno.ENOTDIR if folder.exists() else errno.ENOENT
        raise unusable_folder(folder.absolute(), number, link)


def unusable_folder(folder: Path, number: int, link: str = "") -> ConfigurationError:
    """Return the error of a folder that takes no files.

    Parameters
    ----------
    folder : Path
    number : int
        Of the system's error.
    link : str
        A sentence about the link that leads there.
    """
    another = f"Write into another folder, with {_OPTIONS}."
    return ConfigurationError(
        f"Cannot write into {folder}: {os.strerror(number)}.{link}",
        f"Make the folder first: mkdir -p {shlex.quote(str(folder))}" if number == errno.ENOENT else another,
    )


def beside(path: Path, ending: str) -> Path:
    """Return the name of a file beside another one.

    Parameters
    ----------
    path : Path
        The other one. The name begins like its name without ending, which is cut if it is too long.
    ending : str

    >>> beside(Path("relaxed.cif"), ".results.extxyz")
    PosixPath('relaxed.results.extxyz')
    """
    stem = path.stem
    while len(os.fsencode(stem + ending)) > _NAME_MAX - _BESIDE:
        stem = stem[:-1]
    return path.with_name(stem + ending)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write; it takes the place of another one at the end of the block, in one step.

    Parameters
    ----------
    path : Path
        Where it goes. A symbolic link stays, and the file that it leads to is replaced.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is changed then.
    """
    target = target_of(path)
    fresh = target.with_name(f".{os.getpid()}-{path.name[-_KEPT:]}")
    with naming(path):
        try:
            yield fresh
            sync_file(fresh)
            os.replace(fresh, target)
        finally:
            fresh.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Return when all that a file holds is on the disk.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OutputError
        If that is not possible.
    """
    with naming(path), path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn an error of the system while a file is written into one that names the file.

    Raises
    ------
    OutputError
        It says what to do.
    """
    try:
        yield
    except RootstockError:  # some kinds are errors of the system, too
        raise
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: OSError) -> OutputError:
    """Return the error of a file that could not be written.

    Parameters
    ----------
    path : Path
        As the user knows it.
    error : OSError
        What the system said.
    """
    reason = error.strerror or str(error) or type(error).__name__
    # A library that wrote less than it should names no reason.
    hint = _HINTS.get(error.errno or errno.ENOSPC, "Write to another place")
    return OutputError(f"Cannot write {path}: {reason}.", f"{hint} ({_OPTIONS}).")
