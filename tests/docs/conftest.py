"""What pages of documentation need besides a shell: ``with_NAME`` serves ``<!-- page needs: NAME -->``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import clean_environment


@dataclass
class Setting:
    """What a reader has before the first block: the fixtures of a page add to it."""

    base: Path
    root: Path
    environment: dict[str, str] = field(default_factory=dict)


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
def with_lmod(setting: Setting, require: Callable[[str, str], str]) -> None:
    """``module``, and nothing loaded: `module load rootstock` is the reader's to type."""
    require("lua5.3", "lmod")
    for name in [name for name in setting.environment if name.startswith("ROOTSTOCK_")]:
        del setting.environment[name]
    setting.environment["PATH"] = os.environ["PATH"]
    setting.environment["BASH_ENV"] = "/usr/share/lmod/lmod/init/bash"
    setting.environment["MODULEPATH"] = str(setting.root / "modulefiles")
