"""What pages of documentation need besides a shell: ``with_NAME`` serves ``<!-- page needs: NAME -->``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
import tomli_w

from tests.docs.blocks import Setting
from tests.support.commands import REPOSITORY, clean_environment
from tests.support.environment_files import NO_MATPLOTLIB, QUICK_SCIPY
from tests.support.needs import need
from tests.support.slurm import UID, Slurm

LMOD = "/usr/share/lmod/lmod/init/bash"
# What an outer `make test` hands down to the `make` of a page: its options, and its settings of our Makefile.
OF_MAKE = (
    "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MAKE_TERMOUT", "MAKE_TERMERR",
    "PYTHON", "ENV", "ROOT", "TESTS", "PROCESSES",
)  # fmt: skip


@pytest.fixture
def setting(root: Path, tmp_path: Path) -> Setting:
    """Return a reader's folder, and the variables that the module of a root with emt and lj sets."""
    from rootstock import __version__

    environment = clean_environment(
        ROOTSTOCK_ROOT=str(root),
        ROOTSTOCK_CLUSTER="local",
        ROOTSTOCK_VERSION=__version__,
        PATH=f"{root}/client/{__version__}/bin:{os.environ['PATH']}",
        HOME=str(tmp_path),
        PYTHONDONTWRITEBYTECODE="1",  # `python -m ase` as root would write into the root, which others use too
    )
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "BASH_ENV", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    return Setting(tmp_path, root, environment)


def need_lmod() -> None:
    need(Path(LMOD).exists(), "Lmod (apt-get install lmod)")


@pytest.fixture
def with_lmod(setting: Setting) -> None:
    """``module``, and nothing loaded: `module load rootstock` is the reader's to type."""
    need_lmod()
    unload(setting)
    setting.environment["BASH_ENV"] = LMOD
    setting.environment["MODULEPATH"] = str(setting.root / "modulefiles")


@pytest.fixture
def with_admin(setting: Setting) -> None:
    """The commands on PATH, but no root: that of somebody who is about to install one."""
    path = setting.environment["PATH"]
    unload(setting)
    setting.environment["PATH"] = path
    spare_the_machine(setting)


@pytest.fixture
def with_developer(setting: Setting) -> None:
    """The developer's environment of this checkout, with all extras, as the Python on PATH."""
    setting.environment["PATH"] = f"{Path(sys.executable).parent}:{setting.environment['PATH']}"


@pytest.fixture
def with_checkout(setting: Setting) -> None:
    """A checkout of this repository as the folder where the reader is, and nothing installed."""
    unload(setting)
    for name in OF_MAKE:
        setting.environment.pop(name, None)
    spare_the_machine(setting)
    lines = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").split()
    anywhere = shutil.ignore_patterns(".git", *(line.strip("/") for line in lines if not line.startswith("/")))
    top = {line.strip("/") for line in lines if line.startswith("/")}
    shutil.copytree(
        REPOSITORY,
        setting.work,
        ignore=lambda folder, names: {*anywhere(folder, names), *(top if Path(folder) == REPOSITORY else ())},
    )


@pytest.fixture
def with_slurm(setting: Setting, slurm_cluster: Slurm) -> Iterator[None]:
    """A cluster with Slurm, where the reader is an ordinary user and the root's modules are known."""
    need_lmod()
    unload(setting)
    setting.home, setting.owner, setting.enter = slurm_cluster.home, UID, slurm_cluster.enter
    setting.environment = slurm_cluster.variables | {
        "BASH_ENV": LMOD, "MODULEPATH": str(setting.root / "modulefiles"),
    }  # fmt: skip
    yield
    slurm_cluster.clear()


@pytest.fixture
def with_gpus(with_slurm: None, setting: Setting) -> Iterator[None]:
    """The same, where the root's cluster has GPUs and its jobs a short walltime."""
    settings = {
        "jobs": {"scheduler": "slurm", "batch": {"walltime": "00:05:00", "cpus-per-gpu": 1}},
        "hardware": {"accelerator": "cuda"},
    }
    registry(setting).parent.mkdir(parents=True)
    registry(setting).write_text(tomli_w.dumps({"clusters": {"local": settings}}))
    yield
    shutil.rmtree(setting.home / ".config")


def unload(setting: Setting) -> None:
    """Give the reader a shell where nothing of ours was loaded."""
    for name in [name for name in setting.environment if name.startswith("ROOTSTOCK_")]:
        del setting.environment[name]
    setting.environment["PATH"] = os.environ["PATH"]


def spare_the_machine(setting: Setting) -> None:
    """Give the reader a registry of their own: no page draws, and all pages fetch and compile the same packages."""
    cache = platformdirs.user_cache_path("rootstock-tests") / "uv-of-pages"
    settings = {"uv": {"overrides": [NO_MATPLOTLIB], "constraints": [QUICK_SCIPY], "cache": str(cache)}}
    registry(setting).parent.mkdir(parents=True)
    registry(setting).write_text(tomli_w.dumps({"clusters": {"local": settings}}))


def registry(setting: Setting) -> Path:
    """Return the reader's own file of clusters."""
    return setting.home / ".config" / "rootstock" / "clusters.toml"
