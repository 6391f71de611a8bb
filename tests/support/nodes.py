"""Runs on three nodes of Slurm: a model that waits at a gate, one who computes with it, and what is seen meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import iread

from rootstock.simulations.extxyz import write_extxyz
from tests.support.commands import Done, run
from tests.support.processes import wait_for
from tests.support.slurm import GPUS, UID, Process, Slurm

EVERY = [(node, str(gpu)) for node in ("n1", "n2", "n3") for gpu in range(GPUS)]
STAY = "#!/bin/bash\nhostname\necho $CUDA_VISIBLE_DEVICES $SLURM_RESTART_COUNT\nsleep 1000 & wait\n"

# Each of its processes computes as many structures as a file says, and then waits at a gate until that says more: the
# file of its node and GPU, or the one for all others. Those are few: of a worker that has computed more parts, one that
# takes a minute counts as hung.
GATED = """
import os
import socket
import time
from pathlib import Path

from ase.calculators.calculator import Calculator, all_changes

GATE = Path(os.environ["HOME"]) / "gate"
SLOT = f"{socket.gethostname()}.{os.environ.get('CUDA_VISIBLE_DEVICES')}"
ME = f"{socket.gethostname()}.{os.getpid()}.{Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19]}"


def allowed():
    for name in (f"allowed.{SLOT}", "allowed"):
        try:
            return int((GATE / name).read_text())
        except FileNotFoundError:
            pass
    return 1  # where the model is installed


class Gated(Calculator):
    implemented_properties = ["energy", "forces"]
    computed = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if (GATE / f"broken.{socket.gethostname()}").exists():
            os.kill(os.getpid(), 9)
        if self.computed >= allowed():
            (GATE / f"{ME}.new").write_text(str(self.computed))
            (GATE / f"{ME}.new").replace(GATE / ME)
        while self.computed >= allowed():
            time.sleep(0.02)
        self.computed += 1
        index = round(100 * atoms.positions[0, 0])
        self.results = {"energy": index / 3, "forces": atoms.positions / 3}


def setup(model, device="cuda"):
    return Gated()
"""


@dataclass
class Seen:
    """What was seen of the workers of a run, again and again while it was computed.

    Attributes
    ----------
    slots : Counter
        How often a worker was seen on each GPU of each node.
    faults : list of str
        What must not be.
    """

    slots: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def look(self, processes: list[Process]) -> None:
        by_number = {each.pid: each for each in processes}
        held: dict[tuple[str, str], set[int]] = {}
        for each in processes:
            job, gpus = each.variables.get("SLURM_JOB_ID"), each.variables.get("CUDA_VISIBLE_DEVICES", "")
            given = each.variables.get("SLURM_JOB_GPUS", "").split(",")
            if not {*gpus.split(",")} <= {*given}:
                self.faults.append(f"job {job} has GPUs {given} of {each.node}, and not {gpus}: {each.line}")
            driver = by_number.get(each.parent)
            if is_worker(each) and driver and not is_worker(driver) and driver.parent in by_number:
                held.setdefault((each.node, gpus), set()).add(each.pid)
        self.slots.update(held.keys())
        self.faults += [f"{slot} has workers {workers}" for slot, workers in held.items() if len(workers) > 1]


@dataclass(frozen=True)
class Person:
    """One who computes runs on the cluster."""

    slurm: Slurm
    root: Path

    def __call__(self, *words: str | Path, check: bool = True) -> Done:
        """Run a command of Rootstock where users log in."""
        return run(*self.command(self.program("rootstock"), *words), env=self.variables, check=check)

    def program(self, name: str) -> Path:
        [program] = self.root.glob(f"client/*/bin/{name}")
        return program

    def command(self, *words: str | Path) -> list[str | Path]:
        """Return the command that runs another one where users log in."""
        return [*self.slurm.enter, "env", "-C", self.slurm.home, *words]

    @property
    def variables(self) -> dict[str, str]:
        return self.slurm.variables | {"ROOTSTOCK_ROOT": str(self.root)}

    def status(self, name: str) -> dict:
        return json.loads(self("run", "status", name, "--json").stdout)

    def write_structures(self, name: str, number: int) -> None:
        images = []
        for index in range(number):
            atoms = Atoms(f"Ar{1 + index % 3}", np.arange(3.0 * (1 + index % 3)).reshape(-1, 3) * 2, cell=[9] * 3)
            atoms.positions[0, 0] = index / 100
            atoms.info["id"] = index
            images.append(atoms)
        write_extxyz(self.slurm.home / name, images)

    def check_results(self, name: str, number: int) -> None:
        """See to it that all structures are there, each once and with what was computed of it."""
        found = list(iread(self.slurm.home / name, index=":", format="extxyz"))
        assert sorted(atoms.info["id"] for atoms in found) == list(range(number))
        for atoms in found:
            assert atoms.get_potential_energy() == pytest.approx(atoms.info["id"] / 3)
            assert atoms.get_forces() == pytest.approx(atoms.positions / 3, abs=1e-7)

    # -- the gate

    def allow(self, number: int, *slots: tuple[str, str]) -> None:
        """Let each process of some slots, or of all, compute so many structures."""
        gate = self.slurm.home / "gate"
        gate.mkdir(exist_ok=True)
        os.chown(gate, UID, UID)
        for name in [f"allowed.{node}.{gpu}" for node, gpu in slots] or ["allowed"]:
            (gate / "new").write_text(str(number))
            (gate / "new").replace(gate / name)
        for path in [] if slots else gate.glob("allowed.*"):
            path.unlink()

    def break_node(self, node: str, *, broken: bool = True) -> None:
        """Let every worker of a node die at its next structure."""
        mark = self.slurm.home / "gate" / f"broken.{node}"
        mark.touch() if broken else mark.unlink()

    def workers(self, at: int = 0) -> dict[tuple[str, str], Process]:
        """Return the workers that wait at the gate, by node and GPU, once each has computed so many structures."""
        found = {}
        for each in self.slurm.processes("/builds/gated/"):
            with contextlib.suppress(OSError, ValueError):
                start = Path(f"/proc/{each.pid}/stat").read_text().rpartition(")")[2].split()[19]
                mark = self.slurm.home / "gate" / f"{each.node}.{each.number}.{start}"
                if int(mark.read_text()) >= at:
                    found[each.node, each.variables["CUDA_VISIBLE_DEVICES"]] = each
        return found

    def wait_for_workers(self, *slots: tuple[str, str], at: int = 0) -> dict[tuple[str, str], Process]:
        looks: list[dict[tuple[str, str], Process]] = []

        def there() -> bool:
            looks.append(self.workers(at))
            return {*slots} == {*looks[-1]}

        wait_for(there, f"workers at {slots}")
        return looks[-1]

    def kill(self, process: Process, words: str) -> Process:
        """Kill the process above another one, or itself, whose command line has some words in it; return it."""
        every = {each.pid: each for each in self.slurm.processes()}
        while words not in process.line:
            process = every[process.parent]
        os.kill(process.pid, signal.SIGKILL)
        return process


def is_worker(process: Process) -> bool:
    return "/builds/gated/" in process.line
