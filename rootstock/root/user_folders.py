"""Folders of Rootstock's in those of the user."""

from __future__ import annotations

import os
from pathlib import Path

from rootstock.errors import ConfigurationError


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

    Raises
    ------
    ConfigurationError
        As `expanded` does.
    """
    return expanded(Path(os.environ.get(variable, "").strip() or otherwise)) / "rootstock"


def expanded(path: Path) -> Path:
    """Return a path with the home folder that its ``~`` stands for.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ConfigurationError
        If nobody knows that folder: HOME is not set, and this machine has no account of that name or number.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigurationError(
            f"{path}: this machine knows no home folder for {path.parts[0]}.",
            "Set HOME, or write the path without ~.",
        ) from error
