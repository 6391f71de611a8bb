"""Parsl: what hands out shards, and what a job of Parsl's runs, with objects and programs in place of Parsl."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

from rootstock.client.evaluated import FailureClass
from rootstock.client.own_python import own_python
from rootstock.errors import MissingWeightsError, OutputError, WorkerError
from rootstock.simulations.parsl_engine.busy import FOLDER, busy
from rootstock.simulations.parsl_engine.head import Head
from rootstock.simulations.parsl_engine.seen import Hears
from rootstock.simulations.parsl_engine.shard import Order, Told
from rootstock.simulations.pool.driver import described
from rootstock.simulations.pool.run import Workers
from rootstock.simulations.runs.carry_out import carry_out
from rootstock.simulations.runs.elements import Element
from rootstock.simulations.runs.recorder import Recorder
from rootstock.simulations.runs.submissions import bad_nodes
from tests.support.commands import DEADLINE_S, run, started
from tests.support.processes import gone, wait_for, wait_until_gone
from tests.support.run_folders import QuickDisk, Structures, Trivial, new_run

# -- the head, with a function in place of Parsl


class Fakes:
    """A head whose shards are computed by a function of the test, which is given what was handed out."""

    def __init__(self, folder: Path, structures: int, slots: int = 2) -> None:
        self.run = new_run(folder / "run", [2] * structures)
        self.bad_state_is_set, self.slots, self.label = False, slots, "fake"
        self.handed: list[list[int]] = []
        self.recorded: list[int] = []
        self.warned: list[str] = []
        self.closed: list[str] = []
        self.managers: list[dict[str, object]] = []
        self.provider = None
        self.states: list[dict[str, str]] = []
        self.held: threading.Event | None = None  # until which nothing ends that was handed out

    def connected_managers(self) -> list[dict[str, object]]:
        return self.managers

    def note(self) -> None:
        pass

    def close_block(self, block: str) -> None:
        self.closed.append(block)

    def submit(self, function: object, app_args: tuple[object, list[int]], **more: object) -> Future[Told]:
        indices = app_args[1]
        if indices:
            self.handed.append(indices)
        future: Future[Told] = Future()
        if indices and self.held is not None:
            threading.Thread(target=self._end, args=(future, indices), daemon=True).start()
        else:
            self._end(future, indices)
        return future

    def _end(self, future: Future[Told], indices: list[int]) -> None:
        if indices and self.held is not None:
            self.held.wait(DEADLINE_S)
        try:
            future.set_result(self.compute(indices))
        except Exception as error:  # noqa: BLE001  # as Parsl does
            future.set_exception(error)

    def do(self, compute: Callable[[list[int]], Told]) -> bool:
        self.compute = compute
        pool: Any = SimpleNamespace(
            folder=self.run, workers=Workers(grace=0.0), todo=lambda gpu: self.run.missing(gpu=gpu)[::-1]
        )
        told = Hears(self.recorded.extend, self.states.append, self.warned.append)
        with self.run.recorder() as recorder:
            head = Head(pool, Structures([2] * self.run.record.structures), Order("", {}, ""), recorder, told)
            return head.run(self, self)  # type: ignore[arg-type]


def good(indices: list[int], place: str = "n1 worker 0") -> Told:
    return Told("GPU", place, "7", [*indices])


def test_workers_that_have_a_shard_are_counted(tmp_path: Path) -> None:
    """Also one that has not ended any; no more of a job that has ended."""
    fakes = Fakes(tmp_path, 200, slots=4)
    fakes.held = held = threading.Event()
    fakes.managers = [{"block_id": block, "worker_count": 2, "tasks": 3} for block in "78"]
    done: Future[bool] = Future()
    threading.Thread(target=lambda: done.set_result(fakes.do(good)), daemon=True).start()
    try:
        four = {"n1 worker 0", "block 7, worker 1", "block 8, worker 0", "block 8, worker 1"}
        wait_for(lambda: fakes.states and {*fakes.states[-1]} == four, "four that compute", 30.0)
        fakes.managers = fakes.managers[1:]
        wait_for(lambda: {*fakes.states[-1]} == {"block 8, worker 0", "block 8, worker 1"}, "the end of a job", 30.0)
    finally:
        held.set()
    assert done.result(DEADLINE_S) and sorted(fakes.recorded) == [*range(200)]
    assert {state for states in fakes.states for state in states.values()} == {"computing"}


def test_what_is_recorded_is_told_before_a_shard_ends(tmp_path: Path) -> None:
    """And not again when it ends."""
    fakes = Fakes(tmp_path, 200)
    fakes.held = held = threading.Event()
    done: Future[bool] = Future()
    threading.Thread(target=lambda: done.set_result(fakes.do(good)), daemon=True).start()
    try:
        wait_for(lambda: fakes.handed, "a shard", 30.0)
        some = fakes.handed[0][:10]
        recorder = Recorder(fakes.run.path, lambda indices: None)  # as a worker has it
        for index in some:
            recorder.fail(index, FailureClass.STRUCTURE, WorkerError("It is odd."), "a structure")
        recorder.close()
        wait_for(lambda: sorted(fakes.recorded) == sorted(some), "what is recorded", 30.0)
    finally:
        held.set()
    assert done.result(DEADLINE_S) and sorted(fakes.recorded) == [*range(200)]


def test_a_structure_that_ends_workers_is_found(tmp_path: Path) -> None:
    fakes = Fakes(tmp_path, 40)

    def compute(indices: list[int]) -> Told:
        if 11 in indices:
            raise WorkerLost(0, "n1")
        return good(indices)

    with pytest.raises(WorkerError, match="loss of worker 0 on host n1"):
        fakes.do(compute)
    assert sorted(fakes.recorded) == [index for index in range(40) if index != 11]
    deadly = [len(indices) for indices in fakes.handed if 11 in indices]
    assert deadly[-1] == 1 and len(deadly) <= 3


def test_a_job_at_its_end_is_no_fault_of_a_structure(tmp_path: Path) -> None:
    fakes, lost = Fakes(tmp_path, 40), []

    def compute(indices: list[int]) -> Told:
        if indices and not lost:
            lost.append(indices)
            raise ManagerLost(b"it", "n1")
        return good(indices)

    assert fakes.do(compute) and sorted(fakes.recorded) == [*range(40)]
    assert "What it had is computed again." in fakes.warned[0]


def test_a_place_that_computes_nothing_gets_no_more(tmp_path: Path) -> None:
    fakes = Fakes(tmp_path, 400)
    error = described(WorkerError("The GPU is gone."))

    def compute(indices: list[int]) -> Told:
        sick = len(fakes.handed) % 2 and not fakes.closed
        return Told("GPU", "n2 worker 1", "8", error=error) if indices and sick else good(indices)

    assert fakes.do(compute) and sorted(fakes.recorded) == [*range(400)]
    assert fakes.closed == ["8"] and fakes.warned[-1] == "n2 worker 1: The GPU is gone. Its job is ended."


def test_jobs_of_one_node_are_given_up_each(tmp_path: Path) -> None:
    """Where jobs have a GPU each, all of their workers have the same rank: their jobs tell them apart."""
    fakes, turn = Fakes(tmp_path, 400, slots=3), iter(range(10**6))
    error = described(WorkerError("The GPU is gone."))

    def compute(indices: list[int]) -> Told:
        block = str(next(turn) % 3)
        if indices and block != "2" and block not in fakes.closed:
            return Told("GPU", f"n1 job {block} worker 0", block, error=error)
        return Told("GPU", "n1 job 2 worker 0", "2", [*indices])

    carry_out(fakes.run, Structures([2] * 400), Trivial(), Element(1, 400), disk=QuickDisk())  # so the model works
    assert fakes.do(compute) and len({*fakes.recorded}) == len(fakes.recorded) == 399
    assert sorted(fakes.closed) == ["0", "1"]
    [node] = bad_nodes(fakes.run.path)  # what is submitted later does not run there
    assert node.host == "n1" and {*node.places} <= {"n1 job 0 worker 0", "n1 job 1 worker 0"}


def test_what_no_other_worker_could_do_either_ends_all_at_once(tmp_path: Path) -> None:
    fakes = Fakes(tmp_path, 40)
    for error in (MissingWeightsError("There are no weights."), OutputError("The disk is full.")):
        said = Told(place="n1", error=described(error))
        with pytest.raises(type(error), match=error.message):
            fakes.do(lambda indices, said=said: said)  # type: ignore[misc]
    assert not fakes.handed and not fakes.recorded


# -- a block, with programs in place of Parsl's manager

MANAGER = """
import os, signal, subprocess, sys, time
notes, marks = sys.argv[1], os.environ["ROOTSTOCK_PARSL_BUSY"]
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
children = [subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]) for _ in range(2)]
open(os.path.join(marks, str(children[0].pid)), "w").close()
with open(notes, "a") as file:
    file.write(f"{os.getpid()} {children[0].pid} {children[1].pid}" + chr(10))
while not os.path.exists(notes + ".over"):
    time.sleep(0.01)
for child in children:
    child.kill()
"""


def test_a_block_replaces_a_manager_that_cannot_go_on(tmp_path: Path) -> None:
    notes, told = tmp_path / "notes", tmp_path / "told" / "busy-0"
    told.parent.mkdir()
    command = [sys.executable, "-S", "-c", MANAGER, str(notes)]
    main = own_python("rootstock.simulations.parsl_engine.block", "main")
    with started([*main, str(told.parent), "0", *command]) as block:

        def family(number: int) -> list[int]:
            """Return the number-th manager and its children, one that computes and one that does not."""
            found = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
            return [*map(int, found[number])] if len(found) > number else []

        wait_for(lambda: family(0), "a manager")
        first, busy_one, idle = family(0)
        wait_for(told.exists, "that it computes")
        time.sleep(2.0)  # in which it has looked at the children
        os.kill(busy_one, signal.SIGKILL)
        time.sleep(2.0)
        assert not gone(first)
        os.kill(idle, signal.SIGKILL)
        wait_for(lambda: family(1), "another manager")
        wait_until_gone(first)
        os.kill(family(1)[0], signal.SIGKILL)
        wait_for(lambda: family(2), "a third one")
        wait_until_gone(*family(1))
        Path(f"{notes}.over").touch()
        assert block.wait(DEADLINE_S) == 0


def test_who_computes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with busy():
        pass
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with busy():
        assert [each.name for each in tmp_path.iterdir()] == [str(os.getpid())]
    assert not any(tmp_path.iterdir())


ENDS = """
import signal
from rootstock.simulations.parsl_engine.program_end import at_end

take_back = at_end(lambda: print("never"))
assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
take_back()
assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
at_end(lambda: print("ends"))
signal.raise_signal(signal.SIGTERM)
"""


def test_signals_are_as_before_when_parsl_has_ended() -> None:
    done = run(sys.executable, "-c", ENDS)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "ends\n", "")
