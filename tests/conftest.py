"""What several kinds of tests share: a built root, and what is refused instead of skipped in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

SITE = Path(sys.executable).with_name("rootstock-site")


def need(condition: object, what: str) -> None:
    """Skip a test that this machine cannot run; in CI that is a failure."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must provide this: {what}")
    pytest.skip(what)


def clean_environment(**changes: str) -> dict[str, str]:
    """Return the environment without any setting of Rootstock."""
    return {k: v for k, v in os.environ.items() if not k.startswith("ROOTSTOCK_")} | changes


def ordinary() -> list[str]:
    """Return the prefix of a command that root runs without the right to write where modes forbid it.

    Admins need not be root, so nothing that they do may depend on that right.
    """
    if os.geteuid() != 0:
        return []
    need(shutil.which("setpriv"), "the program setpriv (apt-get install util-linux)")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def open_to_readers(folder: Path) -> None:
    """Let other users reach a folder of ours; pytest makes its own private."""
    for each in (folder, *folder.parents):
        if each.stat().st_uid == os.getuid() and each.stat().st_mode & 0o055 != 0o055:
            each.chmod(0o755)


Site = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def site() -> Site:
    """Run ``rootstock-site`` as a person would."""

    def run(
        *arguments: str | Path, check: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*ordinary(), str(SITE), *map(str, arguments)],
            env=clean_environment() if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
        )
        if check and done.returncode:
            pytest.fail(f"rootstock-site {arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture(scope="session")
def root(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with the environments emt and lj, readable by everybody. Tests must not change it."""
    base = tmp_path_factory.mktemp("site")
    open_to_readers(base)
    path = base / "root"
    site(
        "install", "--cluster", "local", "--root", path, "--env", "emt", "--env", "lj", "--set", "access.readers=world"
    )
    return path
