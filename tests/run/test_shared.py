"""Calculators that are made with the same arguments, to share a worker: one in each task of a program."""

from __future__ import annotations

import gc
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from rootstock import RootstockCalculator
from rootstock.client.sharing import end_unused
from tests.run.conftest import Make
from tests.support.commands import REPOSITORY, run
from tests.support.processes import gone

Shared = Callable[..., RootstockCalculator]


@pytest.fixture
def shared(root: Path) -> Shared:
    """Return a function that makes a calculator as a task does."""

    def build(**arguments: object) -> RootstockCalculator:
        return RootstockCalculator("emt", root=root, **{"device": "cpu", "shared": True} | arguments)  # type: ignore[arg-type]

    return build


def pid_of(calc: RootstockCalculator) -> int:
    pid = calc.info()["pid"]
    assert isinstance(pid, int)
    return pid


def task(calc: RootstockCalculator, seed: int) -> tuple[int, float]:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.calc = calc
    return pid_of(calc), atoms.get_potential_energy()


def energies(count: int) -> list[float]:
    found = []
    for seed in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        found.append(float(atoms.get_potential_energy()))
    return found


def test_tasks_that_make_a_calculator_each_share_a_worker(shared: Shared) -> None:
    one_by_one = [task(shared(), seed) for seed in range(10)]
    kept = [shared() for _ in range(10)]
    together = [task(calc, seed) for seed, calc in enumerate(kept)]
    assert [energy for _, energy in one_by_one + together] == pytest.approx(energies(10) * 2, abs=1e-9)
    [worker] = {pid for pid, _ in one_by_one + together}
    copied = pickle.loads(pickle.dumps(kept[0]))
    assert pid_of(copied) == worker
    copied.close()
    kept.pop().close()
    assert not gone(worker)  # the others use it
    kept.clear()
    gc.collect()
    assert not gone(worker)  # the next task may be near
    assert end_unused()
    assert gone(worker)
    with shared() as calc:
        last = pid_of(calc)
        assert last != worker
    assert gone(last)


def test_threads_that_begin_at_the_same_time_share_a_worker(shared: Shared) -> None:
    """Each would load the model: a program that keeps one for all of them may make several before it has one."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: task(shared(), seed), range(20)))
    assert [energy for _, energy in found] == pytest.approx(energies(20), abs=1e-9)
    assert len({pid for pid, _ in found}) == 1
    assert end_unused()


def test_others_have_workers_of_their_own(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    calcs = [shared(), shared(threads=1), shared(shared=False)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    calcs.append(shared())
    pids = [pid_of(calc) for calc in calcs]
    assert len(set(pids)) == len(pids)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for calc in calcs:
        calc.close()
    assert all(map(gone, pids))


def test_changed_arguments_lead_to_those_who_have_them(shared: Shared) -> None:
    one, other, third = shared(), shared(threads=1), shared()
    third.close()
    third.set(threads=1)
    first, worker = pid_of(one), pid_of(other)
    one.set(threads=1)
    assert pid_of(one) == worker
    one.set(threads=None)
    assert pid_of(one) != first  # which had no user left
    one.close()
    other.close()
    assert gone(worker)  # a closed one is not opened by a change


def test_another_text_of_an_environment_is_another_worker(make: Make) -> None:
    pids = [pid_of(make(body, shared=True)) for body in ("pass", "pass", "pass  # not the same")]
    assert pids[0] == pids[1] != pids[2]


FORKED = """
import os, sys
from rootstock import RootstockCalculator

def made():
    return RootstockCalculator("emt", root=sys.argv[1], device="cpu", shared=True)

kept = made()
mine = kept.info()["pid"]
reader, writer = os.pipe()
child = os.fork()
if not child:
    one, two = made(), made()
    os.write(writer, repr((one.info()["pid"], two.info()["pid"])).encode())
    one.close()
    two.close()
    os._exit(0)
os.close(writer)
pids = eval(os.read(reader, 2**16))
assert os.waitpid(child, 0)[1] == 0
assert pids[0] == pids[1] != mine == made().info()["pid"], (pids, mine)
print("right")
"""


def test_a_forked_process_has_a_worker_of_its_own(root: Path) -> None:
    assert run(sys.executable, "-c", FORKED, root, cwd=REPOSITORY, check=True).stdout == "right\n"
