"""Lives of calculators with faults at random moments; `test_chaos.py` runs it, and so can you.

    python -m tests.run.chaos ROOT [--lives 500] [--seed 1] [--at-once 6]

A life is a calculator that computes a few times and is closed, or whose process is killed. Faults come from the model
(it raises, exits, crashes, hangs, stops, prints, writes to the channel, forks), from outside (somebody kills or stops
the worker) and from the client (Ctrl-C, SIGKILL). What must hold: every number that comes back is that of the atoms it
was asked for; everything else is an error of ours; a call without a fault succeeds after one with; nothing is left.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import gc
import itertools
import json
import logging
import os
import pickle
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from rootstock import RootstockCalculator
from rootstock.client import sharing
from rootstock.client.scratch import private_scratch
from rootstock.errors import RootstockError, WorkerError
from tests.run.chaos_faults import AT_START, EITHER, FAILS, HANGS, HOLDS, MODEL
from tests.support.commands import DEADLINE_S
from tests.support.processes import open_files, processes_at

# Of each way to fail, and to share, one: so that none is missing from a sample.
ONE_OF_EACH = [
    ("fails", "raise ValueError('chaos')"), ("fails", "results['energy'] = np.nan"), ("fails", "os._exit(4)"),
    ("fails", "os.write(channel(), os.urandom(200))"), ("fails", "results['energy'] = np.ma.masked"),
    ("hangs", "time.sleep(1000)"), ("outside", "interrupt"), ("outside", "term"), ("start", AT_START[0]),
    ("holds", "atoms.info.pop('fault')"), ("holds", "atoms.positions[:] += 1"), ("holds", "del atoms[0]"),
    ("threads", ""), ("copies", ""), ("fork", ""), ("sizes", ""),
]  # fmt: skip
KINDS = {
    "none": [""], "fails": FAILS, "holds": HOLDS, "either": EITHER, "hangs": HANGS,
    "outside": ["kill", "stop", "interrupt", "interrupt", "term", "segv"],
    "sizes": [""], "fork": [""], "copies": [""], "threads": [""],
}  # fmt: skip
WEIGHTS = [2, 2, 2, 1, 1, 1, 1, 1, 1, 1]
# Nobody who is not told to may fail.
FAULTLESS = {"none", "holds", "sizes", "fork", "copies", "threads"}
# No bound on a life: fakes that hang do so for 1000 s, and the limit of whoever runs this tells. Only what is meant to
# hang, or may be stopped, is not waited for.
LONG_S, SHORT_S = 600.0, 0.5

_model: dict[str, Any] = {}
exec(MODEL, _model)
values = _model["values"]


class WrongError(Exception):
    """What must not happen."""


def change(atoms: Atoms, chance: random.Random) -> None:
    """Change something that a model is told, and mostly the positions too."""
    match chance.randrange(12):
        case 0:
            atoms.numbers[0] = chance.randrange(1, 90)
        case 1:
            atoms.cell[0, 0] += chance.random()
        case 2:
            atoms.pbc[chance.randrange(3)] ^= True
        case 3:
            atoms.set_initial_charges([chance.random() for _ in atoms])
        case 4:
            atoms.set_initial_magnetic_moments([chance.random() for _ in atoms])
        case 5:
            atoms.set_tags(chance.randrange(9))
        case 6:
            atoms.info["k" * chance.randrange(1, 5)] = {"a": [chance.randrange(999)], "b": (1, None, "x")}
        case 7:
            atoms.info.clear()
        case 8:
            atoms.arrays.pop("initial_charges", None)
        case 9:
            atoms.arrays.pop("initial_magmoms", None)
        case 10:
            atoms.arrays.pop("tags", None)
        case _:
            atoms.positions[:] += chance.random()
    if chance.random() < 0.7:
        atoms.positions[0, 0] = chance.uniform(-10, 10)


def check(atoms: Atoms, names: Sequence[str]) -> None:
    """Ask for properties one by one, and compare."""
    expected = values(atoms)
    for name in names:
        if name == "stress" and not (atoms.cell.rank == 3 and atoms.pbc.any()):
            continue
        found = atoms.calc.get_property(name, atoms)
        if not np.array_equal(found, expected[name]):
            raise WrongError(f"{name}: asked for {expected[name]}, got {found}")
        if not np.array_equal(atoms.calc.results[name], expected[name]):
            raise WrongError(f"{name}: results hold {atoms.calc.results[name]}, not {expected[name]}")


def compute(atoms: Atoms, chance: random.Random) -> None:
    """Change the atoms, ask for something, and compare."""
    change(atoms, chance)
    check(atoms, chance.sample(["energy", "forces", "stress"], chance.randrange(1, 4)))


SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM, "segv": signal.SIGSEGV}


@contextlib.contextmanager
def disturbed(calc: RootstockCalculator, chance: random.Random, kind: str):
    """Let somebody kill or stop the worker, or press Ctrl-C, a little later."""
    delay, pid = chance.expovariate(1 / 0.002), calc.info()["pid"]

    def act() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(*((os.getpid(), signal.SIGINT) if kind == "interrupt" else (pid, SIGNALS[kind])))

    timer = threading.Timer(delay, act)
    timer.start()
    try:
        yield
        timer.join()
    finally:
        while timer.is_alive():
            with contextlib.suppress(KeyboardInterrupt):
                timer.join()


@contextlib.contextmanager
def impatient(calc: RootstockCalculator):
    """Wait for answers only for a moment."""
    usual = calc._session.spec.timeout
    calc._session.set_patience(timeout=SHORT_S)
    try:
        yield
    finally:
        calc._session.set_patience(timeout=usual)


def many_sizes(atoms: Atoms, chance: random.Random) -> None:
    for size in [chance.choice([1, 2, 50, 3000, 20000]) for _ in range(3)]:
        other = Atoms("Cu", cell=[3, 3, 3], pbc=True) * (size, 1, 1)
        other.calc = atoms.calc
        compute(other, chance)


def forked(atoms: Atoms, chance: random.Random) -> None:
    """Let a forked process compute, drop the calculator or do nothing, and go on here."""
    compute(atoms, chance)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            match chance.randrange(3):
                case 0:
                    compute(atoms, chance)
                    atoms.calc.close()
                case 1:
                    atoms.calc = None
                    gc.collect()
            code = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(code)
    for _ in range(5):
        compute(atoms, chance)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise WrongError(f"the forked process ended with {code}")


def copies(atoms: Atoms, chance: random.Random) -> None:
    """Compute by copies of each kind, in turns; they share the worker."""
    make = [copy.copy, copy.deepcopy, lambda calc: pickle.loads(pickle.dumps(calc))]
    twins = []
    for _ in range(3):
        twin = atoms.copy()
        twin.calc = chance.choice(make)(atoms.calc)
        twins.append(twin)
    for _ in range(5):
        for twin in (*twins, atoms):
            compute(twin, chance)
    if len({twin.calc.info()["pid"] for twin in (*twins, atoms)}) > 1:
        raise WrongError("copies do not share a worker")
    twins[0].calc.close()


def threads(atoms: Atoms, chance: random.Random) -> None:
    """Compute in threads, by one calculator and a copy of it."""
    shared, twin = atoms.calc, copy.copy(atoms.calc)

    def work(seed: int) -> None:
        mine, chance = atoms.copy(), random.Random(seed)
        mine.calc = twin if seed % 4 == 0 else shared
        for _ in range(20):
            compute(mine, chance)

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(work, chance.randrange(2**32)) for _ in range(3)]:
            done.result()


def evaluate(atoms: Atoms, chance: random.Random, seen: Counter[str], kind: str, fault: str) -> None:
    """One call that may fail in a way that we know, and one after it that must not."""
    seen[kind] += 1
    calc = atoms.calc
    try:
        with impatient(calc) if kind in ("hangs", "outside") else contextlib.nullcontext():
            if kind == "outside":
                with disturbed(calc, chance, fault):
                    for _ in range(chance.randrange(1, 40)):
                        compute(atoms, chance)
            elif fault:
                change(atoms, chance)
                atoms.info["fault"] = fault
                check(atoms, ["energy", "forces"])
            else:
                WITHOUT_FAULT[kind](atoms, chance)
    except (RootstockError, PropertyNotImplementedError, KeyboardInterrupt) as error:
        if kind in FAULTLESS:
            raise WrongError(f"no error is expected of {kind} {fault!r}, but {error!r}") from error
        seen[type(error).__name__] += 1
        if not str(error) and not isinstance(error, KeyboardInterrupt):
            raise WrongError("an error that says nothing") from error
    else:
        if kind in ("fails", "hangs"):
            raise WrongError(f"{fault!r} gave a number and no error")
    atoms.info = {}
    if kind == "either":
        return
    if kind == "outside":  # what was killed or stopped after the last call shows in the next that reaches the worker
        try:
            atoms.positions += 0.5
            with impatient(calc):
                check(atoms, ["energy"])
        except (RootstockError, KeyboardInterrupt) as error:
            seen[type(error).__name__] += 1
    try:
        compute(atoms, chance)
    except (RootstockError, KeyboardInterrupt) as error:
        raise WrongError(f"the call after a fault failed: {error!r}") from error


WITHOUT_FAULT = {"none": compute, "sizes": many_sizes, "fork": forked, "copies": copies, "threads": threads}


def live(root: Path, chance: random.Random, seen: Counter[str], faults: list[tuple[str, str]]) -> None:
    """One life."""
    start = next((fault for kind, fault in faults if kind == "start"), "")
    calc = RootstockCalculator(
        environment=root.with_name("chaos.py"), model=start or "pass", root=root, device="cpu",
        start_timeout=LONG_S, timeout=LONG_S, threads=1,
    )  # fmt: skip
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [1, 1, 1]], cell=[3, 3, 3], pbc=True, calculator=calc)
    try:
        if start:
            seen["bad start"] += 1
            try:
                check(atoms, ["energy"])
            except WorkerError as error:
                seen[type(error).__name__] += 1
                return
            raise WrongError("a start that fails succeeded")
        for fault in faults:
            evaluate(atoms, chance, seen, *fault)
    finally:
        if chance.random() < 0.7:
            calc.close()  # the others are garbage


def faults_of_a_life(chance: random.Random) -> list[tuple[str, str]]:
    if chance.random() < 0.1:
        return [("start", chance.choice(AT_START))]
    kinds = chance.choices(list(KINDS), WEIGHTS, k=chance.randrange(1, 4))
    if "either" in kinds:  # nobody knows when it comes: it is the last
        kinds = kinds[: kinds.index("either") + 1]
    return [(kind, chance.choice(KINDS[kind])) for kind in kinds]


def unraisable(event: Any) -> None:
    """Say what Python cannot raise, but not of Ctrl-C in a callback: nobody can do anything about that."""
    if not isinstance(event.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(event)


def child(root: Path, seed: int, lives: list[list[tuple[str, str]]] | None, report: int) -> None:
    """Live some lives one after the other, and report; without end unless they are given."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = unraisable
    chance, seen, problems = random.Random(seed), Counter(), []
    private_scratch()  # where it is this process's own, a lock on it stays
    before = open_files()
    endless = (faults_of_a_life(chance) for _ in itertools.count())
    for number, faults in enumerate(endless if lives is None else lives):
        try:
            live(root, chance, seen, faults)
        except Exception:  # noqa: BLE001  # whatever it is, it is reported
            problems.append(f"life {number} of seed {seed}, {faults}:\n{traceback.format_exc()}")
        os.write(report, b".")
    gc.collect()
    sharing.end_unused()  # those that are kept for copies to come
    left = open_files() - before
    if left or "memfd:rootstock" in Path("/proc/self/maps").read_text():
        problems.append(f"seed {seed} left {sorted(left)} open or mapped")
    os.write(report, json.dumps({"seen": seen, "problems": problems}).encode())


@dataclasses.dataclass
class Batch:
    """A process with some lives, of which the pipe tells.

    Parameters
    ----------
    reader : int
        Our end of the pipe.
    doomed : int or None
        After how many lives it is killed, for it does not end by itself; None: never.
    delay : float
        How many seconds after that.
    """

    reader: int
    doomed: int | None
    delay: float
    said: bytearray = dataclasses.field(default_factory=bytearray)
    due: float | None = None

    def listen(self) -> None:
        """Take what the process has told."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.reader, 2**16):
                self.said += piece

    def is_to_die(self) -> bool:
        if self.due is None and self.doomed is not None and self.said.count(b".") >= self.doomed:
            self.due = time.monotonic() + self.delay
        return self.due is not None and time.monotonic() >= self.due


def begin(root: Path, chance: random.Random, number: int) -> tuple[int, Batch]:
    """Start a process with a batch of lives. The first sees one of each fault, one in three is killed on the way."""
    reader, writer = os.pipe()
    seed, count, doomed = chance.randrange(2**32), chance.randrange(4, 12), number % 3 == 1
    lives: list[list[tuple[str, str]]] | None = [faults_of_a_life(chance) for _ in range(count)]
    if number == 0:
        lives = [[fault] for fault in ONE_OF_EACH]
    if doomed:
        lives = None
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            child(root, seed, lives, writer)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    os.set_blocking(reader, False)
    return pid, Batch(reader, chance.randrange(count) if doomed else None, chance.uniform(0.0, 1.0))


def run_lives(root: Path, lives: int, seed: int, at_once: int) -> dict[str, object]:
    """Run processes with a batch of lives each."""
    root.with_name("chaos.py").write_text(MODEL)
    logging.getLogger("rootstock").setLevel(logging.ERROR)  # a slow start is told of, and is no fault
    # uv fetches the packages now, once.
    RootstockCalculator("pass", environment=root.with_name("chaos.py"), root=root, device="cpu").start().close()
    chance, seen, problems, lived, killed = random.Random(seed), Counter(), [], 0, 0
    begun = 0
    running: dict[int, Batch] = {}
    while lived < lives or running:
        while lived + 4 * len(running) < lives and len(running) < at_once:
            pid, batch = begin(root, chance, begun)
            running[pid] = batch
            begun += 1
        time.sleep(0.01)
        for pid, batch in list(running.items()):
            batch.listen()
            if doomed := batch.is_to_die():
                os.kill(pid, signal.SIGKILL)
            if not doomed and not os.waitpid(pid, os.WNOHANG)[0]:
                continue
            if doomed:
                os.waitpid(pid, 0)
            batch.listen()
            os.close(batch.reader)
            del running[pid]
            dots, _, rest = bytes(batch.said).partition(b"{")
            killed += doomed
            lived += len(dots) + doomed  # the life that the kill cut short counts too
            if rest:
                found = json.loads(b"{" + rest)
                seen.update(found["seen"])
                problems += found["problems"]
            elif not doomed:
                problems.append(f"a client ended without a word: {dots!r}")
    deadline = time.monotonic() + DEADLINE_S
    while (left := processes_at(root)) and time.monotonic() < deadline:
        time.sleep(0.05)
    problems += [f"left running: {line}" for line in left]
    return {"lives": lived, "clients_killed": killed, "seen": dict(sorted(seen.items())), "problems": problems}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--lives", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=6)
    arguments = parser.parse_args()
    result = run_lives(arguments.root.absolute(), arguments.lives, arguments.seed, arguments.at_once)
    json.dump(result, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
