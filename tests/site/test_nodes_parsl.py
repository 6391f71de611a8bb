"""Runs that Parsl's workers compute on three nodes, while these and all other processes of Parsl's are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.nodes import EVERY, STAY, Person, Seen
from tests.support.processes import children, wait_for, wait_until_gone
from tests.support.slurm import Process, Slurm

pytestmark = pytest.mark.xdist_group("nodes")

IDLE_S = 2.0  # without work: between two shards there are milliseconds


@pytest.fixture(scope="module")
def slurm(three_nodes):
    return three_nodes


@dataclass(frozen=True)
class Head:
    """A command that hands out a run by Parsl.

    Attributes
    ----------
    process : subprocess.Popen
        What has started it where users log in.
    pid : int
    said : Path
        What it prints.
    """

    process: subprocess.Popen[bytes]
    pid: int
    said: Path

    @property
    def interchange(self) -> int:
        [found] = [pid for pid in children(self.pid) if b"interchange" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return found

    def wait_for(self, text: str) -> None:
        def said() -> bool:
            assert self.process.poll() is None, self.said.read_text()
            return text in self.said.read_text()

        wait_for(said, f"{text!r} of the head")

    def end(self) -> tuple[int, str]:
        """Wait for its end, and return its exit code and what it has printed."""
        code = self.process.wait(300)
        return code, self.said.read_text()


@contextlib.contextmanager
def heads(person: Person, *program: str | Path) -> Iterator[Callable[..., Head]]:
    """Yield what starts one head after the other; they end with the block."""
    started: list[Head] = []

    def start(*words: str) -> Head:
        said = person.slurm.state / f"head-{time.monotonic_ns()}"
        with said.open("wb") as file:
            process = subprocess.Popen(
                person.command(*program, *words), env=person.variables,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        wait_for(lambda: children(process.pid), "the head")  # what enters the cluster is before it
        [pid] = children(process.pid)
        started.append(Head(process, pid, said))
        return started[-1]

    try:
        yield start
    finally:
        for head in started:
            if head.process.poll() is None:
                os.kill(head.pid, signal.SIGKILL)
            head.process.wait()


def is_idle(slurm: Slurm, process: Process) -> bool:
    """Tell whether a worker of Parsl's waits for work: it does not say that it computes."""
    marks = process.variables["ROOTSTOCK_PARSL_BUSY"]
    return not Path(f"/proc/{process.pid}/root{marks}/{process.number}").exists()


def worker_of(slurm: Slurm, model: Process) -> Process:
    """Return the worker of Parsl's that has started a model."""
    every = {each.pid: each for each in slurm.processes()}
    while "spawn_main" not in model.line:
        model = every[model.parent]
    return model


def wait_until_idle(slurm: Slurm, process: Process) -> None:
    since = [time.monotonic()]

    def idle() -> bool:
        if not is_idle(slurm, process):
            since[0] = time.monotonic()
        return time.monotonic() - since[0] > IDLE_S

    wait_for(idle, "an idle worker")


def end_of_jobs(slurm: Slurm) -> None:
    """See to it that a head has cancelled its jobs before its end, and wait for their processes."""
    assert not slurm.run("squeue", "--noheader", "--states=PENDING,RUNNING")
    wait_for(lambda: not slurm.run("squeue", "--noheader") and not slurm.processes(), "the end of all jobs")


def jobs_there(slurm: Slurm) -> set[str]:
    return {*slurm.run("squeue", "--noheader", "--format=%i").split()}


def jobs_of(workers: dict[tuple[str, str], Process]) -> set[str]:
    return {each.variables["SLURM_JOB_ID"] for each in workers.values()}


def said_by_blocks(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((folder / "engine").glob("**/*.stderr")))


def begin(slurm: Slurm, person: Person, name: str, number: int) -> tuple[str, list[tuple[str, str]], list[str]]:
    """Let somebody else have a GPU, and return their job, the other GPUs, and the command that computes on all."""
    person.write_structures(f"{name}.xyz", number)
    person.allow(1)
    foreign = slurm.submit(STAY, "--gres=gpu:1", "--nodelist=n1")
    wait_for(lambda: slurm.processes("sleep"), "somebody else's job")
    [theirs] = {each.variables["CUDA_VISIBLE_DEVICES"] for each in slurm.processes("sleep")}
    command = ["singlepoint", "gated", f"{name}.xyz", "--run", name, "--gpus", "6", "--engine", "parsl"]
    return foreign, [slot for slot in EVERY if slot != ("n1", theirs)], command


def kill_a_worker_and_a_model(slurm: Slurm, person: Person, seen: Seen, ours: list[tuple[str, str]]) -> None:
    """See to it that both are replaced, in the jobs that are there."""
    before = person.wait_for_workers(*ours)
    assert len(jobs_of(before)) == 5
    person.kill(before["n2", "0"], "spawn_main")
    person.kill(before["n2", "1"], "/builds/gated/")
    killed = {before["n2", "0"].pid, before["n2", "1"].pid}
    wait_until_gone(*killed)
    now = person.wait_for_workers(*ours)
    assert jobs_of(now) == jobs_of(before) and {*seen.slots} == {*ours}
    assert not killed & {each.pid for each in now.values()}


def check(slurm: Slurm, person: Person, name: str, number: int) -> None:
    end_of_jobs(slurm)
    status = person.status(name)
    assert (status["done"], status["missing"], status["damaged_records"]) == (number, 0, 0)
    assert status["failed"] == {"structure": 0, "resource": 0} and status["running"] == []
    person.check_results(f"{name}.extxyz", number)


def test_workers_of_parsl_and_models_are_replaced(slurm, person, seen):
    """Each structure is computed, once in the results, and no worker comes near the GPU of somebody else."""
    foreign, ours, words = begin(slurm, person, "parsl-few", 120)
    with heads(person, person.program("rootstock")) as start:
        head = start(*words)
        kill_a_worker_and_a_model(slurm, person, seen, ours)
        person.allow(120)
        code, said = head.end()
        assert code == 0, said
    slurm.run("scancel", foreign)
    check(slurm, person, "parsl-few", 120)
    assert not seen.faults and {*ours} == {*seen.slots}


@pytest.mark.nodes
def test_jobs_of_parsl_are_not_begun_again_on_a_node_on_which_all_fails(slurm, person, seen):
    person.write_structures("parsl-sick.xyz", 600)
    person.allow(40)  # one shard, and a part of the next
    person.break_node("n1")
    with heads(person, person.program("rootstock")) as start:
        head = start(
            "singlepoint", "gated", "parsl-sick.xyz", "--run", "parsl-sick", "--gpus", "6", "--engine", "parsl"
        )
        wait_for(lambda: head.said.read_text().count(" Its job is ended.") == 2, "two jobs that are given up")
        pending = ("squeue", "--noheader", "--states=PENDING", "--format=%x")
        wait_for(lambda: slurm.run(*pending).split() == ["n1", "n1"], "two others, not on that node")
        person.allow(600)
        code, said = head.end()
    assert code == 0, said
    check(slurm, person, "parsl-sick", 600)
    [bad] = person.status("parsl-sick")["bad_nodes"]
    assert bad["host"] == "n1" and said.count(" Its job is ended.") == 2, said
    person.break_node("n1", broken=False)


@pytest.mark.nodes
def test_a_run_of_parsl_is_computed_whatever_dies(slurm, person, seen):
    """The same with a node, an interchange, a head, and a worker that waits."""
    name, number = "parsl-many", 2000
    folder = slurm.home / name
    foreign, ours, words = begin(slurm, person, name, number)
    with heads(person, person.program("rootstock")) as start:
        head = start(*words)
        kill_a_worker_and_a_model(slurm, person, seen, ours)

        # A node dies, and a job that has waited for a GPU computes on another one.
        slurm.kill_node("n3")
        slurm.say_down("n3")
        slurm.run("scancel", foreign)
        person.wait_for_workers(*EVERY[:4])
        head.wait_for("loss of manager")

        # A head ends without its interchange, and with it all jobs, also those that are to begin again.
        os.kill(head.interchange, signal.SIGKILL)
        code, said = head.end()
        assert code == 18 and "Parsl's interchange, through which all tasks go, has ended." in said, said
        end_of_jobs(slurm)
        assert person.status(name)["done"] > 0

        # Jobs of a head that was killed end by themselves; those that wait are cancelled by the next one.
        head = start(*words)
        before = person.wait_for_workers(*EVERY[:4])
        waiting = {*slurm.run("squeue", "--noheader", "--states=PENDING", "--format=%i").split()}
        assert len(waiting) == 2
        os.kill(head.pid, signal.SIGKILL)
        head.end()
        wait_for(lambda: not jobs_of(before) & jobs_there(slurm), "the end of jobs without a head")
        head = start(*words)
        head.wait_for("Cancelling jobs of a command that was killed")
        wait_for(lambda: not waiting & jobs_there(slurm), "the end of jobs that waited")
        person.wait_for_workers(*EVERY[:4])
        done = person.status(name)["done"]

        # What a signal ends is recorded.
        os.kill(head.pid, signal.SIGTERM)
        head.wait_for("Ending: what is unfinished is recorded.")
        person.allow(number)
        code, said = head.end()
        assert code == 130, said
        end_of_jobs(slurm)
        status = person.status(name)
        assert status["done"] > done and status["missing"] > 0 and status["running"] == []
        person.allow(1)

        # One waits for work when it is killed, and the others are held.
        head = start(*words)
        before = person.wait_for_workers(*EVERY[:4])
        idle = worker_of(slurm, before["n2", "0"])
        person.allow(number, ("n2", "0"))
        wait_until_idle(slurm, idle)
        person.allow(1, ("n2", "0"))
        os.kill(idle.pid, signal.SIGKILL)
        wait_for(lambda: "manager is replaced" in said_by_blocks(folder), "another manager")
        person.kill(before["n1", "0"], "spawn_main")  # there is work again, for both
        wait_until_gone(before["n1", "0"].pid, before["n2", "0"].pid)
        now = person.wait_for_workers(*EVERY[:4])
        assert jobs_of(now) == jobs_of(before)
        person.allow(number)
        code, said = head.end()
        assert code == 0, said
    check(slurm, person, name, number)
    assert not seen.faults and {*EVERY} == {*seen.slots}
