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

Ask = Callable[..., Done]


def environment_with(folder: Path, *packages: str) -> Path:
    """Make an environment that holds our wheel and `packages`, and return its folder of programs."""
    wheel = folder / WHEEL_NAME
    wheel.write_bytes(wheel_bytes())
    uv, python = find_uv(), folder / "env/bin/python"
    run(uv, "venv", "-q", "--python", sys.executable, folder / "env", check=True)
    run(uv, "pip", "install", "-q", "--python", python, wheel, *packages, check=True, timeout=600)
    return folder / "env" / "bin"


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
