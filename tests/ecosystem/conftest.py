"""An environment of a user's own, with our wheel and the programs that know us by name, from the package index."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootstock.builds.own_wheel import WHEEL_NAME, wheel_bytes
from rootstock.builds.uv import find_uv
from tests.support.commands import Done, clean_environment, run

PROGRAMS = Path(__file__).parent / "programs"

PACKAGES = ("quacc>=1.8", "matcalc>=0.7", "atomate2>=0.1.5", "mlipx>=0.1.5", "joblib>=1.5", "dask[distributed]>=2025.1",
            "parsl>=2026.2")  # fmt: skip

TORCH = """\
# What atomate2 needs of torch: to keep the default type of numbers, whatever a model in the same process does.
def get_default_dtype():
    return "float32"


def set_default_dtype(dtype):
    assert dtype == "float32"
"""

Ask = Callable[..., Done]


def environment_with(folder: Path, *packages: str) -> Path:
    """Make an environment that holds our wheel and `packages`, and return its folder of programs."""
    wheel = folder / WHEEL_NAME
    wheel.write_bytes(wheel_bytes())
    uv, python = find_uv(), folder / "env/bin/python"
    run(uv, "venv", "-q", "--python", sys.executable, folder / "env", check=True)
    run(uv, "pip", "install", "-q", "--python", python, wheel, *packages, check=True, timeout=600)
    return folder / "env" / "bin"


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment that holds all programs; its tests are one group, so one process makes it."""
    return environment_with(tmp_path_factory.mktemp("ecosystem"), *PACKAGES) / "python"


@pytest.fixture
def ask(root: Path, tmp_path: Path) -> Ask:
    """Run a program of a user's environment in a folder of its own, as after ``module load rootstock``."""

    def call(*command: str | Path, check: bool = True, **variables: str) -> Done:
        env = clean_environment(ROOTSTOCK_ROOT=str(root), HOME=str(tmp_path), **variables)
        return run(*command, env=env, cwd=tmp_path, check=check)

    return call


def last_line(done: Done) -> Any:
    """Return what one of our programs printed at its end, as JSON."""
    return json.loads(done.stdout.splitlines()[-1])


def lives(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
