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
import dataclasses
import itertools
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from rootstock import RootstockCalculator
from rootstock.errors import RootstockError, WorkerError
from tests.support.commands import DEADLINE_S
from tests.support.environment_files import header
from tests.support.processes import open_files, processes_at

MODEL = (
    header()
    + """\
import os, struct, sys, time
import numpy as np
from ase.calculators.calculator import Calculator, all_changes


def channel():
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket"):
                return fd
        except OSError:
            pass


class Chaos(Calculator):
    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        fault = atoms.info.get("fault")
        if fault:
            exec(fault)
        self.results = {"energy": float(atoms.positions[0, 0]), "forces": -atoms.positions}


def setup(model, device="cpu"):
    exec(model)
    return Chaos()
"""
)

WHOLE = "struct.pack('<4sIIIIIQQQ', b'RSK1', 5, 3, 0, 0, 0, 10**6, len(atoms), 64)"
HANGS = ["time.sleep(1000)", "os.kill(os.getpid(), 19)", f"os.write(channel(), {WHOLE}[:20]); time.sleep(1000)"]
FAULTS = [
    "raise ValueError('chaos')",
    "raise SystemExit(3)",
    "raise KeyboardInterrupt",
    "os._exit(4)",
    "os.kill(os.getpid(), 9)",
    "os.kill(os.getpid(), 11)",
    "os.abort()",
    "os.write(channel(), os.urandom(200))",
    f"os.write(channel(), {WHOLE})",  # an answer to another question
    f"os.write(channel(), {WHOLE}[:30]); os._exit(0)",
    "print('x' * 10**5, file=sys.stderr, flush=True)",
    "atoms.positions[:] = np.nan",
    "self.results = {}; time.sleep(0.02)",
    "os.fork() or time.sleep(1000); os._exit(6)",
]
AT_START = ["raise OSError('no weights')", "os._exit(5)", "os.kill(os.getpid(), 9)", "os.write(channel(), bytes(100))"]
# Of each way to fail one, so that none is missing from a sample.
ONE_OF_EACH = [
    ("model", "raise ValueError('chaos')"), ("model", "atoms.positions[:] = np.nan"), ("model", "os._exit(4)"),
    ("model", "os.write(channel(), os.urandom(200))"), ("hang", "time.sleep(1000)"), ("outside", "interrupt"),
    ("start", AT_START[0]),
]  # fmt: skip
# No bound on a life: fakes that hang do so for 1000 s, and the limit of whoever runs this tells. Only what is meant to
# hang, or may be stopped, is not waited for.
LONG_S, SHORT_S = 600.0, 0.5


class WrongError(Exception):
    """What must not happen."""


def compute(atoms: Atoms, chance: random.Random) -> None:
    """Move the atoms, ask for something, and compare."""
    atoms.positions[0, 0] = x = chance.uniform(-10, 10)
    if chance.random() < 0.5:
        found, expected = atoms.get_potential_energy(), x
    else:
        found, expected = atoms.get_forces(), -atoms.positions
    if not np.array_equal(found, expected):
        raise WrongError(f"asked for {expected}, got {found}")


@contextlib.contextmanager
def disturbed(calc: RootstockCalculator, chance: random.Random, kind: str):
    """Let somebody kill or stop the worker, or press Ctrl-C, a little later."""
    delay, pid = chance.expovariate(1 / 0.002), calc.info()["pid"]

    def act() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(*((os.getpid(), signal.SIGINT) if kind == "interrupt" else (pid, 9 if kind == "kill" else 19)))

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


def choice(chance: random.Random) -> tuple[str, str]:
    """Return a kind of fault, and which one."""
    kind = chance.choice(["none", "none", "none", "model", "model", "hang", "outside", "atoms"])
    which = {"model": FAULTS, "hang": HANGS, "outside": ["kill", "stop", "interrupt"]}
    return kind, chance.choice(which.get(kind, [""]))


def evaluate(atoms: Atoms, chance: random.Random, seen: Counter[str], kind: str, fault: str) -> None:
    """One call that may fail in a way that we know, and one after it that must not."""
    seen[kind] += 1
    calc = atoms.calc
    try:
        with impatient(calc) if kind in ("hang", "outside") else contextlib.nullcontext():
            if kind == "outside":
                with disturbed(calc, chance, fault):
                    for _ in range(chance.randrange(1, 40)):
                        compute(atoms, chance)
            elif kind == "atoms":
                atoms *= (chance.choice([1, 2, 3]), 1, 1)
                compute(atoms, chance)
                del atoms[1:]
            else:
                atoms.info = {"fault": fault} if fault else {}
                compute(atoms, chance)
    except (RootstockError, KeyboardInterrupt) as error:
        if kind in ("none", "atoms"):
            raise WrongError(f"no fault, but {error!r}") from error
        seen[type(error).__name__] += 1
        if isinstance(error, WorkerError) and not str(error):
            raise WrongError("an error that says nothing") from error
    atoms.info = {}
    if kind == "outside":  # what was killed or stopped after the last call shows in the next
        try:
            with impatient(calc):
                compute(atoms, chance)
        except (RootstockError, KeyboardInterrupt) as error:
            seen[type(error).__name__] += 1
    try:
        compute(atoms, chance)
    except (RootstockError, KeyboardInterrupt) as error:
        raise WrongError(f"the call after a fault failed: {error!r}") from error


def live(root: Path, chance: random.Random, seen: Counter[str], faults: list[tuple[str, str]]) -> None:
    """One life."""
    start = next((fault for kind, fault in faults if kind == "start"), "")
    calc = RootstockCalculator(
        environment=root.with_name("chaos.py"), model=start or "pass", root=root, device="cpu",
        start_timeout=LONG_S, timeout=LONG_S, threads=1,
    )  # fmt: skip
    atoms = Atoms("Cu", cell=[3, 3, 3], calculator=calc)
    try:
        if start:
            seen["bad start"] += 1
            try:
                compute(atoms, chance)
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
    return [choice(chance) for _ in range(chance.randrange(1, 4))]


def unraisable(event: Any) -> None:
    """Say what Python cannot raise, but not of Ctrl-C in a callback: nobody can do anything about that."""
    if not isinstance(event.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(event)


def child(root: Path, seed: int, lives: list[list[tuple[str, str]]] | None, report: int) -> None:
    """Live some lives one after the other, and report; without end unless they are given."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = unraisable
    chance, seen, problems = random.Random(seed), Counter(), []
    before = open_files()
    endless = (faults_of_a_life(chance) for _ in itertools.count())
    for number, faults in enumerate(endless if lives is None else lives):
        try:
            live(root, chance, seen, faults)
        except Exception:  # noqa: BLE001  # whatever it is, it is reported
            problems.append(f"life {number} of seed {seed}, {faults}:\n{traceback.format_exc()}")
        os.write(report, b".")
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
