"""How many threads a worker runs: what the job gave, shared with the other workers there."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.client.threads import ThreadWatch, processors
from tests.support.commands import ROOTSTOCK, clean_environment, run, started
from tests.support.needs import need
from tests.support.processes import alone, children, wait_for

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
    three = (3, ["MKL_NUM_THREADS=3", "OMP_NUM_THREADS=3", "OPENBLAS_NUM_THREADS=3"])
    assert threads(root) == three
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # of this process
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert threads(root) == three
    monkeypatch.setenv("OMP_NUM_THREADS", "all")
    count, said = threads(root)  # of one worker: how many it is given depends on who else runs
    assert said[1] == f"OMP_NUM_THREADS={count}"


@pytest.mark.parametrize("variables", [{}, {"OMP_NUM_THREADS": "3"}])
def test_numpy_of_a_command_runs_one_thread(root: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    """It starts its threads when it is imported, so they can be counted; the worker has those of the job."""
    bulk("Cu", cubic=True).write(tmp_path / "a.traj")
    line = ("md", "emt", "a.traj", "--ensemble", "nve", "--steps", "1000000000", "--file-prefix", "x")
    command = [ROOTSTOCK, *line, "--root", root, "--device", "cpu"]
    with started(command, cwd=tmp_path, env=clean_environment(**variables)) as process:
        wait_for((tmp_path / "x-restart.json").exists, "the first restart file")
        assert len(os.listdir(f"/proc/{process.pid}/task")) == 1
        (worker,) = children(process.pid)
        said = Path(f"/proc/{worker}/environ").read_text().split("\0")
        given = {line for line in said if line.partition("=")[0] in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        counts = {int(line.partition("=")[2]) for line in given}
        assert len(given) == 2 and counts == ({3} if variables else counts & {*range(1, BOUND + 1)})


def test_threads_that_cost_more_than_they_bring() -> None:
    """Of 50 steps: the seconds that passed, those of all processors, and those that the worker took."""
    said = ThreadWatch.judge(passed=8.3, busy=33.0, inside=0.2)
    assert said.startswith("162 ms of each step of 166 ms pass outside of the model, with 4.0 processors busy in this")
    assert "export OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1" in said
    for passed, busy, inside, why in (
        (8.3, 8.3, 0.2, "one thread"), (8.3, 33.0, 5.0, "the model"), (0.2, 0.8, 0.01, "short steps"),
        (8.3, 0.5, 0.2, "a process that sleeps"),
    ):  # fmt: skip
        assert ThreadWatch.judge(passed, busy, inside) == "", why


def test_a_session_is_looked_at_once(root: Path) -> None:
    with RootstockCalculator("emt", root=root, device="cpu", threads=1) as calc:
        watch = calc._session.timings.watch
        seen = []
        for step in range(60):
            calc.get_potential_energy(bulk("Cu", a=3.5 + step / 1000))
            seen.append(watch.next)
    assert seen == [51] * 50 + [0] * 10


COUNTS = """
import json, os, subprocess, sys
from rootstock import RootstockCalculator
from rootstock.client.threads import _workers_here, thread_count

code = "import os, sys; from rootstock.client.threads import _workers_here, thread_count; "
code += "os.sched_setaffinity(0, json.loads(sys.argv[1])); print(_workers_here(), thread_count())"

def elsewhere(processors):
    "What another process counts that may use these."
    words = [sys.executable, "-c", "import json; " + code, json.dumps(list(processors))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    return list(map(int, done.stdout.split()))

def here():
    return [_workers_here(), thread_count()]

bound = sorted(os.sched_getaffinity(0))
found = {"none": here()}
with RootstockCalculator("emt", root=sys.argv[1], device="cpu") as calc:
    found["one"], found["one, elsewhere"] = here(), elsewhere(bound)
    with RootstockCalculator("emt", root=sys.argv[1], device="cpu") as other:
        found["said"] = [calc.info()["threads"], other.info()["threads"]]
        found["two"] = here()
    os.sched_setaffinity(calc.info()["pid"], bound[:1])
    found["the first processor"] = elsewhere(bound[:1])
    found["the others"] = elsewhere(bound[1:] or bound)
found["none left"] = here()
print(json.dumps(found))
"""


def test_workers_share_the_processors(root: Path) -> None:
    """Those of other processes too; only workers on the same processors count."""
    need(BOUND > 1, "two processors")
    done = run(*alone(), sys.executable, "-c", COUNTS, root, check=True)
    whole = processors(os.environ)  # less than the bound where a control group has a quota
    assert json.loads(done.stdout) == {
        "none": [0, whole],
        "one": [1, max(1, whole // 2)],
        "one, elsewhere": [1, max(1, whole // 2)],
        "said": [whole, max(1, whole // 2)],
        "two": [2, max(1, whole // 3)],
        "the first processor": [1, 1],
        "the others": [0, min(whole, BOUND - 1)],
        "none left": [0, whole],
    }


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
        done = run(*alone(), sys.executable, "-c", code, check=True, env=clean_environment(**variables))
        return list(map(int, done.stdout.split()))

    whole = processors(os.environ)
    assert counts() == [whole, whole]
    assert counts(MPI_LOCALNRANKS=str(BOUND)) == [1, whole]
