"""Where the folders that ship beside the code are: `environments`, `modulefiles` and `site_templates`.

A wheel carries them as ``rootstock/_data/<folder>``; in a checkout (editable install) they are at its top level.
"""

from __future__ import annotations

from pathlib import Path

from rootstock.errors import RootstockError

PACKAGE = Path(__file__).parents[1]
FOLDERS = ("environments", "modulefiles", "site_templates")


def data_folder(name: str) -> Path:
    """Return the folder `name`, one of `FOLDERS`.

    Raises
    ------
    RootstockError
        If this installation lacks it.
    """
    for candidate in (PACKAGE / "_data" / name, PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise RootstockError(
        f"This installation of rootstock lacks its folder {name!r} (looked in {PACKAGE}/_data and {PACKAGE.parent}).",
        "Install it again from a wheel or a full checkout.",
    )
