"""Copies of one calculator share one worker in each process, also those that come out of pickles."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.client.sharing import GRACE_S
from tests.run.conftest import Make
from tests.support.commands import REPOSITORY, run
from tests.support.processes import gone, wait_until_gone


def copied(calc: RootstockCalculator) -> RootstockCalculator:
    copy = pickle.loads(pickle.dumps(calc))
    assert isinstance(copy, RootstockCalculator)
    return copy


def pid_of(calc: RootstockCalculator) -> int:
    pid = calc.info()["pid"]
    assert isinstance(pid, int)
    return pid


def task(calc: RootstockCalculator, seed: int) -> tuple[int, int, float]:
    """Compute as a task of a pool does, which was given its own copy."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.calc = calc
    return os.getpid(), pid_of(calc), atoms.get_potential_energy()


def test_copies_out_of_pickles_use_the_originals_worker(emt: RootstockCalculator) -> None:
    first = pid_of(emt)
    pickled = pickle.dumps(emt)
    for _ in range(5):
        again = pickle.loads(pickled)
        assert pid_of(again) == first
        assert pid_of(copied(again)) == first
        again.close()  # the others still use it
    atoms = bulk("Cu", cubic=True)
    atoms.calc = emt
    twin = pickle.loads(pickle.dumps(atoms))
    twin.rattle(0.1)
    assert twin.get_potential_energy() != atoms.get_potential_energy()
    assert twin.calc.results != atoms.calc.results
    assert pid_of(twin.calc) == first


@pytest.mark.parametrize("pool", [ProcessPoolExecutor, ThreadPoolExecutor])
def test_one_worker_in_each_process_of_a_pool(root: Path, pool: Callable[[int], ProcessPoolExecutor]) -> None:
    with RootstockCalculator("emt", root=root, device="cpu") as calc:
        pickled = pickle.dumps(calc)
        with pool(2) as executor:
            done = [executor.submit(unpickled_task, pickled, seed) for seed in range(60)]
            found = [each.result() for each in done]
        workers = {process: {worker for at, worker, _ in found if at == process} for process, _, _ in found}
        assert all(len(each) == 1 for each in workers.values()), workers
        assert len(set().union(*workers.values())) == len(workers)
        assert [energy for _, _, energy in found] == pytest.approx([task(calc, seed)[2] for seed in range(60)])
    wait_until_gone(*set().union(*workers.values()))


def unpickled_task(pickled: bytes, seed: int) -> tuple[int, int, float]:
    return task(pickle.loads(pickled), seed)


def test_a_worker_outlives_the_last_copy_by_a_moment(root: Path) -> None:
    """Else each of a row of tasks would start one."""
    pickled = pickle.dumps(RootstockCalculator("emt", root=root, device="cpu"))
    first = pid_of(pickle.loads(pickled))
    gc.collect()
    assert pid_of(pickle.loads(pickled)) == first
    gc.collect()
    since = time.monotonic()
    wait_until_gone(first)
    assert time.monotonic() - since > GRACE_S / 2  # not at once; later than that by an eighth or two
    again = pickle.loads(pickled)
    assert pid_of(again) != first
    again.close()


def test_the_last_that_is_closed_ends_the_worker_at_once(root: Path) -> None:
    pickled = pickle.dumps(RootstockCalculator("emt", root=root, device="cpu"))
    with pickle.loads(pickled) as one:
        other = pickle.loads(pickled)
        first = pid_of(one)
        assert pid_of(other) == first
    assert not gone(first)
    other.close()
    assert gone(first)
    with one:
        assert pid_of(one) == pid_of(pickle.loads(pickled)) != first


def test_calculators_that_were_made_separately_have_workers_of_their_own(root: Path) -> None:
    made = [RootstockCalculator("emt", root=root, device="cpu") for _ in range(2)]
    copies = [copied(calc) for calc in made]
    assert len({pid_of(calc) for calc in made}) == 2
    assert [pid_of(calc) for calc in copies] == [pid_of(calc) for calc in made]
    copies[0].set(threads=1)  # no longer a copy of the first
    assert pid_of(copies[0]) not in {pid_of(calc) for calc in made}
    assert pid_of(copied(copies[0])) == pid_of(copies[0])
    pids = [pid_of(calc) for calc in (*made, *copies)]
    for calc in (*made, *copies):
        calc.close()
    assert all(map(gone, pids))


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_another_gpu_is_another_worker(root: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "0")
    pickled = pickle.dumps(RootstockCalculator("emt", root=root, device="cpu"))
    first = pickle.loads(pickled)
    monkeypatch.setenv(variable, "1")
    second = pickle.loads(pickled)
    assert pid_of(first) != pid_of(second)
    second.close()
    monkeypatch.setenv(variable, "0")
    assert pid_of(pickle.loads(pickled)) == pid_of(first)
    first.close()


FORKED = """
import os, pickle, sys, threading
from rootstock import RootstockCalculator

pickled = pickle.dumps(RootstockCalculator("emt", root=sys.argv[1], device="cpu"))
copy = pickle.loads(pickled)
mine = copy.info()["pid"]
reader, writer = os.pipe()
child = os.fork()
if not child:
    one, two = pickle.loads(pickled), pickle.loads(pickled)
    pids = one.info()["pid"], two.info()["pid"], copy.info()["pid"]
    names = [thread.name for thread in threading.enumerate()]
    one.close()
    two.close()
    os.write(writer, repr((pids, names)).encode())
    copy.close()
    os._exit(0)
os.close(writer)
pids, names = eval(os.read(reader, 2**16))
assert os.waitpid(child, 0)[1] == 0
assert pids[0] == pids[1] and len({*pids, mine}) == 3, (pids, mine)  # one for copies of its own, one for the inherited
assert names.count("rootstock-sessions") == 1, names
assert copy.info()["pid"] == mine
assert pickle.loads(pickled).info()["pid"] == mine
print("right")
"""


def test_a_forked_process_has_workers_of_its_own(root: Path) -> None:
    assert run(sys.executable, "-c", FORKED, root, cwd=REPOSITORY, check=True).stdout == "right\n"


WITHOUT_THREADS = """
import pickle, sys, threading
from rootstock import RootstockCalculator

pickled = pickle.dumps(RootstockCalculator("emt", root=sys.argv[1], device="cpu"))
threading.stack_size(2**45)
try:
    pickle.loads(pickled)
except RuntimeError as error:
    print(error)
threading.stack_size(0)
copies = pickle.loads(pickled), pickle.loads(pickled)
print([thread.name for thread in threading.enumerate()])
"""


def test_a_thread_that_cannot_start_is_started_for_the_next_copy(root: Path) -> None:
    """Else no worker of this process would end before the process does."""
    out = run(sys.executable, "-c", WITHOUT_THREADS, root, cwd=REPOSITORY, check=True).stdout
    assert out.splitlines() == ["can't start new thread", "['MainThread', 'rootstock-sessions']"]


def test_workers_that_nobody_uses_make_room_for_one_that_starts(make: Make, tmp_path: Path) -> None:
    """On a GPU, the model of the last task may take the memory that the next one needs."""
    setup = """
        import fcntl
        global memory
        memory = open(kwargs["memory"], "w")
        try:
            fcntl.flock(memory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError("CUDA error: out of memory") from None
        return Calculator()
    """
    calc = make(setup=setup, setup_kwargs={"memory": str(tmp_path / "memory")})
    first = copied(calc)
    pid = pid_of(first)
    other = make(setup=setup, setup_kwargs={"memory": str(tmp_path / "memory")})
    with pytest.raises(RuntimeError, match="out of memory"):  # somebody uses it
        other.start()
    assert pid_of(first) == pid
    calc.close()
    del first
    gc.collect()
    assert not gone(pid)
    assert pid_of(other.start()) != pid
    assert gone(pid)
