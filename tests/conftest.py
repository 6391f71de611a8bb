"""What every kind of test starts from: a folder for temporary files, the commands, and an installed root."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from hypothesis import HealthCheck, settings

from tests.support.commands import ASKING, SITE, Done, ordinary, run
from tests.support.environment_files import WITH_SMALL_ASE
from tests.support.folders import once_per_run, open_to_readers
from tests.support.needs import need_programs, need_root
from tests.support.slurm import PROGRAMS, Slurm

Site = Callable[..., Done]


# The same examples in every run; `make test-soak` takes others, and more of them.
settings.register_profile("fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")

PLACE = pytest.StashKey[str]()  # the folder of all temporary files of a run

# Settings of the programs that are tested, of a batch job that the tests may run in, and of a developer's Python.
FOREIGN = ("ROOTSTOCK_", "SLURM_", "PBS_", "OMP_", "MKL_", "OPENBLAS_", "MPI_", "PYTHONDONTWRITEBYTECODE",
           "COLUMNS", "LINES", "LMOD_CMD", "MODULES_CMD")  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Keep a run's folders apart: every session of pytest closes the usual place of all of them to other users."""
    if "PYTEST_XDIST_WORKER" not in os.environ and "PYTEST_DEBUG_TEMPROOT" not in os.environ:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = config.stash[PLACE] = tempfile.mkdtemp(prefix="rs-")
    # Of numpy in the processes that run tests: several, on few processors. `_surroundings` takes it away again.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the folders only if something failed.

    They are removed at the end, since ext4 takes long to find the number of a new file where many were removed, and by
    a process that nobody waits for: half a million files take a minute.
    """
    if exitstatus == pytest.ExitCode.OK and (place := session.config.stash.get(PLACE, "")):
        # Of folders alone: files of roots with a cache of their own are links to those in it.
        remove = 'rm -rf "$0" || { find "$0" -type d -exec chmod u+rwx {} +; rm -rf "$0"; }'
        run("sh", "-c", f"({remove}) </dev/null >/dev/null 2>&1 &", place, check=True, start_new_session=True)


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give each process of a run the same surroundings, whoever started it, and temporary files of its own."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        if name != "ROOTSTOCK_TEST_DEVICE":
            del os.environ[name]
    folder = tmp_path_factory.mktemp("tmp", numbered=False)
    folder.chmod(0o1777)
    os.environ |= {
        "TMPDIR": str(folder), "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
        # Threads of numpy's without work sleep at once: each import would keep another test's processor busy.
        "OPENBLAS_THREAD_TIMEOUT": "4",
    }  # fmt: skip
    tempfile.tempdir = None  # read again where it is needed next
    # A job in the background of a script is started with these ignored, and so would be what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def site() -> Site:
    """Run ``rootstock-site`` as a person would who says yes to what it asks."""

    def command(
        *arguments: str | Path, check: bool = True, environment: Mapping[str, str] | None = None, yes: bool = True
    ) -> Done:
        agreed = ["--yes"] if yes and arguments[0] in ASKING else []
        return run(*ordinary(), SITE, *arguments, *agreed, check=check, env=environment, timeout=900)

    return command


@pytest.fixture(scope="session")
def package_cache() -> Path:
    """Return a cache of uv for packages of test roots, which is kept between runs: that of `root`, of no other.

    It lies outside of the roots, so they hold copies.
    """
    return platformdirs.user_cache_path("rootstock-tests") / "uv"


@pytest.fixture(scope="session")
def like_root(package_cache: Path) -> tuple[str, ...]:
    """Return options of ``rootstock-site install`` for roots that share the package cache of `root`."""
    return ("--set", "access.readers=world", "--set", f"uv.cache={package_cache}", *WITH_SMALL_ASE)


@pytest.fixture(scope="session")
def shared_root(site: Site, like_root: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with the environments emt and lj, readable by everybody. Tests must not change it."""

    def install(folder: Path) -> None:
        open_to_readers(folder)
        site("install", "--cluster", "local", "--root", folder / "root", "--env", "emt", "--env", "lj", *like_root)

    return once_per_run(tmp_path_factory, "site", install) / "root"


@pytest.fixture(scope="session")
def root(shared_root: Path) -> Path:
    """Return the root that tests share; a module with a root of its own gives that this name."""
    return shared_root


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Return a running cluster. What uses it is of the group ``slurm`` of pytest-xdist, so one process has it."""
    yield from run_slurm(tmp_path_factory)


def run_slurm(tmp_path_factory: pytest.TempPathFactory, group: Path | None = None, **options: Any) -> Iterator[Slurm]:
    """Run a cluster, for a fixture; see `Slurm` for its options."""
    need_root()
    need_programs(**PROGRAMS)
    state = tmp_path_factory.mktemp("slurm")
    open_to_readers(state)
    cluster = Slurm(state, group, **options)
    yield cluster
    cluster.close()
