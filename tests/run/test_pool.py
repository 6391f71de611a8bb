"""Several workers compute a run: what the pool does when drivers, workers and structures do what they must not."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from ase.io.extxyz import read_xyz

from rootstock import RootstockCalculator
from rootstock.client.evaluated import FailureClass
from rootstock.errors import (
    ConfigurationError,
    DeviceError,
    OutputError,
    RootError,
    RootstockError,
    WorkerDiedError,
    WorkerError,
    WorkerProtocolError,
    WorkerStartError,
)
from rootstock.simulations.pool.driver import described
from rootstock.simulations.pool.feed import FromPool
from rootstock.simulations.pool.member import as_error
from rootstock.simulations.pool.plan import Plan, Told
from rootstock.simulations.pool.pool import Pool
from rootstock.simulations.pool.run import PoolRun, Workers, deadline_of
from rootstock.simulations.pool.slots import Slot
from rootstock.simulations.pool.work import Work
from rootstock.simulations.relax import Relaxation
from rootstock.simulations.runs.begin import Asked, begin
from rootstock.simulations.runs.carry_out import carry_out
from rootstock.simulations.runs.elements import Element
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.partials import Partials
from rootstock.simulations.runs.source import Source
from tests.run.conftest import HEADER
from tests.support.commands import ROOTSTOCK, Done, clean_environment, read_until, run, started
from tests.support.folders import once_per_run, small_disk
from tests.support.processes import children, gone, wait_for, wait_until_gone

# -- what is left to do


def ones(indices: Sequence[int], drivers: int = 1, atoms: int = 1) -> Work:
    return Work(list(indices), np.full(max([*indices, 0]) + 1, atoms, np.int64), drivers)


def test_work_is_handed_out_in_its_order_and_in_small_portions_towards_the_end() -> None:
    sizes = np.array([1, 2, 3, 40])
    work = Work([3, 2, 1, 0], sizes)
    assert work.take(10) == [3]  # one may be larger than what there is room for
    assert work.take(4) == [2] and work.take(0) == [1] and work.take(99) == [0]
    assert work.take(99) == [] == work.suspects() and not len(work)
    work, taken = ones(range(100), drivers=2), []
    while portion := work.take(64):
        taken.append(len(portion))
    assert taken[0] == 25 and sum(taken) == 100 and taken == sorted(taken, reverse=True) and taken[-1] == 1


def test_what_a_lost_driver_had_is_divided_until_one_is_found() -> None:
    work = ones(range(20))
    assert work.take(99) == [*range(20)]
    assert work.lost([*range(20)], with_nothing_else=False) is None
    assert len(work) == 20 and work.take(99) == []
    groups = []
    while group := work.suspects():
        groups.append(group)
    assert [*chain(*groups)] == [*range(20)] and 7 <= len(groups) <= 8
    assert work.lost(groups[1], with_nothing_else=True) is None
    singles = [work.suspects() for _ in groups[1]]
    assert singles == [[index] for index in groups[1]]
    assert work.lost(singles[0], with_nothing_else=True) == groups[1][0]
    assert work.lost([], with_nothing_else=False) is None is work.lost([], with_nothing_else=True) and not len(work)


def test_what_comes_back_uncomputed_is_tried_again_and_then_alone() -> None:
    work = ones(range(3))
    assert work.take(99) == [0, 1, 2]
    work.back([1, 2])
    assert (work.suspects(), work.take(99), work.given_up) == ([], [1, 2], 0)  # among others
    work.back([1])
    assert (work.suspects(), work.given_up) == ([1], 0)
    work.back([1])
    assert (len(work), work.given_up) == (0, 1)


def test_a_feed_asks_ahead_and_once() -> None:
    asked: list[int] = []
    settled: list[bool] = []

    def settle() -> None:
        settled.append(True)
        feed.come([0, 1, 2])

    feed = FromPool(asked.append, lambda index: None, settle, np.array([2] * 9))
    assert feed.take(4, wait=False) == [] and asked == [4]
    assert feed.take(4, wait=False) == [] and asked == [4] and not settled
    assert feed.take(5, wait=True) == [0, 1] and settled  # what was computed is recorded before it waits
    assert asked == [4] and feed.take(3, wait=True) == [2] and asked == [4, 3]
    feed.come([3])
    assert feed.take(1, wait=True) == [3] and asked == [4, 3]  # a long one: nothing waits here for its end
    assert feed.take(1, wait=False) == [] and asked == [4, 3, 1]
    feed.come([3, 4])
    feed.stop()
    assert feed.take(4, wait=True) == [] and feed.stopped
    over = FromPool(asked.append, lambda index: None, lambda: None, np.array([1]))
    over.come(())
    assert over.take(4, wait=True) == [] and asked == [4, 3, 1]


def test_errors_travel_with_their_kind() -> None:
    error = WorkerDiedError("It ended.", "Look.", log="/tmp/log", tail="last words")
    again = as_error(described(error))
    assert type(again) is WorkerDiedError and str(again) == str(error)
    assert isinstance(as_error(described(OutputError("full"))), OutputError)
    assert type(as_error({**described(error), "type": "annotations"})) is RootstockError


# -- the pool, with programs in place of its drivers

DRIVER = """
import json, os, signal, socket, sys, time
wire = socket.socket(fileno=int(sys.argv[-1]))
lines = wire.makefile("r")

def say(**message):
    wire.sendall(json.dumps(message).encode() + b"\\n")

def hear():
    line = lines.readline()
    if not line:
        os._exit(70)
    [item] = json.loads(line).items()
    return item

def note(text):
    with open(begin["notes"], "a") as file:
        file.write(text + "\\n")

def wait_for_note(text):
    while text not in open(begin["notes"]).read().split("\\n"):
        time.sleep(0.01)

def times(what):
    "Return how often this was asked before."
    note(what)
    return open(begin["notes"]).read().split("\\n").count(what) - 1

def ready(**more):
    say(ready={"gpu": "", **more})

def serve(poison=(), many=4, end="kill"):
    say(want=many)
    while True:
        what, value = hear()
        if what == "take":
            note("take " + " ".join(map(str, value)))
            for index in value:
                if index in poison:
                    die() if end == "kill" else os._exit(3)
            say(recorded=value)
            say(want=many)
        else:
            say(end=True)
            sys.exit()

def die():
    os.kill(os.getpid(), 9)

def error(kind, message="It is so."):
    say(error={"type": kind, "message": message, "hint": "", "log": "", "tail": "", "remote_traceback": ""})
    say(end=True)
    sys.exit()

signal.signal(signal.SIGINT, signal.SIG_IGN)
begin = hear()[1]
note(f"pid {os.getpid()}")
exec(begin["do"])
"""


class Fakes:
    """A pool whose drivers are programs that do what the test says, and what it tells."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self.recorded: list[int] = []
        self.failed: list[tuple[int, FailureClass]] = []
        self.warned: list[str] = []
        self.signals: Callable[[], int] = lambda: 0
        self.missing: Callable[[Sequence[int]], list[int]] = lambda indices: [*indices]

    def run(self, structures: int, *do: str, **plan: Any) -> bool:
        slots = [Slot(f"worker {number}", {}, (), 1) for number in range(len(do))]
        begin = {slot.name: {"do": text, "notes": str(self.notes)} for slot, text in zip(slots, do, strict=True)}
        self.notes.write_text("")
        plan.setdefault("begin", lambda slot: begin[slot.name])
        plan.setdefault("work", lambda gpu: ones(range(structures), len(do)))
        told = Told(
            recorded=self.recorded.extend, missing=lambda indices: self.missing(indices),
            fail=lambda index, kind, error: self.failed.append((index, kind)), warn=self.warned.append,
            signals=lambda: self.signals(),
        )  # fmt: skip
        try:
            return Pool(Plan(slots, **plan), told).run()
        finally:
            assert all(map(gone, self.pids()))

    def pids(self) -> list[int]:
        return [int(line[4:]) for line in self.noted() if line.startswith("pid ")]

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def taken(self) -> list[list[int]]:
        """Return what was handed out, in order."""
        return [[*map(int, line.split()[1:])] for line in self.noted() if line.startswith("take")]


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    (tmp_path / "driver.py").write_text(DRIVER)
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {tmp_path / "driver.py"} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return Fakes(tmp_path)


def test_all_is_computed_once(fakes: Fakes) -> None:
    assert fakes.run(40, "ready(); serve()", "ready(); serve()")
    assert sorted(fakes.recorded) == [*range(40)] == sorted(chain(*fakes.taken()))
    assert not fakes.warned and not fakes.failed


def test_more_drivers_than_structures_and_no_structures(fakes: Fakes) -> None:
    assert fakes.run(1, *["ready(); serve()"] * 3) and fakes.recorded == [0]
    assert fakes.run(0, *["ready(); serve()"] * 2) and fakes.recorded == [0]


def test_nothing_is_handed_out_before_all_are_there(fakes: Fakes) -> None:
    late = "while not os.path.exists(begin['notes'] + '.go'): time.sleep(0.01)\nnote('ready'); ready(); serve()"
    early = "ready(); say(want=4); open(begin['notes'] + '.go', 'w'); serve()"
    assert fakes.run(8, early, late)
    noted = [line for line in fakes.noted() if not line.startswith("pid")]
    assert noted[0] == "ready" and len(fakes.recorded) == 8


def test_who_asks_ahead_leaves_the_last_ones_to_those_that_have_nothing(fakes: Fakes) -> None:
    """However late these ask: of two long structures, one driver would compute both, one after the other."""
    ahead = "ready(); say(want=1); got = hear()[1]; say(want=1); note('computes')\n"
    ahead += "while 'late' not in open(begin['notes']).read(): time.sleep(0.01)\nsay(recorded=got); serve(many=1)"
    late = "ready()\nwhile 'computes' not in open(begin['notes']).read(): time.sleep(0.01)\n"
    late += "time.sleep(0.5); say(want=1); got = hear()[1]; note('late'); say(recorded=got); serve()"
    assert fakes.run(2, ahead, late) and sorted(fakes.recorded) == [0, 1]


def test_nobody_waits_for_a_driver_that_is_not_needed_any_more(fakes: Fakes) -> None:
    again = "if times('start'): note('again'); time.sleep(600)\nready(); say(want=4); hear(); die()"
    other = "ready()\nwhile 'again' not in open(begin['notes']).read(): time.sleep(0.01)\nserve()"
    begun = time.monotonic()
    assert fakes.run(4, again, other) and sorted(fakes.recorded) == [0, 1, 2, 3]
    assert time.monotonic() - begun < 25


@pytest.mark.parametrize(("end", "kind"), [("exit", FailureClass.STRUCTURE), ("kill", FailureClass.INFRASTRUCTURE)])
def test_a_structure_that_ends_its_driver_is_found(fakes: Fakes, end: str, kind: FailureClass) -> None:
    """Whoever kills a driver from outside, such as the kernel for lack of memory, says nothing about the structure."""
    do = f"ready(); serve(poison=[11], many=50, end={end!r})"
    if kind is FailureClass.STRUCTURE:
        assert fakes.run(40, do)
    else:
        with pytest.raises(WorkerDiedError, match=r"The driver of worker 0 \(process \d+\) ended unexpectedly"):
            fakes.run(40, do)
    assert fakes.failed == [(11, kind)] and sorted(fakes.recorded) == [n for n in range(40) if n != 11]
    deadly = [portion for portion in fakes.taken() if 11 in portion]
    assert len(deadly) == 3 and len(deadly[0]) == 40 and len(deadly[1]) == 5 and deadly[2] == [11]
    assert len(fakes.warned) == 3 and all("Another driver is started." in text for text in fakes.warned)


def test_what_a_lost_driver_had_recorded_is_not_computed_again(fakes: Fakes) -> None:
    fakes.missing = lambda indices: [index for index in indices if index > 5]
    assert fakes.run(8, "ready()\nif not times('first'): say(want=9); hear(); die()\nserve(many=9)")
    assert sorted(fakes.recorded) == [*range(8)] and sorted(chain(*fakes.taken())) == [6, 7]


def test_a_slot_whose_driver_always_dies_gets_none_any_more(fakes: Fakes) -> None:
    assert fakes.run(20, "note('dead'); print('last words', flush=True); die()", "ready(); serve()")
    assert sorted(fakes.recorded) == [*range(20)] and fakes.noted().count("dead") == 3
    assert [text for text in fakes.warned if "It gets no driver any more.\n" in text] == fakes.warned[-1:]
    assert "\nLast lines of its output:\n  | last words\nFull output" in fakes.warned[-1]  # others may not see the node
    fakes.recorded.clear()
    # Nor does one that computes nothing, though it begins well.
    assert fakes.run(20, "note('dead'); ready(); say(recorded=[]); say(want=4); hear(); die()", "ready(); serve()")
    assert sorted(fakes.recorded) == [*range(20)] and fakes.noted().count("dead") <= 3


def test_all_slots_are_dead(fakes: Fakes) -> None:
    with pytest.raises(WorkerDiedError, match=r"The driver of worker \d .* ended unexpectedly") as caught:
        fakes.run(20, "die()", "print('last words', flush=True); die()")
    assert caught.value.exit_code == 18 and len(fakes.pids()) == 6 and not fakes.failed
    assert caught.value.returncode == -9 and Path(caught.value.log).exists()
    with pytest.raises(WorkerDiedError, match="ended unexpectedly"):
        fakes.run(20, "ready()\nif times('here') > 0: die()\nsay(want=4); what, got = hear(); say(recorded=got); die()")
    assert fakes.recorded == [0, 1, 2, 3]


def test_a_driver_that_cannot_be_started_again(fakes: Fakes) -> None:
    """The slot is given up then, as if the driver had ended; the others go on."""
    gone_program = f"os.remove({sys.executable!r}); say(want=4); hear(); die()"
    wait = (
        "ready(); say(want=4); got = hear()[1]\nwhile os.path.exists(%r): time.sleep(0.01)\nsay(recorded=got); serve()"
    )
    assert fakes.run(20, f"ready(); {gone_program}", wait % sys.executable)
    assert sorted(fakes.recorded) == [*range(20)] and "It gets no driver any more." in fakes.warned[-1]


@pytest.mark.parametrize("kind", ["DeviceError", "MissingWeightsError", "ConfigurationError", "OutputError"])
def test_what_is_wrong_everywhere_ends_all_before_anything_is_computed(fakes: Fakes, kind: str) -> None:
    with pytest.raises(RootstockError, match=r"It is so\.") as caught:
        fakes.run(20, f"error('{kind}')", "while True: time.sleep(9)", "ready(); serve()", grace=600.0)
    assert type(caught.value).__name__ == kind
    assert not fakes.taken() and not fakes.recorded and not fakes.warned


def test_a_device_that_is_lost_later_costs_its_slot_only(fakes: Fakes) -> None:
    assert fakes.run(20, "ready()\nsay(want=4); hear(); error('DeviceError')", "ready(); serve()")
    assert sorted(fakes.recorded) == [*range(20)] and not fakes.failed


def test_a_disk_that_is_full_ends_all(fakes: Fakes) -> None:
    waiting = "ready(); say(want=4); got = hear()[1]; note('has'); hear(); say(recorded=got); say(end=True)"
    with pytest.raises(OutputError, match=r"It is so\."):
        fakes.run(40, "ready(); say(want=4); hear(); wait_for_note('has'); error('OutputError')", waiting)
    assert len(fakes.recorded) == 4


def test_the_first_failure_ends_all_if_that_is_asked_for(fakes: Fakes) -> None:
    with pytest.raises(WorkerError, match=r"It is so\."):
        fakes.run(40, "ready(); say(want=4); hear(); error('ModelError')", "ready(); serve()", stop_on_error=True)
    assert not fakes.warned


def test_structures_that_nobody_can_compute_are_left(fakes: Fakes) -> None:
    do = """
ready()
say(want=1)
while True:
    what, value = hear()
    if what != "take":
        error("ModelError", "The device was lost.")
    for index in value:
        note(f"take {index}")
        say(back=index) if index == 2 else say(recorded=[index])
    say(want=1)
"""
    with pytest.raises(WorkerError, match=r"The device was lost\."):
        fakes.run(4, do)
    assert sorted(fakes.recorded) == [0, 1, 3] and not fakes.failed
    assert sorted(chain(*fakes.taken())) == [0, 1, 2, 2, 2, 3]


@pytest.mark.parametrize(
    "nonsense",
    ["b'hello\\n'", "b'[]\\n'", "b'{}\\n'", "b'{\"recorded\": [77]}\\n'", "b'{\"recorded\": 5}\\n'",
     "b'{\"back\": 77}\\n'", "b'{\"want\": \"many\"}\\n'", "b'{\"ready\": 3}\\n'", "b'{\"error\": {}}\\n'",
     "b'{\"what\": 1}\\n'", "b'{\"want\": 1, \"say\": 2}\\n'", "b'[' * 100000 + b'\\n'", "b'\\xff\\xfe\\n'"],
)  # fmt: skip
def test_a_driver_that_says_what_none_says(fakes: Fakes, nonsense: str) -> None:
    with pytest.raises(WorkerProtocolError, match="The driver of worker 0 says what none says"):
        fakes.run(4, f"ready(); wire.sendall({nonsense}); time.sleep(60)")
    fakes.recorded.clear()
    assert fakes.run(4, f"ready()\nif not times('once'): wire.sendall({nonsense}); time.sleep(60)\nserve()")
    assert sorted(fakes.recorded) == [0, 1, 2, 3]


def test_what_went_wrong_with_those_who_are_told_is_not_the_drivers_fault(fakes: Fakes) -> None:
    class Full(list[int]):
        def extend(self, indices: object) -> None:
            raise ConfigurationError("The folder cannot be read.")

    fakes.recorded = Full()
    with pytest.raises(ConfigurationError, match="The folder cannot be read"):
        fakes.run(4, "ready(); serve()")
    assert not fakes.warned


def test_two_slots_on_one_gpu_are_refused(fakes: Fakes) -> None:
    same = "ready(gpu_uuid='GPU-1'); serve()"
    with pytest.raises(DeviceError, match=r"worker 0 and worker 1 are the same GPU \(GPU-1\)"):
        fakes.run(4, same, same)
    assert not fakes.recorded and not fakes.taken()
    assert fakes.run(4, same, same, workers_per_gpu=2) and len(fakes.recorded) == 4


# -- the end


WAITS = "say(want=4); got = hear()[1]; note('computes')\n"


def test_a_signal_hands_out_no_more_and_waits(fakes: Fakes) -> None:
    fakes.signals = lambda: fakes.noted().count("computes") == 2
    do = (
        f"ready(); {WAITS}what, grace = hear(); assert (what, grace) == ('stop', 600); say(recorded=got); say(end=True)"
    )
    assert not fakes.run(40, do, do, grace=600.0)
    assert len(fakes.recorded) == 8 and len(fakes.warned) == 1 and fakes.warned[0].startswith("Ending: ")


def test_a_second_signal_ends_at_once(fakes: Fakes) -> None:
    fakes.signals = lambda: ("computes" in fakes.noted()) + ("stopped" in fakes.noted())
    assert not fakes.run(40, f"ready(); {WAITS}hear(); note('stopped'); time.sleep(600)", grace=600.0)
    assert not fakes.recorded


def test_drivers_that_do_not_end_in_time_are_ended(fakes: Fakes) -> None:
    fakes.signals = lambda: "computes" in fakes.noted()
    assert not fakes.run(40, f"ready(); {WAITS}time.sleep(600)", grace=0.2)
    assert not fakes.recorded and not fakes.failed


def test_a_signal_while_drivers_start_ends_them_at_once(fakes: Fakes) -> None:
    fakes.signals = lambda: len(fakes.pids()) == 2
    begun = time.monotonic()
    assert not fakes.run(40, "time.sleep(600)", "time.sleep(600)", grace=600.0)
    assert time.monotonic() - begun < 300
    fakes.signals = lambda: "again" in fakes.noted()
    other = "ready(); say(want=4); got = hear()[1]; hear(); say(recorded=got); say(end=True)"
    first = "if times('start'): note('again'); time.sleep(600)\nready(); say(want=4); hear(); die()"
    assert not fakes.run(40, first, other, grace=600.0)
    assert fakes.recorded


@pytest.mark.parametrize("left", [-10.0, 1.0])
def test_the_end_of_the_job_is_near(fakes: Fakes, left: float) -> None:
    do = "ready(); say(want=4)\nwhile hear()[0] != 'stop': pass\nsay(end=True)"
    assert not fakes.run(40, do, grace=300.0, deadline=time.time() + 310.0 + left)
    assert [text.startswith("The job is about to end") for text in fakes.warned] == [True]


def test_when_the_job_ends() -> None:
    assert deadline_of({}) is None is deadline_of({"SLURM_JOB_END_TIME": ""})
    assert deadline_of({"SLURM_JOB_END_TIME": "1800000000"}) == 1.8e9
    assert deadline_of({"SLURM_JOB_END_TIME": "1", "ROOTSTOCK_DEADLINE": "1800000000.5"}) == 1800000000.5
    with pytest.raises(ConfigurationError, match="ROOTSTOCK_DEADLINE=noon is no time in seconds since 1970") as caught:
        deadline_of({"ROOTSTOCK_DEADLINE": "noon"})
    assert "unset ROOTSTOCK_DEADLINE" in caught.value.hint


def test_nobody_is_left_when_a_driver_cannot_be_started_at_all(fakes: Fakes) -> None:
    def begin(slot: Slot) -> dict[str, str]:
        if slot.name == "worker 1":
            wait_for(fakes.pids, "the first driver")
            Path(sys.executable).unlink()
        return {"do": "ready(); serve()", "notes": str(fakes.notes)}

    with pytest.raises(WorkerStartError, match="Cannot start a driver: No such file or directory"):
        fakes.run(4, "", "", begin=begin)


# -- real drivers and workers

# What each structure does is in its info. The folder holds a line for each call, and what structures wait for.
MODEL = (
    HEADER
    + """
class Toy(Calculator):
    sick = False

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        Base.calculate(self, atoms, properties, system_changes)
        what, p = atoms.info.get("do", ""), atoms.positions
        if what != "cured" and os.path.exists(self.at("cured")):
            what = ""
        self.seen[atoms.info["id"]] = self.seen.get(atoms.info["id"], 0) + 1
        if what == "wait later" and self.seen[atoms.info["id"]] > 2:
            what = "wait"
        with open(self.at("calls"), "a") as file:
            file.write(f"{atoms.info['id']},{what},{os.getpid()}" + chr(10))
        if self.sick or os.path.exists(self.at("ill")):
            raise RuntimeError("the device is gone")
        if "U" in atoms.symbols:
            raise KeyError("U")
        if what == "sticky":
            self.sick = True
            raise ValueError("no parameters for this one")
        if what == "crash":
            import signal
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "hang":
            time.sleep(3600)
        until = time.process_time() + 0.02 * (what == "busy")
        while time.process_time() < until:
            pass
        while what == "wait" and not os.path.exists(self.at("go")):
            time.sleep(0.01)
        self.results = {"energy": float("nan") if what == "NaN energy" else p[0, 0] * 3.0, "forces": -0.5 * p,
                        "stress": np.zeros(6)}

    def at(self, name):
        return os.path.join(self.folder, name)


def setup(model, device="cpu", folder=""):
    calc = Toy()
    calc.folder, calc.seen = folder, {}
    return calc
"""
)


@pytest.fixture(scope="session")
def toys(personal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with the model ``toy``, for which uv makes an environment."""

    def make(folder: Path) -> None:
        (folder / "rootstock.toml").write_text('layout = 1\ncluster = "local"\n')
        (folder / "environments").mkdir()
        (folder / "environments" / "toy.py").write_text(MODEL)
        (folder / "cache").symlink_to(personal / "cache")

    return once_per_run(tmp_path_factory, "toys", make)


@dataclass
class Real:
    """A run of the model ``toy`` in a folder."""

    root: Path
    folder: Path
    path: Path
    kind: str = "singlepoint"

    @contextlib.contextmanager
    def opened(self, timeout: float = 600.0, grace: float = 30.0, **more: Any) -> Iterator[PoolRun]:
        """Yield the run as two workers compute it."""

        def make(build: str | None) -> RootstockCalculator:
            return RootstockCalculator(
                "toy", root=self.root, device="cpu", timeout=timeout, setup_kwargs={"folder": str(self.folder)}
            )

        settings = {"properties": []} if self.kind == "singlepoint" else asdict(Relaxation(fmax=0.01))
        asked = Asked(
            self.kind, "toy", [str(self.folder / "in.extxyz")], None, settings, {"folder": str(self.folder)}, "cpu",
            self.folder / "out.extxyz",
        )  # fmt: skip
        with begin(self.path, asked, make, lambda text: None) as (folder, _, calc):
            calc.close()
            yield PoolRun(folder, calc, Workers(2, grace=grace), Element(), **more)

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [line.split(",") for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def real(toys: Path, tmp_path: Path) -> Real:
    return Real(toys, tmp_path, tmp_path / "run")


SLOTS = [Slot(f"worker {number}", {}, (), 1) for number in (1, 2)]


def structures(number: int, do: Mapping[int, str], size: int = 2, others: str = "-") -> list[Atoms]:
    made = []
    for index in range(number):
        symbol = "U" if do.get(index) == "unknown" else "Cu"
        atoms = Atoms(f"{symbol}{size}", np.random.default_rng(index).random((size, 3)))
        atoms.info.update({"id": index, "do": do.get(index, others)})
        made.append(atoms)
    return made


def drivers(pool: int) -> list[int]:
    return [pid for pid in children(pool) if b"simulations.pool.driver" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def computing(real: Real) -> int:
    """Wait until a worker begins with a structure, and return that worker."""
    before = len(real.calls())
    wait_for(lambda: len(real.calls()) > before, "a worker that computes")
    return int(real.calls()[-1][2])


POISONS = {3: "sticky", 50: "NaN energy", 77: "crash", 111: "hang", 170: "unknown"}
CLASSES = {3: "ModelError", 50: "NonFiniteError", 77: "WorkerDiedError", 111: "WorkerTimeoutError", 170: "ModelError"}


@pytest.mark.parametrize("number", [200, pytest.param(2000, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_whatever_happens_all_others_are_right(real: Real, number: int) -> None:
    write(real.folder / "in.extxyz", structures(number, POISONS, others="busy"))
    images: list[Any] = read(real.folder / "in.extxyz", ":")  # type: ignore[assignment]  # with fewer digits
    with small_disk(real.folder / "disk", "size=8m", "mode=755") as disk:
        real.path = disk / "run"
        happened: list[str] = []
        recorded: list[int] = []
        warned: list[str] = []

        def kill_a_driver() -> None:
            pid = computing(real)
            while pid not in drivers(os.getpid()):
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])  # its parent
            os.kill(pid, signal.SIGKILL)

        def kill_a_worker() -> None:
            os.kill(computing(real), signal.SIGKILL)

        def stop() -> None:
            computing(real)  # that it happened is seen

        def fill_the_disk() -> None:
            computing(real)
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

        def compute(*actions: Callable[[], None]) -> bool:
            def act() -> None:
                for action in actions:
                    action()
                    happened.append(action.__name__)

            with real.opened(timeout=4.0) as run, ThreadPoolExecutor(1) as thread:
                acting = thread.submit(act)
                try:
                    return run.compute(
                        SLOTS, recorded=recorded.extend, warn=warned.append, signals=lambda: "stop" in happened
                    )
                finally:
                    acting.result()

        assert not compute(kill_a_driver, kill_a_worker, stop)
        assert happened == ["kill_a_driver", "kill_a_worker", "stop"]
        assert len([text for text in warned if "ended unexpectedly. Another driver is started." in text]) == 1, warned
        happened.clear()
        assert 0 < len(recorded) < number
        with pytest.raises(OutputError, match="No space left on device"):
            compute(fill_the_disk)
        (disk / "filler").unlink()
        assert compute()
        folder = RunFolder.open(real.path)
        progress = folder.progress()
        assert progress.twice == 0 and not progress.damaged and sorted(recorded) == [*range(number)]
        failures = {each["index"]: (each["class"], each["error"]) for each in folder.failures()}
        assert failures == {index: ("structure", kind) for index, kind in CLASSES.items()}
        found = dict(folder.frames())
        assert sorted(found) == [index for index in range(number) if index not in POISONS]
        for index, frame in found.items():
            [atoms] = read_xyz(io.StringIO(frame.decode()), slice(None))
            assert atoms.info["id"] == index and (atoms.positions == images[index].positions).all()
            assert atoms.get_potential_energy() == atoms.positions[0, 0] * 3.0
            assert (atoms.get_forces() == -0.5 * atoms.positions).all()
        calls = len(real.calls())
        assert compute() and len(real.calls()) == calls  # nothing is missing: no driver is started


def test_what_is_tried_again_is_no_longer_failed_before_somebody_knows(real: Real) -> None:
    """A driver is killed while it computes structures that have failed before: their old failures are no results."""
    write(real.folder / "in.extxyz", structures(3, {0: "wait", 1: "wait", 2: "wait"}))
    (real.folder / "go").touch()
    (real.folder / "ill").touch()
    with real.opened() as run:
        with run.calculator as calc:
            carry_out(run.folder, Source(run.folder.path, run.folder.record.input), calc)
        assert run.folder.progress().counts()["failed_structure"] == 3
        assert run.compute(SLOTS[:1], recorded=lambda indices: None)  # these are final: no driver is started
    (real.folder / "go").unlink()
    (real.folder / "ill").unlink()
    calls = len(real.calls())
    killed: list[bool] = []

    def look() -> int:
        if len(real.calls()) > calls and not killed:
            killed.append(True)
            os.kill(drivers(os.getpid())[0], signal.SIGKILL)
            (real.folder / "go").touch()
        return 0

    with real.opened(retry_failed=True) as run:
        assert run.compute(SLOTS[:1], recorded=lambda indices: None, signals=look)
        assert killed and run.folder.progress().counts()["done"] == 3 and not run.folder.progress().twice


def test_an_input_that_changes_meanwhile_ends_all(real: Real) -> None:
    path = real.folder / "in.extxyz"
    write(path, structures(8, {}))

    def compute() -> None:
        with real.opened() as run:
            path.write_text(path.read_text().replace("Cu", "Ni"))
            run.compute(SLOTS, recorded=lambda indices: None)

    with pytest.raises(RootError, match=r"in\.extxyz: the file was changed since this run began"):
        compute()
    progress = RunFolder.open(real.path).progress()
    assert progress.counts()["missing"] == 8 and not progress.failed()["structure"]


# -- the command


@dataclass
class Commands:
    """What runs commands on a run of the model ``toy``, with two workers."""

    real: Real
    environment: dict[str, str]

    def words(self, *words: str) -> list[str]:
        return [str(ROOTSTOCK), *words, "--device", "cpu", "--workers", "2"]

    def begin(self, kind: str, *more: str) -> list[str]:
        given = ("--calc-kwargs", repr({"folder": str(self.real.folder)}), "--run", "run", *more)
        return self.words(kind, "toy", "in.extxyz", *given)

    def started(self, words: Sequence[str]) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        return started(words, cwd=self.real.folder, env=self.environment)

    def run(self, *words: str | Path) -> Done:
        return run(*words, cwd=self.real.folder, env=self.environment)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(ROOTSTOCK, "run", "status", "run", "--json").stdout)
        return found

    def waiting(self) -> list[int]:
        """Return the workers that compute a structure which waits."""
        return [int(pid) for _, do, pid in self.real.calls() if do == "wait" and not gone(int(pid))]


@pytest.fixture
def commands(real: Real, toys: Path) -> Commands:
    return Commands(real, clean_environment(ROOTSTOCK_ROOT=str(toys)))


JOB = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def test_signals_and_kills(commands: Commands) -> None:
    real, go = commands.real, commands.real.folder / "go"
    images = structures(12, dict.fromkeys(range(12), "wait"))
    write(real.folder / "in.extxyz", images)
    with commands.started(commands.begin("singlepoint", "--grace", "600")) as pool:
        wait_for(lambda: len(set(commands.waiting())) == 2, "two workers that compute")
        known, own = drivers(pool.pid), set(commands.waiting())
        # What a batch system sends to all processes of a job, and a terminal to a group of them, does nothing to these.
        for pid in (*known, *own):
            for number in JOB:
                os.kill(pid, number)
                os.killpg(os.getpgid(pid), number)
        pool.send_signal(signal.SIGTERM)
        read_until(pool, "Ending: what is unfinished is recorded. Once more, to end at once.")
        assert set(commands.waiting()) == own and drivers(pool.pid) == known
        go.touch()
        said = pool.stderr.read() if pool.stderr else ""
        assert pool.wait() == 130 and "Continue with: rootstock run continue run" in said and "--workers 2" in said
    wait_until_gone(*known, *own)
    done = commands.status()
    assert 0 < done["done"] < 12 and done["computed_twice"] == 0
    go.unlink()

    with commands.started(commands.words("run", "continue", "run", "--grace", "600")) as pool:
        wait_for(lambda: len(set(commands.waiting())) == 2, "two workers that compute")
        known, own = drivers(pool.pid), set(commands.waiting())
        pool.send_signal(signal.SIGTERM)
        read_until(pool, "Ending: ")
        pool.send_signal(signal.SIGINT)
        assert pool.wait() == 130
        wait_until_gone(*known, *own)
    with commands.started(commands.words("run", "continue", "run")) as pool:
        wait_for(lambda: len(set(commands.waiting())) == 2, "two workers that compute")
        known, own = drivers(pool.pid), set(commands.waiting())
        [running] = commands.status()["running"]
        assert [*running["workers"].values()] == ["computing"] * 2
        assert "; 2 computing\n" in commands.run(ROOTSTOCK, "run", "status", "run").stdout
        again = commands.run(*commands.words("run", "continue", "run"))
        assert again.returncode == 11 and "Error: run is being computed by " in again.stderr, again.stderr
        assert "Wait until it ends, or end it: rootstock run cancel run" in again.stderr
        pool.kill()
        wait_until_gone(*known, *own)
    [ended] = commands.status()["running"]
    assert commands.status()["done"] == done["done"] and (ended["state"], ended["workers"]) == ("ended", {})
    go.touch()
    finished = commands.run(*commands.words("run", "continue", "run"))
    assert finished.returncode == 0, finished.stderr
    assert {key: commands.status()[key] for key in ("done", "missing", "computed_twice")} == {
        "done": 12, "missing": 0, "computed_twice": 0,
    }  # fmt: skip
    assert not [*real.folder.glob("run/workers-*")]


def test_a_worker_that_has_nothing_to_do_any_more(commands: Commands) -> None:
    write(commands.real.folder / "in.extxyz", structures(2, {0: "wait"}))

    def states() -> list[str]:
        return sorted(state for process in commands.status()["running"] for state in process["workers"].values())

    with commands.started(commands.begin("singlepoint")) as pool:
        wait_for(lambda: commands.waiting() and states() == ["computing", "waits for the others"], "both states")
        (commands.real.folder / "go").touch()
        assert pool.wait() == 0


def test_two_elements_at_once_and_one_twice(commands: Commands) -> None:
    real = commands.real
    write(real.folder / "in.extxyz", structures(12, dict.fromkeys(range(12), "wait")))
    both = [commands.begin("singlepoint", "--element", f"{number}/2") for number in (1, 2)]
    with commands.started(both[0]) as first, commands.started(both[1]) as second:
        wait_for(lambda: len(set(commands.waiting())) == 4, "four workers that compute")
        third = commands.run(*both[0])
        assert third.returncode == 11 and "rootstock singlepoint" in third.stderr, third.stderr
        (real.folder / "go").touch()
        assert first.wait() == second.wait() == 0
    assert commands.status()["done"] == 12 and commands.status()["computed_twice"] == 0
    assert sorted(int(call[0]) for call in real.calls()) == [*range(12)]


def test_relaxations_that_are_stopped_are_recorded_where_they_are(commands: Commands) -> None:
    real, go = commands.real, commands.real.folder / "go"
    write(real.folder / "in.extxyz", structures(6, dict.fromkeys(range(6), "wait later"), size=4))
    with commands.started(commands.begin("relax", "--fmax", "0.001", "--grace", "600")) as pool:
        wait_for(lambda: len(set(commands.waiting())) == 2, "two workers that compute")
        pool.send_signal(signal.SIGTERM)
        read_until(pool, "Ending: ")
        go.touch()
        assert pool.wait() == 130
    folder = RunFolder.open(real.folder / "run")
    partials = Partials(folder.path, folder.record.structures)
    before = {index: partials.go_on(index, images) for index, images in enumerate(read(real.folder / "in.extxyz", ":"))}
    assert max(before.values()) > 0
