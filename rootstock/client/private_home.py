"""A home of a worker's own, for libraries that look for weights there and let no variable change that.

It is a folder on the node's own disk in which some folders are links into the root's cache. Workers that need the same
links share it, and it lasts as long as the scratch folder that it is in. What else a library writes below its home
stays there: the user's own home is out of sight.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from rootstock.client.scratch import private_scratch
from rootstock.errors import WorkerStartError
from rootstock.root.weights import home_links

# They outrank HOME: set in a user's shell, they would lead away from the links.
BESIDE_HOME = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")


def shared_home(cache: Path, folders: Iterable[str]) -> Path:
    """Return the home for workers of this user with certain links; it is made if it is not there.

    Parameters
    ----------
    cache : Path
        The root's cache.
    folders : iterable of str
        Folders below the home.

    Raises
    ------
    WorkerStartError
        If it cannot be made, or something else is where a link must be.
    """
    key = "\0".join([str(cache), *sorted(folders)])
    return make_home(private_scratch() / "home" / sha256(os.fsencode(key)).hexdigest()[:16], cache, folders)


def make_home(home: Path, cache: Path, folders: Iterable[str]) -> Path:
    """Make a home with links into a cache; several processes may do that at once.

    Parameters
    ----------
    home : Path
        Where it is to be.
    cache, folders
        As for `shared_home`.

    Raises
    ------
    WorkerStartError
        As `shared_home` does.
    """
    try:
        for folder, goal in home_links(folders).items():
            link, target = home / folder, cache / goal
            link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _lead(link, target)
    except OSError as error:
        raise WorkerStartError(
            f"Cannot make a home for the worker ({error.filename2 or error.filename or home}: {error.strerror}).",
            f"Remove {home}; or set TMPDIR to a folder with room.",
        ) from error
    return home


def _lead(link: Path, target: Path) -> None:
    """Make a link. What else is there, as a folder that a library has put in its place, comes to lie beside it."""
    try:
        link.symlink_to(target)
    except FileExistsError:
        if link.is_symlink() and link.readlink() == target:
            return
        with contextlib.suppress(FileNotFoundError):  # where another process has moved it
            link.rename(Path(tempfile.mkdtemp(prefix=f"{link.name}-", dir=link.parent), link.name))
        _lead(link, target)
