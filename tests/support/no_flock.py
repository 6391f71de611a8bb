"""File systems without flock, or with NFS's, for programs that are started with a library of ours."""

from __future__ import annotations

from pathlib import Path

from tests.support.commands import run
from tests.support.needs import need_program

_SOURCE = Path(__file__).parent / "programs" / "noflock.c"


def without_flock(folder: Path, root: Path) -> dict[str, str]:
    """Return the variables with which a program finds no flock under `root`; the library is made in `folder`."""
    return {"LD_PRELOAD": _library(folder), "NO_FLOCK_UNDER": str(root)}


def like_nfs(folder: Path, root: Path) -> dict[str, str]:
    """Return the variables with which a program finds NFS's flock under `root`; the library is made in `folder`."""
    return {"LD_PRELOAD": _library(folder), "NFS_UNDER": str(root)}


def _library(folder: Path) -> str:
    library = folder / "noflock.so"
    if not library.exists():
        run(need_program("cc", "gcc"), "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl", check=True)
    return str(library)
