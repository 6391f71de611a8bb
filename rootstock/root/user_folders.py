"""Folders of Rootstock's in those of the user."""

from __future__ import annotations

import os
from pathlib import Path


def personal_root() -> Path:
    """Return the folder of the root that a user has without any installation."""
    return user_folder("XDG_DATA_HOME", "~/.local/share")


def user_folder(variable: str, otherwise: str) -> Path:
    """Return the folder of Rootstock in one of those that the XDG specification gives each user.

    Parameters
    ----------
    variable : str
        The environment variable that names the folder around it.
    otherwise : str
        That folder where the variable is not set.
    """
    return Path(os.path.expanduser(os.environ.get(variable, "").strip() or otherwise), "rootstock")
