"""How many threads a worker runs: what the job gave, shared with the other workers there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rootstock import RootstockCalculator
from rootstock.client.threads import processors, thread_count
from tests.conftest import clean_environment

BOUND = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)


def threads(root: Path, **arguments: object) -> tuple[int, list[str]]:
    """Return what a worker says of its threads, and what its variables say."""
    with RootstockCalculator("emt", root=root, device="cpu", **arguments) as calc:
        variables = Path(f"/proc/{calc.info()['pid']}/environ").read_text().split("\0")
        said = sorted(each for each in variables if each.startswith(("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM")))
        return calc.info()["threads"], said


def test_given_threads_reach_every_library(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # an argument outranks it
    assert threads(root, threads=5) == (5, ["MKL_NUM_THREADS=5", "OMP_NUM_THREADS=5", "OPENBLAS_NUM_THREADS=5"])
    assert threads(root) == (3, ["OMP_NUM_THREADS=3"])


def test_workers_share_the_processors(root: Path) -> None:
    """Those of other processes too."""
    with RootstockCalculator("emt", root=root, device="cpu"):
        assert thread_count() <= max(1, BOUND // 2)
        code = "from rootstock.client.threads import thread_count as n; print(n())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert int(done.stdout) <= max(1, BOUND // 2)


def test_only_workers_on_the_same_processors_count(root: Path) -> None:
    if BOUND < 2:
        pytest.skip("one processor")
    first, *others = sorted(os.sched_getaffinity(0))
    code = "import os, sys; from rootstock.client.threads import _workers_here as n; "
    code += "os.sched_setaffinity(0, [int(sys.argv[1])]); print(n())"

    def seen_from(processor: int) -> int:
        done = subprocess.run([sys.executable, "-c", code, str(processor)], capture_output=True, text=True, check=True)
        return int(done.stdout)

    with RootstockCalculator("emt", root=root, device="cpu") as calc:
        os.sched_setaffinity(calc.info()["pid"], [first])
        for _ in range(20):  # others of this user may start and end workers meanwhile
            before, elsewhere, after = seen_from(first), seen_from(others[0]), seen_from(first)
            if before == after:
                break
    assert before >= 1
    if before == 1:  # nobody else's workers run here
        assert elsewhere == 0


@pytest.mark.parametrize("groups", [{"": "max 100000", "job": "150000 100000"}, {"": "150000 100000", "job": "max 1"}])
def test_the_quota_of_a_control_group_and_those_around_it(tmp_path: Path, groups: dict[str, str]) -> None:
    for name, text in groups.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cpu.max").write_text(f"{text}\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/job\n")
    assert processors({}, own, tmp_path) == min(2, BOUND)
    (tmp_path / "job" / "cpu.max").write_text("20000 100000\n")
    assert processors({}, own, tmp_path) == 1


def test_the_quota_of_a_control_group_of_the_first_version(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "docker" / "x"
    folder.mkdir(parents=True)
    own = tmp_path / "cgroup"
    own.write_text("5:cpuset:/other\n4:cpu,cpuacct:/docker/x\n0::/ignored\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in (("-1", BOUND), ("100000", 1)):
        (folder / "cpu.cfs_quota_us").write_text(quota)
        assert processors({}, own, tmp_path) == expected


def test_what_slurm_gave_the_task(tmp_path: Path) -> None:
    nothing = tmp_path / "none"
    assert processors({}, nothing, tmp_path) == BOUND
    assert processors({"SLURM_CPUS_PER_TASK": "1"}, nothing, tmp_path) == 1
    assert processors({"SLURM_CPUS_PER_TASK": "1000"}, nothing, tmp_path) == BOUND


def test_the_share_of_a_rank_that_is_not_bound() -> None:
    """Unless one worker computes for all ranks."""
    code = "from rootstock.client.threads import thread_count as n; print(n(), n(for_all_ranks=True))"

    def counts(**variables: str) -> list[int]:
        environment = clean_environment(**variables)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        return list(map(int, done.stdout.split()))

    for _ in range(20):  # others of this user may start and end workers meanwhile
        before, shared, after = counts()[0], counts(MPI_LOCALNRANKS=str(BOUND)), counts()[0]
        if before == after:
            break
    assert shared == [1, before]
