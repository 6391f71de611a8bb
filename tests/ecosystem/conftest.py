"""An environment of a user's own, with our wheel and the programs that know us by name, from the package index."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootstock.builds.own_wheel import WHEEL_NAME, wheel_bytes
from rootstock.builds.uv import find_uv
from tests.conftest import clean_environment

PROGRAMS = Path(__file__).parent / "programs"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment_with(folder: Path, *packages: str) -> Path:
    """Make an environment that holds our wheel and `packages`, and return its folder of programs."""
    wheel = folder / WHEEL_NAME
    wheel.write_bytes(wheel_bytes())
    subprocess.run([find_uv(), "venv", "-q", "--python", sys.executable, folder / "env"], check=True)
    subprocess.run(
        [find_uv(), "pip", "install", "-q", "--python", folder / "env/bin/python", wheel, *packages],
        check=True, timeout=600,
    )  # fmt: skip
    return folder / "env" / "bin"


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Run:
    """Run a program of a user's environment in a folder of its own, as after ``module load rootstock``."""

    def call(*command: str | Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = clean_environment(ROOTSTOCK_ROOT=str(root), HOME=str(tmp_path), **variables)
        done = subprocess.run(
            [*map(str, command)], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return call


def last_line(done: subprocess.CompletedProcess[str]) -> Any:
    """Return what one of our programs printed at its end, as JSON."""
    return json.loads(done.stdout.splitlines()[-1])


def lives(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
