"""A cluster of three nodes: that it behaves as one, and runs that its jobs compute while nodes and processes die."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.nodes import EVERY, STAY
from tests.support.processes import wait_for, wait_until_gone
from tests.support.slurm import Process

pytestmark = pytest.mark.xdist_group("nodes")


@pytest.fixture(scope="module")
def slurm(three_nodes):
    return three_nodes


# -- the cluster itself


def test_each_node_is_a_machine_of_its_own(slurm):
    assert slurm.nodes() == {"n1": "idle", "n2": "idle", "n3": "idle"}
    assert sorted(slurm.run("srun", "--nodes=3", "hostname").split()) == ["n1", "n2", "n3"]
    for node in slurm.names:
        assert slurm.on(node, "hostname").strip() == node
        slurm.on(node, "touch", f"/dev/shm/{node}", str(slurm.state / "local" / node))
        assert slurm.on(node, "ls", "/dev/shm", str(slurm.state / "local")).split().count(node) == 2
        assert slurm.on(node, "sh", "-c", "echo $$").strip() != str(os.getpid())
    assert "n2" not in slurm.on("n1", "ls", "/dev/shm", str(slurm.state / "local")).split()


@pytest.mark.nodes
def test_a_job_of_a_node_that_dies_begins_again_on_another(slurm):
    number = slurm.submit(STAY, "--gres=gpu:1")
    wait_for(lambda: slurm.processes("sleep", node="n1"), "the job")
    [sleeper] = slurm.processes("sleep", node="n1")
    assert (sleeper.variables["SLURM_JOB_ID"], sleeper.variables["CUDA_VISIBLE_DEVICES"]) == (number, "0")
    slurm.kill_node("n1")
    wait_until_gone(sleeper.pid)
    assert slurm.processes(node="n1") == []
    wait_for(lambda: slurm.nodes()["n1"].startswith("down"), "Slurm, which finds out by and by")
    wait_for(lambda: slurm.output(number).split() == ["n2", "0", "1"], "the job's second begin")
    slurm.revive_node("n1")
    assert slurm.nodes()["n1"] == "idle"
    slurm.run("scancel", number)
    assert slurm.wait(number) == "CANCELLED"
    wait_for(lambda: not slurm.processes("sleep", node="n2"), "the end of the job's processes")


def test_two_jobs_of_a_node_have_a_gpu_each(slurm):
    numbers = [slurm.submit(STAY, "--gres=gpu:1", "--nodelist=n3") for _ in range(2)]
    wait_for(lambda: len(slurm.processes("sleep", node="n3")) == 2, "both jobs")
    jobs = {each.variables["SLURM_JOB_ID"]: each for each in slurm.processes("sleep", node="n3")}
    assert sorted(jobs) == sorted(numbers)
    assert sorted(each.variables["CUDA_VISIBLE_DEVICES"] for each in jobs.values()) == ["0", "1"]
    os.kill(jobs[numbers[0]].pid, signal.SIGKILL)
    assert slurm.wait(numbers[0]) == "COMPLETED"  # a shell waits, and does not mind
    slurm.clear()


# -- runs


def tasks(workers: dict[tuple[str, str], Process]) -> set[str]:
    return {each.variables["SLURM_ARRAY_TASK_ID"] for each in workers.values()}


def logs(folder: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(folder.glob("jobs/*/*.out")))


@pytest.fixture
def own_settings(slurm):
    """Return what writes a user's own settings of jobs, for the time of a test."""
    file = slurm.home / ".config" / "rootstock" / "clusters.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    yield lambda text: file.write_text(f"[clusters.local.jobs.batch]\n{text}\n")
    file.unlink()


@pytest.mark.parametrize("number", [240, pytest.param(2000, marks=pytest.mark.nodes)])
def test_a_run_is_computed_whatever_dies(slurm, person, seen, number):
    """Each structure is computed, once in the results, and no worker comes near the GPU of somebody else."""
    name = f"all-{number}"
    person.write_structures(f"{name}.xyz", number)
    person.allow(1)
    foreign = slurm.submit(STAY, "--gres=gpu:1", "--nodelist=n1")
    wait_for(lambda: slurm.processes("sleep"), "somebody else's job")
    [theirs] = {each.variables["CUDA_VISIBLE_DEVICES"] for each in slurm.processes("sleep")}
    ours = [slot for slot in EVERY if slot != ("n1", theirs)]

    person("singlepoint", "gated", f"{name}.xyz", "--run", name, "--gpus", "5")
    before = person.wait_for_workers(*ours)
    assert len(tasks(before)) == 5
    # A worker and a driver are replaced; what a job itself was is not.
    person.kill(before["n2", "0"], "/builds/gated/")
    person.kill(before["n3", "0"], "pool.driver")
    lost = person.kill(before["n2", "1"], "run continue")
    killed = {before[slot].pid for slot in (("n2", "0"), ("n2", "1"), ("n3", "0"))}
    wait_until_gone(*killed)
    left = {*ours} - {("n2", "1")}
    now = person.wait_for_workers(*left)
    assert tasks(now) == tasks(before) - {lost.variables["SLURM_ARRAY_TASK_ID"]}
    assert not killed & {each.pid for each in now.values()} and not seen.slots["n1", theirs]

    # The tasks of a node that dies begin again on others.
    slurm.kill_node("n3")
    slurm.say_down("n3")
    slurm.run("scancel", foreign)
    now = person.wait_for_workers(*EVERY[:4])
    restarts = Counter(each.variables.get("SLURM_RESTART_COUNT", "0") for each in now.values())
    assert restarts == {"0": 2, "1": 2} and tasks(now) == tasks(before) - {lost.variables["SLURM_ARRAY_TASK_ID"]}

    # What was computed stays, when all is cancelled and sent again.
    person.allow(2)
    person.wait_for_workers(*EVERY[:4], at=2)
    said = person("run", "cancel", name).stdout
    assert "was cancelled" in said
    wait_for(lambda: logs(slurm.home / name).count("Ending: what is unfinished is recorded.") == 4, "all to hear of it")
    person.allow(number)
    wait_for(lambda: not slurm.run("squeue", "--noheader") and not slurm.processes(), "the end of all jobs")
    status = person.status(name)
    assert {process["state"] for process in status["running"]} <= {"ended"}  # of the process that was killed
    assert status["done"] >= 4 * 2 and status["missing"] > 0
    person("run", "continue", name, "--gpus", "6")
    wait_for(lambda: not slurm.run("squeue", "--noheader"), "the end of all jobs")
    status = person.status(name)
    assert (status["done"], status["missing"], status["damaged_records"]) == (number, 0, 0), logs(slurm.home / name)
    assert status["failed"] == {"structure": 0, "resource": 0} and status["running"] == []
    person.check_results(f"{name}.extxyz", number)
    assert not seen.faults and {*EVERY} == {*seen.slots}


@pytest.mark.nodes
def test_a_run_goes_on_after_jobs_that_go_first(slurm, person, seen):
    """A job that has to make room records what it has, waits, and goes on from there."""
    person.write_structures("first.xyz", 240)
    person.allow(2)
    person("singlepoint", "gated", "first.xyz", "--run", "first", "--gpus", "6")
    before = person.wait_for_workers(*EVERY, at=2)
    urgent = slurm.submit(STAY, "--partition=urgent", "--gres=gpu:2", "--nodelist=n2")
    wait_for(
        lambda: logs(slurm.home / "first").count("Ending: what is unfinished is recorded.") == 2, "two to hear of it"
    )
    person.allow(240, ("n2", "0"), ("n2", "1"))
    wait_for(lambda: slurm.processes("sleep", node="n2"), "the job that goes first")
    person.allow(2)
    assert {*person.workers()} == {*EVERY[:2], *EVERY[4:]}
    [job] = person.status("first")["jobs"]
    assert (job["running"], job["waiting"]) == (4, 2) and job["why"]
    assert f"4 running, 2 waiting ({job['why']}), of 6" in person("run", "status", "first").stdout
    slurm.run("scancel", urgent)
    now = person.wait_for_workers(*EVERY)
    assert {each.variables.get("SLURM_RESTART_COUNT") for (node, _), each in now.items() if node == "n2"} == {"1"}
    assert tasks(now) == tasks(before)
    person.allow(240)
    wait_for(lambda: not slurm.run("squeue", "--noheader"), "the end of all jobs")
    status = person.status("first")
    assert (status["done"], status["missing"], status["computed_twice"]) == (240, 0, 0), logs(slurm.home / "first")
    person.check_results("first.extxyz", 240)
    assert not seen.faults


@pytest.mark.nodes
def test_a_node_on_which_all_fails_does_not_take_what_waits(slurm, person, seen):
    person.write_structures("black.xyz", 240)
    person.allow(2)
    person("singlepoint", "gated", "black.xyz", "--run", "black", "--gpus", "12")
    person.wait_for_workers(*EVERY, at=2)
    person.allow(20, ("n3", "0"))  # by which it is known that the model works
    wait_for(lambda: person.status("black")["done"], "results")
    person.allow(2)
    person.wait_for_workers(*EVERY, at=2)
    person.break_node("n1")
    person.allow(240, ("n1", "0"), ("n1", "1"))
    wait_for(lambda: {*person.workers()} == {*EVERY[2:]} and not slurm.processes(node="n1"), "the end of two tasks")
    waits = slurm.run("squeue", "--noheader", "--states=PENDING", "--array", "--format=%x").split()
    assert {*waits} == {"n1"} and len(waits) in (4, 5) and slurm.nodes()["n1"] == "idle", logs(slurm.home / "black")
    person.allow(240)
    wait_for(lambda: not slurm.run("squeue", "--noheader"), "the end of all jobs")
    status = person.status("black")
    [bad] = status["bad_nodes"]
    assert (bad["host"], status["failed"]) == ("n1", {"structure": 0, "resource": 0}), logs(slurm.home / "black")
    assert 0 < status["missing"] <= 2 * 20
    said = person("run", "continue", "black", "--gpus", "6").stderr
    assert "not on n1" in said
    wait_for(lambda: not slurm.run("squeue", "--noheader"), "the end of all jobs")
    person.check_results("black.extxyz", 240)
    assert not seen.faults
    person.break_node("n1", broken=False)


@pytest.mark.nodes
def test_a_run_is_computed_though_a_node_that_is_given_up_goes_on(slurm, person, seen):
    """Slurm begins its tasks again elsewhere, and what they compute twice is in the results once."""
    person.write_structures("lost.xyz", 120)
    person.allow(1)
    person("singlepoint", "gated", "lost.xyz", "--run", "lost", "--gpus", "3")
    before = person.wait_for_workers(*EVERY[:3])
    assert len(tasks(before)) == 3
    slurm.lose_node("n1")
    slurm.say_down("n1")
    # They find that they are computed, where files are locked for all nodes as here; elsewhere they compute them, too.
    again = ("--noheader", "--array", "--states=RUNNING,PENDING")
    wait_for(lambda: len(slurm.run("squeue", *again).splitlines()) == 1, "the end of those that have begun again")
    assert {*person.workers()} == {*before}
    person.allow(120)
    wait_for(lambda: not slurm.run("squeue", "--noheader") and not slurm.processes(), "the end of all jobs")
    status = person.status("lost")
    assert (status["done"], status["missing"], status["damaged_records"]) == (120, 0, 0), logs(slurm.home / "lost")
    person.check_results("lost.extxyz", 120)
    assert not seen.faults


@pytest.mark.nodes
def test_a_job_computes_on_all_gpus_of_its_node(slurm, person, seen, own_settings):
    """Where jobs get whole nodes: it ends once, though a worker is given up, and goes on where it was cancelled."""
    own_settings("whole-nodes = true")
    person.write_structures("whole.xyz", 120)
    person.allow(1)
    said = person("singlepoint", "gated", "whole.xyz", "--run", "whole", "--gpus", "5")
    assert "an array of 3 jobs with 2 GPUs each" in said.stdout and "6 GPUs compute" in said.stderr
    before = person.wait_for_workers(*EVERY)
    assert len(tasks(before)) == 3
    person.kill(before["n1", "0"], "/builds/gated/")
    person.kill(before["n2", "0"], "pool.driver")
    wait_until_gone(before["n1", "0"].pid, before["n2", "0"].pid)
    person.wait_for_workers(*EVERY)
    slurm.kill_node("n3")
    slurm.say_down("n3")
    person.wait_for_workers(*EVERY[:4])
    slurm.revive_node("n3")
    now = person.wait_for_workers(*EVERY)
    assert Counter(each.variables.get("SLURM_RESTART_COUNT", "0") for each in now.values()) == {"0": 4, "1": 2}
    person.allow(120)
    wait_for(lambda: not slurm.run("squeue", "--noheader"), "the end of all jobs")
    status = person.status("whole")
    assert (status["done"], status["missing"], status["damaged_records"]) == (120, 0, 0), logs(slurm.home / "whole")
    person.check_results("whole.extxyz", 120)
    assert not seen.faults


@pytest.mark.nodes
def test_the_other_nodes_of_a_job_go_on(slurm, person, seen, own_settings):
    """Where one job takes all nodes: one of them dies, and on another one what computes there."""
    own_settings("arrays = false")
    person.write_structures("one.xyz", 120)
    person.allow(1)
    said = person("singlepoint", "gated", "one.xyz", "--run", "one", "--gpus", "6")
    assert "one job of 3 nodes with 2 GPUs each" in said.stdout
    before = person.wait_for_workers(*EVERY)
    person.kill(before["n2", "0"], "run continue")
    wait_until_gone(before["n2", "0"].pid, before["n2", "1"].pid)
    slurm.kill_node("n3")
    slurm.say_down("n3")
    assert {*person.workers()} == {("n1", "0"), ("n1", "1")}
    person.allow(120)
    wait_for(lambda: not slurm.run("squeue", "--noheader"), "the end of the job")
    status = person.status("one")
    assert (status["done"], status["missing"]) == (40, 80), logs(slurm.home / "one")
    slurm.revive_node("n3")
    person("run", "continue", "one", "--gpus", "6")
    wait_for(lambda: not slurm.run("squeue", "--noheader"), "the end of the job")
    status = person.status("one")
    assert (status["done"], status["missing"], status["damaged_records"]) == (120, 0, 0), logs(slurm.home / "one")
    person.check_results("one.extxyz", 120)
    assert not [fault for fault in seen.faults if "has workers" in fault]
