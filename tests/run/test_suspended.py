"""Jobs that a batch system suspends: time in which the client itself was stopped is no time that it waited."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from ase import Atoms

from rootstock.errors import WorkerTimeoutError
from tests.run.conftest import Make
from tests.support.commands import started
from tests.support.processes import children, wait_for, wait_until_it_waits

TIMEOUT_S = 10.0

CLIENT = """\
import sys
from ase import Atoms
from rootstock import RootstockCalculator

file, root, start_timeout, timeout = sys.argv[1:]
calc = RootstockCalculator(
    environment=file, model="", root=root, device="cpu", start_timeout=float(start_timeout), timeout=float(timeout)
)
print(calc.get_potential_energy(Atoms("H")))
"""
UNTIL_GO = "open({folder!r} + '/inside', 'w').close()\nwhile not os.path.exists({folder!r} + '/go'): time.sleep(0.01)"


def descendants(pid: int) -> list[int]:
    return [each for child in children(pid) for each in (child, *descendants(child))]


@pytest.mark.parametrize("phase", ["evaluation", "start"])
def test_a_suspended_job_goes_on(make: Make, personal: Path, tmp_path: Path, phase: str) -> None:
    waits = UNTIL_GO.format(folder=str(tmp_path))
    if phase == "start":
        make(setup=f"{waits}\nreturn Calculator()")
        limits = (TIMEOUT_S, 600.0)
    else:
        make(waits)
        limits = (600.0, TIMEOUT_S)
    words = [sys.executable, "-c", CLIENT, tmp_path / "misbehaving.py", personal, *map(str, limits)]
    with started(words, stdout=-1) as process:
        wait_for((tmp_path / "inside").exists, "the model")
        wait_until_it_waits(process.pid)
        job = [process.pid, *descendants(process.pid)]
        for pid in job:
            os.kill(pid, signal.SIGSTOP)
        (tmp_path / "go").touch()
        time.sleep(TIMEOUT_S + 1)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(3.0)  # a client whose time is over says so within a second or two
        for pid in job:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        out, err = process.communicate()
    assert (process.returncode, out) == (0, "1.0\n"), err


def test_a_worker_that_alone_is_stopped_is_late(make: Make) -> None:
    calc = make(timeout=2.5)
    atoms = Atoms("H")
    calc.get_potential_energy(atoms)
    os.kill(calc.info()["pid"], signal.SIGSTOP)
    with pytest.raises(WorkerTimeoutError):
        calc.get_potential_energy(Atoms("H2"))
