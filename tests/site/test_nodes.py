"""A cluster of three nodes: that it behaves as one, and runs that its jobs compute while nodes and processes die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import iread

from rootstock.simulations.extxyz import write_extxyz
from tests.conftest import run_slurm
from tests.support.commands import Done, run
from tests.support.environment_files import header
from tests.support.folders import open_to_readers
from tests.support.processes import wait_for, wait_until_gone
from tests.support.slurm import GPUS, UID, Process, Slurm

pytestmark = pytest.mark.xdist_group("nodes")

STAY = "#!/bin/bash\nhostname\necho $CUDA_VISIBLE_DEVICES $SLURM_RESTART_COUNT\nsleep 1000 & wait\n"

# Each of its processes computes as many structures as the file says, and then waits at a gate until that says more.
# Those are few: of a worker that has computed more parts, one that takes a minute counts as hung.
GATED = """
import os
import socket
import time
from pathlib import Path

from ase.calculators.calculator import Calculator, all_changes

GATE = Path(os.environ["HOME"]) / "gate"
ME = f"{socket.gethostname()}.{os.getpid()}.{Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19]}"


def allowed():
    try:
        return int((GATE / "allowed").read_text())
    except FileNotFoundError:  # where the model is installed
        return 1


class Gated(Calculator):
    implemented_properties = ["energy", "forces"]
    computed = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
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


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    yield from run_slurm(tmp_path_factory, nodes=3, timeout_s=60, kill_wait_s=300)


@pytest.fixture(scope="module")
def root(site, like_root, tmp_path_factory):
    """Return a root for jobs of Slurm, with a model that has a gate."""
    base = tmp_path_factory.mktemp("nodes")
    open_to_readers(base)
    (base / "gated.py").write_text(header() + GATED)
    settings = (
        "jobs.scheduler=slurm", "hardware.accelerator=cuda", "jobs.batch.gpus-per-node=2", "jobs.batch.cpus-per-gpu=1",
        "jobs.batch.walltime=00:10:00", "jobs.batch.kill-wait=300",
    )  # fmt: skip
    options = [word for setting in settings for word in ("--set", setting)]
    site("install", "--cluster", "local", "--root", base / "root", "--env", base / "gated.py", *like_root, *options)
    return base / "root"


# -- the cluster itself


def test_each_node_is_a_machine_of_its_own(slurm):
    assert slurm.nodes() == {"n1": "idle", "n2": "idle", "n3": "idle"}
    assert sorted(slurm.run("srun", "--nodes=3", "hostname").split()) == ["n1", "n2", "n3"]
    for node in slurm.names:
        assert slurm.on(node, "hostname").strip() == node
        slurm.on(node, "touch", f"/dev/shm/{node}", str(slurm.state / "local" / node))
        assert slurm.on(node, "ls", "/dev/shm", str(slurm.state / "local")).split().count(node) == 2
        assert slurm.on(node, "sh", "-c", "echo $$").strip() != str(os.getpid())
    assert "n2" not in slurm.on("n1", "ls", "/dev/shm", str(slurm.state / "local")).split()


@pytest.mark.nodes
def test_a_job_of_a_node_that_dies_begins_again_on_another(slurm):
    number = slurm.submit(STAY, "--gres=gpu:1")
    wait_for(lambda: slurm.processes("sleep", node="n1"), "the job")
    [sleeper] = slurm.processes("sleep", node="n1")
    assert (sleeper.variables["SLURM_JOB_ID"], sleeper.variables["CUDA_VISIBLE_DEVICES"]) == (number, "0")
    slurm.kill_node("n1")
    wait_until_gone(sleeper.pid)
    assert slurm.processes(node="n1") == []
    wait_for(lambda: slurm.nodes()["n1"].startswith("down"), "Slurm, which finds out by and by")
    wait_for(lambda: slurm.output(number).split() == ["n2", "0", "1"], "the job's second begin")
    slurm.revive_node("n1")
    assert slurm.nodes()["n1"] == "idle"
    slurm.run("scancel", number)
    assert slurm.wait(number) == "CANCELLED"
    wait_for(lambda: not slurm.processes("sleep", node="n2"), "the end of the job's processes")


def test_two_jobs_of_a_node_have_a_gpu_each(slurm):
    numbers = [slurm.submit(STAY, "--gres=gpu:1", "--nodelist=n3") for _ in range(2)]
    wait_for(lambda: len(slurm.processes("sleep", node="n3")) == 2, "both jobs")
    jobs = {each.variables["SLURM_JOB_ID"]: each for each in slurm.processes("sleep", node="n3")}
    assert sorted(jobs) == sorted(numbers)
    assert sorted(each.variables["CUDA_VISIBLE_DEVICES"] for each in jobs.values()) == ["0", "1"]
    os.kill(jobs[numbers[0]].pid, signal.SIGKILL)
    assert slurm.wait(numbers[0]) == "COMPLETED"  # a shell waits, and does not mind
    slurm.clear()


# -- runs


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
        [program] = self.root.glob("client/*/bin/rootstock")
        variables = self.slurm.variables | {"ROOTSTOCK_ROOT": str(self.root)}
        return run(*self.slurm.enter, "env", "-C", self.slurm.home, program, *words, env=variables, check=check)

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

    def allow(self, number: int) -> None:
        gate = self.slurm.home / "gate"
        gate.mkdir(exist_ok=True)
        os.chown(gate, UID, UID)
        (gate / "new").write_text(str(number))
        (gate / "new").replace(gate / "allowed")

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


def tasks(workers: dict[tuple[str, str], Process]) -> set[str]:
    return {each.variables["SLURM_ARRAY_TASK_ID"] for each in workers.values()}


def logs(folder: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(folder.glob("jobs/*/*.out")))


@pytest.fixture(scope="module")
def person(slurm, root):
    return Person(slurm, root)


@pytest.fixture
def seen(slurm, person) -> Iterator[Seen]:
    """Look at all processes of jobs again and again, and leave the cluster as it was at the end."""
    seen, end = Seen(), threading.Event()

    def look() -> None:
        while not end.wait(0.1):
            seen.look([each for each in slurm.processes() if "SLURM_JOB_ID" in each.variables])

    thread = threading.Thread(target=look)
    thread.start()
    yield seen
    end.set()
    thread.join()
    person.allow(10**6)
    slurm.clear()
    for node, state in slurm.nodes().items():
        if state not in ("idle", "comp"):
            with contextlib.suppress(KeyError):  # it is dead
                slurm.kill_node(node)
            slurm.revive_node(node)


EVERY = [(node, str(gpu)) for node in ("n1", "n2", "n3") for gpu in range(GPUS)]


@pytest.mark.parametrize("number", [240, pytest.param(2000, marks=pytest.mark.nodes)])
def test_a_run_is_computed_whatever_dies(slurm, person, seen, number):
    """Each structure is computed, once in the results, and no worker comes near the GPU of somebody else."""
    name = f"all-{number}"
    person.write_structures(f"{name}.xyz", number)
    person.allow(1)
    foreign = slurm.submit(STAY, "--gres=gpu:1", "--nodelist=n1")
    wait_for(lambda: slurm.processes("sleep"), "somebody else's job")
    [theirs] = {each.variables["CUDA_VISIBLE_DEVICES"] for each in slurm.processes("sleep")}
    ours = [slot for slot in EVERY if slot != ("n1", theirs)]

    person("singlepoint", "gated", f"{name}.xyz", "--run", name, "--gpus", "5")
    before = person.wait_for_workers(*ours)
    assert len(tasks(before)) == 5
    # A worker and a driver are replaced; what a job itself was is not.
    person.kill(before["n2", "0"], "/builds/gated/")
    person.kill(before["n3", "0"], "pool.driver")
    lost = person.kill(before["n2", "1"], "run continue")
    killed = {before[slot].pid for slot in (("n2", "0"), ("n2", "1"), ("n3", "0"))}
    wait_until_gone(*killed)
    left = {*ours} - {("n2", "1")}
    now = person.wait_for_workers(*left)
    assert tasks(now) == tasks(before) - {lost.variables["SLURM_ARRAY_TASK_ID"]}
    assert not killed & {each.pid for each in now.values()} and not seen.slots["n1", theirs]

    # The tasks of a node that dies begin again on others.
    slurm.kill_node("n3")
    slurm.say_down("n3")
    slurm.run("scancel", foreign)
    now = person.wait_for_workers(*EVERY[:4])
    restarts = Counter(each.variables.get("SLURM_RESTART_COUNT", "0") for each in now.values())
    assert restarts == {"0": 2, "1": 2} and tasks(now) == tasks(before) - {lost.variables["SLURM_ARRAY_TASK_ID"]}

    # What was computed stays, when all is cancelled and sent again.
    person.allow(2)
    person.wait_for_workers(*EVERY[:4], at=2)
    said = person("run", "cancel", name).stdout
    assert "was cancelled" in said
    wait_for(lambda: logs(slurm.home / name).count("Ending: what is unfinished is recorded.") == 4, "all to hear of it")
    person.allow(number)
    wait_for(lambda: not slurm.run("squeue", "--noheader") and not slurm.processes(), "the end of all jobs")
    status = person.status(name)
    assert {process["state"] for process in status["running"]} <= {"ended"}  # of the process that was killed
    assert status["done"] >= 4 * 2 and status["missing"] > 0
    person("run", "continue", name, "--gpus", "6")
    wait_for(lambda: not slurm.run("squeue", "--noheader"), "the end of all jobs")
    status = person.status(name)
    assert (status["done"], status["missing"], status["damaged_records"]) == (number, 0, 0), logs(slurm.home / name)
    assert status["failed"] == {"structure": 0, "resource": 0} and status["running"] == []
    person.check_results(f"{name}.extxyz", number)
    assert not seen.faults and {*EVERY} == {*seen.slots}


@pytest.mark.nodes
def test_a_run_is_computed_though_a_node_that_is_given_up_goes_on(slurm, person, seen):
    """Slurm begins its tasks again elsewhere, and what they compute twice is in the results once."""
    person.write_structures("lost.xyz", 120)
    person.allow(1)
    person("singlepoint", "gated", "lost.xyz", "--run", "lost", "--gpus", "3")
    before = person.wait_for_workers(*EVERY[:3])
    assert len(tasks(before)) == 3
    slurm.lose_node("n1")
    slurm.say_down("n1")
    # They find that they are computed, where files are locked for all nodes as here; elsewhere they compute them, too.
    again = ("--noheader", "--array", "--states=RUNNING,PENDING")
    wait_for(lambda: len(slurm.run("squeue", *again).splitlines()) == 1, "the end of those that have begun again")
    assert {*person.workers()} == {*before}
    person.allow(120)
    wait_for(lambda: not slurm.run("squeue", "--noheader") and not slurm.processes(), "the end of all jobs")
    status = person.status("lost")
    assert (status["done"], status["missing"], status["damaged_records"]) == (120, 0, 0), logs(slurm.home / "lost")
    person.check_results("lost.extxyz", 120)
    assert not seen.faults


@pytest.mark.nodes
def test_a_job_computes_on_all_gpus_of_its_node(slurm, person, seen, request):
    """Where jobs get whole nodes: it ends once, though a worker is given up, and goes on where it was cancelled."""
    settings = slurm.home / ".config" / "rootstock" / "clusters.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    request.addfinalizer(settings.unlink)
    settings.write_text("[clusters.local.jobs.batch]\nwhole-nodes = true\n")
    person.write_structures("whole.xyz", 120)
    person.allow(1)
    said = person("singlepoint", "gated", "whole.xyz", "--run", "whole", "--gpus", "5")
    assert "an array of 3 jobs with 2 GPUs each" in said.stdout and "6 GPUs compute" in said.stderr
    before = person.wait_for_workers(*EVERY)
    assert len(tasks(before)) == 3
    person.kill(before["n1", "0"], "/builds/gated/")
    person.kill(before["n2", "0"], "pool.driver")
    wait_until_gone(before["n1", "0"].pid, before["n2", "0"].pid)
    person.wait_for_workers(*EVERY)
    slurm.kill_node("n3")
    slurm.say_down("n3")
    person.wait_for_workers(*EVERY[:4])
    slurm.revive_node("n3")
    now = person.wait_for_workers(*EVERY)
    assert Counter(each.variables.get("SLURM_RESTART_COUNT", "0") for each in now.values()) == {"0": 4, "1": 2}
    person.allow(120)
    wait_for(lambda: not slurm.run("squeue", "--noheader"), "the end of all jobs")
    status = person.status("whole")
    assert (status["done"], status["missing"], status["damaged_records"]) == (120, 0, 0), logs(slurm.home / "whole")
    person.check_results("whole.extxyz", 120)
    assert not seen.faults
