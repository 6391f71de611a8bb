"""Jobs of an ordinary user on a real Slurm: the module, a worker, a GPU's number, and the end of a cancelled job."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from tests.conftest import run_slurm
from tests.support.control_groups import control_group
from tests.support.environment_files import header
from tests.support.folders import open_to_readers
from tests.support.needs import need
from tests.support.processes import processes_at, wait_for, wait_until_none_at
from tests.support.slurm import GROUP_PREFIX, UID
from tests.support.tiny_root import write_wheel

pytestmark = pytest.mark.xdist_group("slurm")

COMPUTE = """\
import os, sys
from ase.build import bulk
from rootstock import RootstockCalculator

def workers():
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    return [open(f"/proc/{pid}/environ").read().split(chr(0)) for pid in children]

with RootstockCalculator("emt", device="cpu") as calculator:
    print("energy", calculator.get_property("energy", bulk("Cu")))
    print("user", os.getuid(), "writes", os.access(os.environ["ROOTSTOCK_ROOT"], os.W_OK))
    for variables in workers():
        print("worker", *sorted(v for v in variables if v.startswith(("CUDA_VISIBLE", "OMP_NUM"))), flush=True)
    while "stay" in sys.argv:
        calculator.get_property("energy", bulk("Cu", a=3.6))
        calculator.get_property("energy", bulk("Cu", a=3.7))
"""

NEEDS_GPU = """\
import torch

def setup(model, device="cuda"):
    raise NotImplementedError
"""

ASK_FOR_GPU = """\
from ase.build import bulk
from rootstock import RootstockCalculator
from rootstock.errors import DeviceError

atoms = bulk("Cu")
atoms.calc = RootstockCalculator("needs_gpu")
try:
    atoms.get_potential_energy()
except DeviceError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def slurm(slurm_cluster):
    (slurm_cluster.home / "compute.py").write_text(COMPUTE)
    (slurm_cluster.home / "ask_for_gpu.py").write_text(ASK_FOR_GPU)
    return slurm_cluster


@pytest.fixture(scope="module")
def slurm_with_groups(tmp_path_factory):
    """Return a cluster that finds a job's processes by their control group, as most sites' do."""
    with control_group("freezer", f"{GROUP_PREFIX}n") as group:
        yield from run_slurm(tmp_path_factory, group)


def job(init: str, root: Path, *arguments: str) -> str:
    """Return a job script as a user writes it."""
    command = " ".join(["python", "compute.py", *arguments])
    return f"#!/bin/bash\n{init}\nmodule use {root}/modulefiles\nmodule load rootstock || exit\n{command}\n"


def energy_of_copper():
    copper = bulk("Cu")
    copper.calc = EMT()
    return copper.get_potential_energy()


def test_a_user_loads_the_module_and_computes(slurm, modules, root):
    for program in re.findall(r"/\S+modulecmd.tcl", modules.init):
        open_to_readers(Path(program).parent)
    number = slurm.submit(job(modules.init, root), "--gres=gpu:1", "--cpus-per-task=2")
    assert (slurm.wait(number), slurm.job(number)["UserId"]) == ("COMPLETED", f"reader({UID})"), slurm.output(number)
    energy, user, worker = slurm.output(number).splitlines()
    assert energy == f"energy {energy_of_copper()}"
    assert user == f"user {UID} writes False"
    assert worker.startswith("worker CUDA_VISIBLE_DEVICES=0 OMP_NUM_THREADS=")


def test_each_job_sees_the_gpu_that_it_was_given(slurm, lmod, root):
    first = slurm.submit(job(lmod.init, root, "stay"), "--gres=gpu:1")
    wait_for(lambda: "worker" in slurm.output(first), "the first job's worker")
    second = slurm.submit(job(lmod.init, root), "--gres=gpu:1")
    third = slurm.submit(job(lmod.init, root))
    assert slurm.wait(second) == slurm.wait(third) == "COMPLETED"
    slurm.run("scancel", first)
    assert slurm.wait(first) == "CANCELLED"
    seen = [re.findall(r"CUDA_VISIBLE_DEVICES=\d+", slurm.output(number)) for number in (first, second, third)]
    assert seen == [["CUDA_VISIBLE_DEVICES=0"], ["CUDA_VISIBLE_DEVICES=1"], []]


def test_a_job_without_a_gpu_is_told_at_once(slurm, lmod, site, shared_root, like_root, tmp_path_factory):
    """What was seen, and what to ask for; torch, which takes minutes on a cold file system, was not imported."""
    need(not list(Path("/dev").glob("nvidia[0-9]*")), "a machine without a GPU")
    base = tmp_path_factory.mktemp("gpu")
    open_to_readers(base)
    torch = {"torch/__init__.py": b"raise SystemExit('torch was imported')\n", "torch/version.py": b"cuda = '12.8'\n"}
    wheel = write_wheel(base, "torch", "2.9.0", torch)
    environment = base / "needs_gpu.py"
    sources = ("[tool.uv.sources]", f'torch = {{ path = "{wheel}" }}')
    environment.write_text(header(*sources, dependencies=("ase>=3.23", "torch")) + NEEDS_GPU)
    site("install", "--cluster", "local", "--root", base / "root", "--env", environment, "--no-client", *like_root)
    script = job(lmod.init, shared_root)
    number = slurm.submit(script.replace("python compute.py", f"ROOTSTOCK_ROOT={base}/root python ask_for_gpu.py"))
    assert slurm.wait(number) == "COMPLETED", slurm.output(number)
    said = slurm.output(number)
    assert said.splitlines() == [
        "device='cuda' was asked for, but no GPU is visible: there is no /dev/nvidia[0-9]* "
        f"(node n1, SLURM_JOB_ID={number}, CUDA_VISIBLE_DEVICES not set, no NVIDIA driver).",
        "Ask the batch system for one (Slurm: --gres=gpu:1), or compute on the processor: device='cpu'.",
    ]


@pytest.mark.parametrize("exec_", ["", "exec "], ids=["bash", "exec"])
def test_a_cancelled_job_leaves_no_worker_behind(slurm, lmod, root, exec_):
    script = job(lmod.init, root, "stay").replace("python compute.py", f"{exec_}python compute.py")
    number = slurm.submit(script)
    wait_for(lambda: "worker" in slurm.output(number), "the job's worker")
    assert any("rootstock" in line for line in processes_at(root / "builds" / "emt"))
    slurm.run("scancel", number)
    assert slurm.wait(number) == "CANCELLED"
    wait_until_none_at(root / "builds" / "emt")


@pytest.mark.parametrize("cluster", ["slurm_cluster", "slurm_with_groups"])
@pytest.mark.parametrize(
    ("start", "cancel"),
    [("exec", ()), ("exec srun", ()), ("exec", ("--signal=USR1", "--full")), ("srun", ("--signal=USR1",))],
)
def test_md_ends_after_its_step_when_its_job_is_told_to_end(request, lmod, root, cluster, start, cancel):
    """Slurm's signals reach the worker too, with srun more than once; with control groups only the client gets them.

    scancel also ends the shell of a script. With control groups Slurm then kills what the shell has started, so that
    no srun prints the last words of its step. Hence exec.
    """
    slurm = request.getfixturevalue(cluster)
    name = f"{start.replace(' ', '-')}-{len(cancel)}"
    (bulk("Cu", cubic=True) * 3).write(slurm.home / "start.extxyz")
    files = {each: slurm.home / f"{name}-{each}" for each in ("stats.dat", "restart.json")}
    md = f"{start} rootstock md emt start.extxyz --device cpu --ensemble nve --steps 1000000 --stats-every 1 --seed 1"
    number = slurm.submit(job(lmod.init, root).replace("python compute.py", f"{md} --file-prefix {name}"))
    stats = files["stats.dat"]
    wait_for(lambda: stats.exists() and len(stats.read_text().splitlines()) > 15, "the first steps")
    slurm.run("scancel", *cancel, number)
    slurm.wait(number)
    step = json.loads(files["restart.json"].read_text())["step"]
    assert int(stats.read_text().splitlines()[-1].split()[0]) == step > 0, slurm.output(number)
    assert f"Stopped after step {step}." in slurm.output(number)
