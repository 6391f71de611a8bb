"""A cluster of three nodes: that it behaves as one, and a run that its jobs compute while nodes and processes die."""

from __future__ import annotations

import os
import signal

import pytest

from tests.conftest import run_slurm
from tests.support.processes import wait_for, wait_until_gone

pytestmark = pytest.mark.xdist_group("nodes")

STAY = "#!/bin/bash\nhostname\necho $CUDA_VISIBLE_DEVICES $SLURM_RESTART_COUNT\nsleep 1000 & wait\n"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    yield from run_slurm(tmp_path_factory, nodes=3, timeout_s=10, kill_wait_s=5)


def test_each_node_is_a_machine_of_its_own(slurm):
    assert slurm.nodes() == {"n1": "idle", "n2": "idle", "n3": "idle"}
    assert sorted(slurm.run("srun", "--nodes=3", "hostname").split()) == ["n1", "n2", "n3"]
    for node in slurm.names:
        assert slurm.on(node, "hostname").strip() == node
        slurm.on(node, "touch", f"/dev/shm/{node}", str(slurm.state / "local" / node))
        assert slurm.on(node, "ls", "/dev/shm", str(slurm.state / "local")).split().count(node) == 2
        assert slurm.on(node, "sh", "-c", "echo $$").strip() != str(os.getpid())
    assert "n2" not in slurm.on("n1", "ls", "/dev/shm", str(slurm.state / "local")).split()


def test_a_job_of_a_node_that_dies_begins_again_on_another(slurm):
    number = slurm.submit(STAY, "--gres=gpu:1")
    wait_for(lambda: slurm.processes("n1", "sleep"), "the job")
    [sleeper] = slurm.processes("n1", "sleep")
    assert (sleeper.variables["SLURM_JOB_ID"], sleeper.variables["CUDA_VISIBLE_DEVICES"]) == (number, "0")
    slurm.kill_node("n1")
    wait_until_gone(sleeper.pid)
    assert slurm.processes("n1") == []
    slurm.say_down("n1")  # it takes 20 s to find out by itself
    wait_for(lambda: slurm.output(number).split() == ["n2", "0", "1"], "the job's second begin")
    slurm.revive_node("n1")
    assert slurm.nodes()["n1"] == "idle"
    slurm.run("scancel", number)
    assert slurm.wait(number) == "CANCELLED"
    wait_for(lambda: not slurm.processes("n2", "sleep"), "the end of the job's processes")


def test_two_jobs_of_a_node_have_a_gpu_each(slurm):
    numbers = [slurm.submit(STAY, "--gres=gpu:1", "--nodelist=n3") for _ in range(2)]
    wait_for(lambda: len(slurm.processes("n3", "sleep")) == 2, "both jobs")
    jobs = {each.variables["SLURM_JOB_ID"]: each for each in slurm.processes("n3", "sleep")}
    assert sorted(jobs) == sorted(numbers)
    assert sorted(each.variables["CUDA_VISIBLE_DEVICES"] for each in jobs.values()) == ["0", "1"]
    os.kill(jobs[numbers[0]].pid, signal.SIGKILL)
    assert slurm.wait(numbers[0]) == "COMPLETED"  # a shell waits, and does not mind
    slurm.clear()
