"""What pages of documentation need besides a shell: ``with_NAME`` serves ``<!-- page needs: NAME -->``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import clean_environment, need
from tests.docs.blocks import REPOSITORY, Setting
from tests.site.slurm.cluster import PROGRAMS, UID, Slurm

LMOD = "/usr/share/lmod/lmod/init/bash"


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
    )
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "BASH_ENV"):
        environment.pop(name, None)
    return Setting(tmp_path, root, environment)


@pytest.fixture
def with_lmod(setting: Setting) -> None:
    """``module``, and nothing loaded: `module load rootstock` is the reader's to type."""
    need(Path(LMOD).exists(), "apt-get install lmod")
    unload(setting)
    setting.environment["BASH_ENV"] = LMOD
    setting.environment["MODULEPATH"] = str(setting.root / "modulefiles")


@pytest.fixture
def with_admin(setting: Setting) -> None:
    """The commands on PATH, but no root: that of somebody who is about to install one."""
    path = setting.environment["PATH"]
    unload(setting)
    setting.environment["PATH"] = path


@pytest.fixture
def with_developer(setting: Setting) -> None:
    """The developer's environment of this checkout, with all extras, as the Python on PATH."""
    setting.environment["PATH"] = f"{Path(sys.executable).parent}:{setting.environment['PATH']}"


@pytest.fixture
def with_checkout(setting: Setting) -> None:
    """A checkout of this repository as the folder where the reader is, and nothing installed."""
    unload(setting)
    lines = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").split()
    anywhere = shutil.ignore_patterns(".git", *(line.strip("/") for line in lines if not line.startswith("/")))
    top = {line.strip("/") for line in lines if line.startswith("/")}
    shutil.copytree(
        REPOSITORY,
        setting.work,
        ignore=lambda folder, names: {*anywhere(folder, names), *(top if Path(folder) == REPOSITORY else ())},
    )


@pytest.fixture(scope="module")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    need(os.getuid() == 0, "root, for the namespaces of a Slurm cluster")
    for program, package in PROGRAMS.items():
        need(shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"), f"apt-get install {package}")
    state = tmp_path_factory.mktemp("slurm")
    for folder in (state, *state.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    cluster = Slurm(state)
    yield cluster
    cluster.close()


@pytest.fixture
def with_slurm(setting: Setting, slurm_cluster: Slurm) -> None:
    """A cluster with Slurm, where the reader is an ordinary user and the root's modules are known."""
    unload(setting)
    setting.home, setting.owner, setting.enter = slurm_cluster.home, UID, slurm_cluster.enter
    setting.environment = slurm_cluster.variables | {
        "BASH_ENV": LMOD, "MODULEPATH": str(setting.root / "modulefiles"),
    }  # fmt: skip


def unload(setting: Setting) -> None:
    """Give the reader a shell where nothing of ours was loaded."""
    for name in [name for name in setting.environment if name.startswith("ROOTSTOCK_")]:
        del setting.environment[name]
    setting.environment["PATH"] = os.environ["PATH"]
