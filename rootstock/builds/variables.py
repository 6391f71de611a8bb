"""The variables that programs of ours are started with."""

from __future__ import annotations

import os

_FOREIGN = ("UV_", "PIP_", "PYTHON", "VIRTUAL_ENV", "CONDA_")


def clean_variables() -> dict[str, str]:
    """Return the caller's environment without what would change how uv or Python behave."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
