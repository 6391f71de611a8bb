"""What many calls leave behind, on both sides, and what each of them costs the kernel."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.run.conftest import Make
from tests.support.commands import clean_environment, run
from tests.support.needs import need_program

WARM_UP = 2_000
WEIGHTS_KB = 2**17

# Results that are new arrays each time, as a model's are; on request the number of objects in this process.
MODEL = """\
if self.atoms.info.get("count"):
    import gc
    gc.collect()
    self.results["energy"] = float(len(gc.get_objects()))
"""

# In a process of its own: pytest keeps things of its own, and has imported what it liked.
CLIENT = """
import ctypes, gc, os, sys
# Memory in pages of 4 kB, here and in the worker: the kernel puts larger ones together when it likes.
assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0  # PR_SET_THP_DISABLE
from pathlib import Path
from ase import Atoms
from rootstock import RootstockCalculator

environment, root, calls, warm_up = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
structures = [Atoms(f"Cu{n}", positions=[(3 * i, 0, 0) for i in range(n)], cell=[30, 30, 30], pbc=True)
              for n in (1, 2, 8)]
asked = [["energy"], ["forces"], ["energy", "forces", "stress"], ["stress"]]

def measure(pid):
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_Dirty", "Swap:")))
    return private, len(os.listdir(f"/proc/{pid}/fd"))

def state():
    counted = structures[0].copy()
    counted.info["count"] = True
    there = calc.get_property("energy", counted)
    gc.collect()
    return *measure(os.getpid()), len(gc.get_objects()), *measure(worker), int(there)

with RootstockCalculator(environment=environment, model="", root=root, device="cpu") as calc:
    worker = calc.info()["pid"]
    for call in range(calls + warm_up):
        if call == warm_up:
            state()
            before = state()
        if call == warm_up + calls // 2:
            middle = state()
        # Mostly as in a simulation; now and then other atoms, species, cells and info.
        atoms = structures[call // 100 % 3]
        atoms.positions[0, 0] = 1e-6 * call
        if call % 100 == 50:
            atoms.numbers[0] = 29 + call // 100 % 2
            atoms.set_cell([30 + call % 7, 30, 30])
            atoms.info["charge"] = call % 5
        for name in asked[call // 10 % 4]:
            calc.get_property(name, atoms)
    after = state()
    print(calc.info()["calls"]["count"], before[0], before[3])
    for earlier, later in ((before, middle), (middle, after)):
        print(*(there - here for here, there in zip(earlier, later)))
    print(*({"torch", "jax", "matplotlib"} & set(sys.modules)))
"""


@pytest.mark.parametrize("turns", [pytest.param(10_000), pytest.param(100_000, marks=pytest.mark.soak)])
def test_no_growth_and_no_copy_of_the_model(make: Make, turns: int) -> None:
    weights = f"calc = Calculator(); calc.weights = np.ones({WEIGHTS_KB * 128}); return calc"
    arguments = make(MODEL, setup=weights)._arguments
    words = (sys.executable, "-c", CLIENT, arguments["environment"], arguments["root"], str(turns), str(WARM_UP))
    done = run(*words, env=clean_environment(OMP_NUM_THREADS="1"), check=True, timeout=None)
    there, *growth, foreign = done.stdout.split("\n")[:4]
    calls, client_kb, with_weights_kb = map(int, there.split())
    assert calls >= turns
    assert client_kb < WEIGHTS_KB <= with_weights_kb
    # A leak is there in both halves; what an allocator takes at once, hundreds of kilobytes, comes in one of them.
    halves = list(zip(*(map(int, line.split()) for line in growth), strict=True))
    kb, _, objects, worker_kb, _, worker_objects = map(min, halves)
    assert (halves[1], halves[4]) == ((0, 0), (0, 0)), growth  # descriptors
    # What may come and go: pages of the allocators, entries of caches. A leak in one turn of a hundred is beyond it.
    most_kb, most_objects = 32 + turns // 500, 10 + turns // 1000
    assert kb < most_kb and worker_kb < most_kb, growth
    assert objects < most_objects and worker_objects < most_objects, growth
    assert not foreign, foreign


STEPS = """
import os, sys
from ase.build import bulk
from rootstock import RootstockCalculator

atoms = bulk("Cu", cubic=True)
with RootstockCalculator(environment=sys.argv[1], model="", root=sys.argv[2], device="cpu") as calc:
    atoms.calc = calc
    print(os.getpid(), calc.info()["pid"])
    for step in range(int(sys.argv[3])):
        atoms.positions += 1e-3
        atoms.get_forces()
        atoms.get_potential_energy()
"""

PLAIN = """\
def calculate(self, atoms, properties, system_changes):
    self.results = {"energy": 1.0, "forces": np.zeros((len(atoms), 3))}

Calculator.calculate = calculate  # ASE's own asks the kernel for its directory in every call
return Calculator()
"""


def test_two_system_calls_for_each_step_and_side(make: Make, tmp_path: Path) -> None:
    """One to send and one to receive."""
    arguments = make(setup=PLAIN)._arguments
    client = (sys.executable, "-c", STEPS, arguments["environment"], arguments["root"], "1100")
    strace = (need_program("strace", "strace"), "-ff", "-qq", "-s", "1000", "-o", tmp_path / "trace")
    done = run(*strace, *client, env=clean_environment(OMP_NUM_THREADS="1"), check=True)
    for pid in done.stdout.split():
        calls = in_a_thousand_steps(tmp_path / f"trace.{pid}")
        assert (calls.pop("sendto"), calls.pop("recvfrom")) == (1000, 1000)
        # A side that expects an answer within microseconds may let other processes run before it sleeps, and look at
        # the clock, which is a system call on some machines. How often is a matter of what else runs, and of strace,
        # which makes everything slow.
        for name in ("sched_yield", "clock_gettime"):
            calls.pop(name, None)
        assert calls.total() < 50, calls


def in_a_thousand_steps(trace: Path) -> Counter[str]:
    """Return what a process asked the kernel for, and how often, before the last steps.

    A wait that the kernel ends after a second, to have a look, counts as none: the machine was busy.
    """
    lines = [line for line in trace.read_text().splitlines() if not re.match(r"recvfrom\(.* = -1 EAGAIN", line)]
    calls = [line.partition("(")[0] for line in lines]
    sent = [place for place, name in enumerate(calls) if name == "sendto"]
    return Counter(calls[sent[-1010] : sent[-10]])
