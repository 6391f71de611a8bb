"""Signals to a whole job (scancel, a shell's process group): the worker goes on until its client has finished."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from ase import Atoms

from rootstock import RootstockCalculator
from rootstock.client.handshake import wait_until_ready
from rootstock.client.process import WorkerProcess
from rootstock.worker.signals import OF_A_JOB
from tests.run.conftest import Make, start_of
from tests.support.commands import run
from tests.support.processes import children


def send_all(pid: int) -> None:
    """Send the signals of a job to a process and all that it has started."""
    for each in (pid, *children(pid)):
        for number in OF_A_JOB:
            os.kill(each, number)


def test_a_worker_goes_on(make: Make, root: Path) -> None:
    """One that uv started, with uv, and one of a build."""
    built = RootstockCalculator("lj", root=root, device="cpu")
    with built, make() as of_uv:
        for calc in (built, of_uv):
            atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 4]])
            energy = calc.get_potential_energy(atoms)
            worker = calc._session.connection()
            send_all(worker.pid)
            atoms.positions[1, 2] = 5
            calc.get_potential_energy(atoms)
            atoms.positions[1, 2] = 4
            assert calc.get_potential_energy(atoms) == energy
            assert calc._session.connection() is worker


@pytest.mark.parametrize("mode", ["uv-run", "build"])
def test_a_worker_goes_on_from_its_first_moment(make: Make, root: Path, mode: str) -> None:
    calc = make() if mode == "uv-run" else RootstockCalculator("lj", root=root, device="cpu")
    launch, setup = start_of(calc)
    assert launch.mode == mode
    process = WorkerProcess(launch)
    process.start()
    try:
        send_all(process.pid)  # the interpreter takes longer to start
        assert wait_until_ready(process, setup, 600.0, None)["properties"]
    finally:
        process.end(0.0)


CHILDREN = """\
import multiprocessing, signal, subprocess
codes = []
for number in sorted({signals}):
    program = subprocess.Popen(["sleep", "1000"])
    program.send_signal(number)
    codes.append(program.wait())
    program = subprocess.Popen(["sleep", "1000"], preexec_fn=int)  # no shell: one that waits takes SIGINT later
    program.send_signal(number)
    codes.append(program.wait())
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    forked.start()
    os.kill(forked.pid, number)  # at once
    forked.join()
    codes.append(forked.exitcode)
    os.kill(os.getpid(), number)  # and after a fork the worker is as it was
self.results["energy"] = float(sum(codes))
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
"""


def test_children_of_a_model_end_as_by_default(make: Make) -> None:
    calc = make(CHILDREN.replace("{signals}", str({int(number) for number in OF_A_JOB})))
    assert calc.get_potential_energy(Atoms("H")) == -3.0 * sum(OF_A_JOB)


def test_a_client_is_as_before(make: Make) -> None:
    """No signal stays blocked in the thread that starts a worker, nor in what it starts afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        make().start()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


NOHUP = """\
import sys
from ase import Atoms
from rootstock import RootstockCalculator

with RootstockCalculator("lj", root=sys.argv[1], device="cpu") as calc:
    calc.get_potential_energy(Atoms("Ar"))
    with open(f"/proc/{calc.info()['pid']}/status") as file:
        print(*(int(line.split()[1], 16) for line in file if line.startswith(("SigIgn", "SigBlk"))))
"""


@pytest.mark.parametrize("ignored", [set(), {signal.SIGHUP}, {signal.SIGHUP, signal.SIGINT}])
def test_what_was_ignored_from_the_start_stays_ignored(root: Path, ignored: set[signal.Signals]) -> None:
    trap = " ".join(["trap ''", *(number.name[3:] for number in ignored), ";"]) if ignored else ""
    done = run("sh", "-c", f'{trap} exec "$0" -c "$1" "$2"', sys.executable, NOHUP, root, check=True)
    blocked, ignores = map(int, done.stdout.split())
    assert not blocked
    assert {number for number in OF_A_JOB if ignores >> (number - 1) & 1} == ignored
