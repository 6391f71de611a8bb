"""Lives of calculators with faults at random moments; `test_chaos.py` runs it, and so can you.

    python tests/run/chaos.py ROOT [--lives 500] [--seed 1] [--at-once 6]

A life is a calculator that computes a few times and is closed, or whose process is killed. Faults come from the model
(it raises, exits, crashes, hangs, stops, prints, writes to the channel, forks), from outside (somebody kills or stops
the worker) and from the client (Ctrl-C, SIGKILL). What must hold: every number that comes back is that of the atoms it
was asked for; everything else is an error of ours; a call without a fault succeeds after one with; nothing is left.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
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

import numpy as np
from ase import Atoms

from rootstock import RootstockCalculator
from rootstock.errors import RootstockError, WorkerError

MODEL = """\
# /// script
# requires-python = ">=3.10"
# dependencies = ["ase>=3.23"]
# ///
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
BOUND_S = 60.0  # on a busy machine; what hangs, hangs for longer


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
def disturbed(calc: RootstockCalculator, chance: random.Random):
    """Let somebody kill or stop the worker, or press Ctrl-C, a little later."""
    kind, delay = chance.choice(["kill", "stop", "interrupt"]), chance.expovariate(1 / 0.002)
    pid = calc.info()["pid"]

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


def evaluate(atoms: Atoms, chance: random.Random, seen: Counter[str]) -> None:
    """One call that may fail in a way that we know, and one after it that must not."""
    fault = chance.choice(["none", "none", "none", "model", "model", "hang", "outside", "atoms"])
    seen[fault] += 1
    calc = atoms.calc
    usual = calc._session.spec
    if fault in ("hang", "outside"):
        calc._session.spec = dataclasses.replace(usual, timeout=0.5)
    try:
        if fault == "outside":
            with disturbed(calc, chance):
                for _ in range(chance.randrange(1, 40)):
                    compute(atoms, chance)
        elif fault == "atoms":
            atoms *= (chance.choice([1, 2, 3]), 1, 1)
            compute(atoms, chance)
            del atoms[1:]
        else:
            atoms.info = {} if fault == "none" else {"fault": chance.choice(HANGS if fault == "hang" else FAULTS)}
            compute(atoms, chance)
    except (RootstockError, KeyboardInterrupt) as error:
        if fault in ("none", "atoms"):
            raise WrongError(f"no fault, but {error!r}") from error
        seen[type(error).__name__] += 1
        if isinstance(error, WorkerError) and not str(error):
            raise WrongError("an error that says nothing") from error
    finally:
        calc._session.spec = usual
    atoms.info = {}
    recover(atoms, chance, seen, 3 if fault == "outside" else 0)


def recover(atoms: Atoms, chance: random.Random, seen: Counter[str], tries: int) -> None:
    """Compute without a fault; what was killed or stopped from outside may show only now."""
    while True:
        try:
            return compute(atoms, chance)
        except (RootstockError, KeyboardInterrupt) as error:
            seen[type(error).__name__] += 1
            tries -= 1
            if tries < 0:
                raise WrongError(f"the call after a fault failed: {error!r}") from error


def live(root: Path, chance: random.Random, seen: Counter[str]) -> None:
    """One life."""
    bad_start = chance.random() < 0.1
    calc = RootstockCalculator(
        environment=root.with_name("chaos.py"), model=chance.choice(AT_START) if bad_start else "pass", root=root,
        # A worker that is stopped after the last call is noticed by the next one, by its timeout: within the bound.
        device="cpu", start_timeout=BOUND_S, timeout=BOUND_S / 4, threads=1,
    )  # fmt: skip
    atoms = Atoms("Cu", cell=[3, 3, 3], calculator=calc)
    try:
        if bad_start:
            seen["bad start"] += 1
            try:
                compute(atoms, chance)
            except WorkerError as error:
                seen[type(error).__name__] += 1
                return
            raise WrongError("a start that fails succeeded")
        for _ in range(chance.randrange(1, 4)):
            evaluate(atoms, chance, seen)
    finally:
        if chance.random() < 0.7:
            calc.close()  # the others are garbage


def open_files() -> set[str]:
    """Return what this process has open, beside what garbage holds."""
    gc.collect()
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the list itself
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def child(root: Path, seed: int, lives: int, report: int) -> None:
    """Live some lives one after the other, and report."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance, seen, problems = random.Random(seed), Counter(), []
    before = open_files()
    for number in range(lives):
        begun = time.monotonic()
        try:
            live(root, chance, seen)
        except Exception:  # noqa: BLE001  # whatever it is, it is reported
            problems.append(f"life {number} of seed {seed}:\n{traceback.format_exc()}")
        if time.monotonic() - begun > BOUND_S:
            problems.append(f"life {number} of seed {seed} took {time.monotonic() - begun:.0f} s")
        os.write(report, b".")
    left = open_files() - before
    if left or "memfd:rootstock" in Path("/proc/self/maps").read_text():
        problems.append(f"seed {seed} left {sorted(left)} open or mapped")
    os.write(report, json.dumps({"seen": seen, "problems": problems}).encode())


def processes(word: str) -> list[str]:
    """Return the command lines of processes that mention a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if word in line and int(folder.name) != os.getpid() and "chaos.py " not in line:
                found.append(f"{folder.name} {line}")
    return found


def run(root: Path, lives: int, seed: int, at_once: int) -> dict[str, object]:
    """Run processes with a batch of lives each; one in three is killed on the way."""
    root.with_name("chaos.py").write_text(MODEL)
    logging.getLogger("rootstock").setLevel(logging.ERROR)  # a slow start is told of, and is no fault
    # uv fetches the packages now, which no bound below is for.
    RootstockCalculator("pass", environment=root.with_name("chaos.py"), root=root, device="cpu").start().close()
    chance, seen, problems, lived, killed = random.Random(seed), Counter(), [], 0, 0
    running: dict[int, tuple[int, float, bytearray]] = {}
    while lived < lives or running:
        while lived + 4 * len(running) < lives and len(running) < at_once:
            reader, writer = os.pipe()
            number, doomed = chance.randrange(2**32), chance.random() < 0.34
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(reader)
                    child(root, number, chance.randrange(4, 12), writer)
                except BaseException:  # noqa: BLE001
                    traceback.print_exc()
                finally:
                    os._exit(0)
            os.close(writer)
            end = time.monotonic() + (chance.uniform(0.0, 4.0) if doomed else 12 * 3 * BOUND_S)
            os.set_blocking(reader, False)
            running[pid] = (reader, end, bytearray())
        time.sleep(0.01)
        for pid, (reader, end, data) in list(running.items()):
            with contextlib.suppress(BlockingIOError):
                while piece := os.read(reader, 2**16):
                    data += piece
            late = time.monotonic() > end
            if late:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            if late or os.waitpid(pid, os.WNOHANG)[0]:
                if late:
                    os.waitpid(pid, 0)
                with contextlib.suppress(BlockingIOError):
                    while piece := os.read(reader, 2**16):
                        data += piece
                os.close(reader)
                del running[pid]
                dots, _, rest = bytes(data).partition(b"{")
                lived += len(dots) + late  # the life that the kill cut short counts too
                if rest:
                    found = json.loads(b"{" + rest)
                    seen.update(found["seen"])
                    problems += found["problems"]
                elif not late:
                    problems.append(f"a client ended without a word: {data!r}")
    deadline = time.monotonic() + BOUND_S
    while (left := processes(str(root))) and time.monotonic() < deadline:
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
    result = run(arguments.root.absolute(), arguments.lives, arguments.seed, arguments.at_once)
    json.dump(result, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
