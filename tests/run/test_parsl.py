"""Parsl: real executors on this machine, and what becomes of the work when any of their processes is killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import parsl
import psutil
import pytest
from ase import Atoms
from ase.io.extxyz import read_xyz
from parsl.executors.high_throughput.errors import WorkerLost

from rootstock.client.evaluated import FailureClass
from rootstock.errors import ConfigurationError, UnknownEnvironmentError, WorkerError
from rootstock.parsl import config, evaluate
from rootstock.simulations.extxyz import write_extxyz
from rootstock.simulations.parsl_engine.providers import leave_out
from rootstock.simulations.parsl_engine.reasons import as_new
from rootstock.simulations.parsl_engine.retries import cost_of_retry
from rootstock.simulations.runs.folder import RunFolder
from tests.run.conftest import HEADER
from tests.run.programs.parsl_head import compute
from tests.support.commands import DEADLINE_S, clean_environment, started
from tests.support.commands import run as run_program
from tests.support.folders import once_per_run
from tests.support.processes import gone, wait_for, wait_until_gone

pytestmark = pytest.mark.xdist_group("parsl")

# What each structure does is in its info. The folder holds a line for each call, and what structures wait for.
MODEL = (
    HEADER
    + """
class Slow(Calculator):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        Base.calculate(self, atoms, properties, system_changes)
        what, p = atoms.info.get("do", ""), atoms.positions
        chosen = {name: value for name, value in os.environ.items() if name.endswith("VISIBLE_DEVICES")}
        with open(os.path.join(self.folder, "calls"), "a") as file:
            file.write(f"{atoms.info['id']} {os.getpid()} {chosen}" + chr(10))
        if what == "fail":
            raise ValueError("no parameters for this one")
        if what == "crash":
            os._exit(3)
        while what == "wait" and not os.path.exists(os.path.join(self.folder, "go")):
            time.sleep(0.01)
        self.results = {"energy": p[0, 0] * 3.0, "forces": -0.5 * p, "stress": np.zeros(6)}


def setup(model, device="cpu", folder=""):
    calc = Slow()
    calc.folder = folder
    return calc
"""
)


@pytest.fixture(scope="session")
def slow_root(personal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with the model ``slow``, for which uv makes an environment."""

    def make(folder: Path) -> None:
        (folder / "rootstock.toml").write_text('layout = 1\ncluster = "local"\n')
        (folder / "environments").mkdir()
        (folder / "environments" / "slow.py").write_text(MODEL)
        (folder / "cache").symlink_to(personal / "cache")

    return once_per_run(tmp_path_factory, "parsl-slow", make)


@pytest.fixture(autouse=True)
def job_with_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "7")


def structures(number: int, **do: list[int]) -> list[Atoms]:
    made = []
    for index in range(number):
        atoms = Atoms("Cu2", np.random.default_rng(index).random((2, 3)))
        atoms.info |= {"id": index, "do": next((what for what, those in do.items() if index in those), "-")}
        made.append(atoms)
    return made


def calls(folder: Path) -> list[tuple[int, int, str]]:
    lines = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    return [(int(index), int(pid), chosen) for index, pid, chosen in (line.split(" ", 2) for line in lines)]


def descendants(name: str, of: int | None = None) -> list[psutil.Process]:
    """Return processes that this one, or another, has started, by something in their command."""
    found = []
    for process in psutil.process_iter():
        try:
            inside = str(process.environ().get("ROOTSTOCK_TEST_PARSL")) == str(of or os.getpid())
            if inside and name in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Mark all that the test starts, and see that it ends."""
    monkeypatch.setenv("ROOTSTOCK_TEST_PARSL", str(os.getpid()))
    yield
    mine = os.getpid()
    wait_for(
        lambda: not [each for each in descendants("") if each.pid != mine], "the end of all that was started", 60.0
    )
    assert not interchanges()


def managers() -> list[psutil.Process]:
    return [
        each
        for each in descendants("-m parsl.executors.high_throughput.process_worker_pool")
        if "block import" not in " ".join(each.cmdline())
    ]


def interchanges() -> list[psutil.Process]:
    """Return those of this process; their titles take the place of what their commands and variables were."""
    return [each for each in psutil.Process().children() if "HTEX interchange" in " ".join(each.cmdline())]


def parsl_worker_of(model: int) -> psutil.Process:
    """Return the worker of Parsl's that has started a model."""
    process = psutil.Process(model)
    while "spawn_main" not in " ".join(process.cmdline()):
        process = process.parent() or pytest.fail("no worker")
    return process


# -- structures of a Python program


def test_structures_as_futures(slow_root: Path, tmp_path: Path) -> None:
    """They are right and in order; each worker of Parsl's has one model and one GPU; also after one was killed."""
    images = structures(100, fail=[7])
    arguments: dict[str, Any] = {
        "model": "slow", "root": slow_root, "device": "cuda", "setup_kwargs": {"folder": str(tmp_path)}
    }  # fmt: skip
    settled = config(root=slow_root, gpus=2, run_dir=tmp_path / "parsl")
    [executor] = settled.executors
    executor.heartbeat_period, executor.heartbeat_threshold = 2, 8  # type: ignore[attr-defined]
    with parsl.load(settled):
        futures = [evaluate(atoms, **arguments) for atoms in images]
        for atoms in images:
            atoms.positions += 1.0  # what becomes of them later does not matter
        energies = [3 * (atoms.positions[0, 0] - 1.0) for atoms in images]
        check(futures, energies)
        models = Counter((pid, chosen) for _, pid, chosen in calls(tmp_path))
        assert sorted(chosen for _, chosen in models) == [f"{{'CUDA_VISIBLE_DEVICES': 'GPU-{name}'}}" for name in "ab"]
        with pytest.raises(UnknownEnvironmentError):
            evaluate(images[0], **{**arguments, "model": "none"})
        assert evaluate(images[0], **arguments).result().index == 100
        # Parsl itself never gets over this one.
        idle = [parsl_worker_of(pid) for pid, _ in models]
        assert len(set(idle)) == 2
        for worker in idle:
            worker.kill()
        again = [evaluate(atoms, **arguments) for atoms in structures(30)]
        check(again, energies[:30], failed=())
        dependent = parsl.python_app(twice)(again[0])
        assert dependent.result() == 2 * energies[0]
        unasked = [evaluate(atoms, **arguments) for atoms in structures(3)]
    check(unasked, energies[:3], failed=())  # the end of Parsl has waited for them
    wait_until_gone(*{pid for _, pid, _ in calls(tmp_path)})  # what watches a model may be last to notice


def twice(evaluated: Any) -> float:
    return float(2 * evaluated.results["energy"])


def check(futures: list[Any], energies: list[float], failed: tuple[int, ...] = (7,)) -> None:
    for index, (future, energy) in enumerate(zip(futures, energies, strict=True)):
        each = future.result(DEADLINE_S)
        if index in failed:
            assert each.failure is FailureClass.STRUCTURE and "no parameters for this one" in str(each.error)
        else:
            assert each.error is None, each.error
            assert each.results["energy"] == pytest.approx(energy, abs=1e-12) == each.atoms.get_potential_energy()


def test_parsl_must_be_loaded_and_arguments_right(slow_root: Path) -> None:
    with pytest.raises(ConfigurationError, match="Parsl is not loaded"):
        evaluate(structures(1)[0], model="slow", root=slow_root)
    with pytest.raises(TypeError, match="no argument 'modle'"):
        evaluate(structures(1)[0], modle="slow", root=slow_root)
    with pytest.raises(ConfigurationError, match="gpus is 0"):
        config(root=slow_root, gpus=0)


# -- run folders


class Run:
    """A run folder, and what the test does while it is computed."""

    def __init__(self, root: Path, folder: Path, images: list[Atoms]) -> None:
        self.root, self.folder = root, folder
        self.recorded: list[int] = []
        self.warned: list[str] = []
        write_extxyz(folder / "in.extxyz", images)
        self.number = len(images)

    def compute(self, meanwhile: Callable[[], object] = lambda: None, **told: Any) -> bool:
        done: Future[object] = Future()

        def do() -> None:
            try:
                done.set_result(meanwhile())
            except BaseException as error:  # noqa: BLE001
                self.go()
                done.set_exception(error)

        threading.Thread(target=do, daemon=True).start()
        try:
            return compute(self.root, self.folder, recorded=self.recorded.extend, warn=self.warned.append, **told)
        finally:
            done.result(DEADLINE_S)

    def waiting(self, number: int) -> list[int]:
        """Wait until so many models compute, and return their processes, those that began last first."""
        wait_for(lambda: len({pid for _, pid, _ in calls(self.folder) if not gone(pid)}) >= number, "models")
        return [*dict.fromkeys(pid for _, pid, _ in reversed(calls(self.folder)) if not gone(pid))]

    def go(self) -> None:
        (self.folder / "go").touch()

    def check(self, failed: tuple[int, ...] = ()) -> None:
        run = RunFolder.open(self.folder / "run")
        found = {}
        for index, frame in run.frames():
            [atoms] = read_xyz(io.StringIO(frame.decode()), slice(None))
            assert atoms.info["id"] == index and index not in found
            assert atoms.get_potential_energy() == pytest.approx(3 * atoms.positions[0, 0], abs=1e-12)
            found[index] = atoms
        assert sorted(found) == [index for index in range(self.number) if index not in failed]
        assert [each["index"] for each in run.failures()] == [*failed]
        assert not len(run.missing())


def test_a_run_goes_on_when_workers_and_managers_are_killed(slow_root: Path, tmp_path: Path) -> None:
    run = Run(slow_root, tmp_path, structures(200, fail=[11], crash=[60], wait=[5, 150]))

    def kill() -> None:
        busy_one, _ = map(parsl_worker_of, run.waiting(2))
        busy_one.kill()
        wait_for(lambda: any("loss of worker" in text for text in run.warned), "the loss of a worker")
        [manager] = managers()
        manager.kill()
        wait_until_gone(manager.pid)
        run.go()

    assert run.compute(kill)
    run.check(failed=(11, 60))
    assert set(run.recorded) == {*range(200)} and len(run.recorded) == 200
    assert RunFolder.open(tmp_path / "run").progress().twice == 0
    for lost in ("worker", "manager"):
        assert any(f"loss of {lost}" in text for text in run.warned), run.warned
    assert not (tmp_path / "run" / "engine").exists()


def test_a_head_is_killed_and_an_interchange(slow_root: Path, tmp_path: Path) -> None:
    """The next head goes on with what is recorded; nothing waits for ever."""
    run = Run(slow_root, tmp_path, structures(60, wait=[20, 40]))
    command = [sys.executable, Path(__file__).parent / "programs" / "parsl_head.py", slow_root, tmp_path]
    first = subprocess.Popen(command, env={**clean_environment(), "PYTHONPATH": os.pathsep.join(sys.path)})
    [_, *_] = run.waiting(2)
    wait_for(lambda: len(RunFolder.open(tmp_path / "run").missing()) < 60, "something recorded")
    first.kill()
    first.wait()

    def kill() -> None:
        before = {pid for _, pid, _ in calls(tmp_path)}
        wait_for(lambda: {pid for _, pid, _ in calls(tmp_path)} - before, "a model of the next head's")
        [interchange] = interchanges()
        interchange.kill()

    with pytest.raises(WorkerError, match="interchange, through which all tasks go, has ended") as caught:
        run.compute(kill)
    assert "Type the same command again" in caught.value.hint
    run.go()
    assert run.compute()
    run.check()


def test_tasks_of_somebody_elses_fail_with_the_interchange(slow_root: Path, tmp_path: Path) -> None:
    """Such as quacc's: they end while all of them are given up."""
    settled = config(root=slow_root, gpus=2, run_dir=tmp_path / "parsl")
    with parsl.load(settled):
        nap = parsl.python_app(slept)
        assert nap(0.0).result(DEADLINE_S) == 0.0
        futures = [nap(DEADLINE_S) for _ in range(4)]
        ours = [evaluate(atoms, model="slow", root=slow_root) for atoms in structures(4)]
        [interchange] = interchanges()
        interchange.kill()
        for future in futures:
            with pytest.raises(WorkerError, match="interchange, through which all tasks go, has ended"):
                future.result(DEADLINE_S)
        errors = [each.result(DEADLINE_S).error for each in ours]
        for error in errors * 2:  # each time the same is told, and no more
            with pytest.raises(WorkerError, match="interchange, through which all tasks go, has ended") as caught:
                raise as_new(error)
            assert len(traceback.format_exception(caught.value)) <= 4 and "Type" not in caught.value.hint
        assert len({id(error) for error in errors}) == 4 and {str(error) for error in errors} == {str(caught.value)}


# What a user may write. It begins with what is given on the command line: the model's root and folder, and Parsl's.
PROGRAM = """
import os, signal, sys, time
import parsl
from ase.build import bulk
from rootstock.parsl import config, evaluate

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
    root, folder, cluster, number = sys.argv[1:5]
    where = {"cluster": cluster, "account": "chem"} if cluster else {"root": root}
    settled = config(gpus=2, run_dir=folder + "/parsl", **where)

    def start():
        atoms = bulk("Cu")
        atoms.info |= {"id": 0, "do": "wait"}
        asked = {"model": "slow", "root": root, "device": "cuda", "setup_kwargs": {"folder": folder}}
        return [evaluate(atoms, **asked) for _ in range(int(number))]

"""
WITH = """
    with parsl.load(settled):
        futures = start()
    for future in futures:
        future.result()
"""
LOADED = """
    parsl.load(settled)
    futures = start()
    while not os.path.exists(folder + "/end"):
        time.sleep(0.05)
"""
REFUSES = """echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2; exit 1"""


def program(folder: Path, root: Path, text: str, cluster: str = "", number: int = 50) -> list[str | Path]:
    """Return the command of a program of a user's."""
    (folder / "program.py").write_text(PROGRAM + text)
    return [sys.executable, folder / "program.py", root, folder, cluster, str(number)]


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **says: str) -> None:
    """Put fakes of a batch system's programs before all others."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in says.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.mark.usefixtures("clusters")
def test_a_program_is_told_once_that_its_jobs_are_refused(
    slow_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, sbatch=REFUSES, squeue="", scancel="")
    done = run_program(*program(tmp_path, slow_root, WITH, "shared", 1000), env=marked(), timeout=100)
    said = done.stderr[done.stderr.index("Traceback") :]
    assert done.returncode == 1 and len(said.splitlines()) <= 8, said
    assert said.count("Traceback") == said.count("Invalid partition name specified") == 1
    assert "rootstock.errors.SchedulerError: Slurm has not taken the job: " in said
    assert "config(partition=..., account=..., walltime=..." in said and "--" not in said


def marked(**more: str) -> dict[str, str]:
    """Return the environment of programs that the end of the test looks for."""
    return clean_environment(ROOTSTOCK_TEST_PARSL=os.environ["ROOTSTOCK_TEST_PARSL"], **more)


NOTES = {
    "sbatch": 'echo "sbatch $$" >>"$NOTES"; echo "Submitted batch job $$"',
    "squeue": "sed -n 's/^sbatch \\(.*\\)/\\1 R/p' \"$NOTES\"",
    "scancel": 'echo "scancel $*" >>"$NOTES"',
}


@pytest.mark.usefixtures("clusters")
@pytest.mark.parametrize(
    ("text", "by", "code", "tracebacks"),
    [
        (WITH, signal.SIGINT, -signal.SIGINT, 1),
        (WITH, signal.SIGTERM, 128 + signal.SIGTERM, 0),
        (f"{LOADED}    raise ValueError\n", None, 1, 1),
        (f"{LOADED}    sys.exit(3)\n", None, 3, 0),
    ],
    ids=["interrupt", "terminate", "exception", "exit"],
)
def test_jobs_end_with_the_program(
    slow_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, by: int | None, code: int,
    tracebacks: int,
) -> None:  # fmt: skip
    programs(tmp_path, monkeypatch, **NOTES)
    notes = tmp_path / "notes"
    notes.touch()
    with started(program(tmp_path, slow_root, text, "shared"), env=marked(NOTES=str(notes))) as running:
        wait_for(lambda: notes.read_text().count("sbatch") == 2, "two jobs")
        jobs = [line.split()[1] for line in notes.read_text().splitlines() if line.startswith("sbatch")]
        (tmp_path / "end").touch()
        if by is not None:
            running.send_signal(by)
        begun = time.monotonic()
        _, said = running.communicate(timeout=DEADLINE_S)
    assert time.monotonic() - begun < 10 and running.returncode == code, said
    assert [line for line in notes.read_text().splitlines() if "scancel" in line] == [f"scancel {' '.join(jobs)}"]
    assert said.count("Traceback") == tracebacks and "Parsl's" not in said and "Exception ignored" not in said, said


def test_workers_of_this_machine_end_with_the_program(slow_root: Path, tmp_path: Path) -> None:
    env = marked(PYTHONPATH=os.pathsep.join(sys.path))
    with started(program(tmp_path, slow_root, WITH), env=env) as running:
        wait_for(lambda: len({pid for _, pid, _ in calls(tmp_path)}) == 2, "two models")
        running.send_signal(signal.SIGINT)
        running.wait(20.0)
        wait_until_gone(*(pid for _, pid, _ in calls(tmp_path)))


def slept(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@pytest.mark.soak
def test_a_stalled_engine_is_ended(slow_root: Path, tmp_path: Path) -> None:
    """Here a node hangs: all of its processes are there, and none does anything."""
    run = Run(slow_root, tmp_path, structures(60, wait=[20, 40]))
    stopped: list[psutil.Process] = []

    def hang() -> None:
        run.waiting(2)
        for each in [*descendants("parsl_engine.block"), *managers()]:
            each.send_signal(signal.SIGSTOP)
            stopped.append(each)

    try:
        with pytest.raises(WorkerError, match="Parsl has stalled: for 60 s"):
            run.compute(hang, stall=60.0)
    finally:
        for each in stopped:
            for process in [*each.children(recursive=True), each]:
                process.kill()
    run.go()
    assert run.compute()
    run.check()


@pytest.mark.soak
def test_signals_end_a_run_and_a_second_one_at_once(slow_root: Path, tmp_path: Path) -> None:
    run = Run(slow_root, tmp_path, structures(60, wait=[40]))
    came: list[int] = []

    def ask() -> None:
        run.waiting(2)
        came.append(1)
        wait_for(lambda: any(text.startswith("Ending: ") for text in run.warned), "its word")
        came.append(2)

    assert not run.compute(ask, signals=lambda: len(came), grace=600.0)
    run.go()
    assert run.compute()
    run.check()


# -- configurations


@pytest.mark.parametrize(
    ("error", "times", "costs"),
    [
        (WorkerLost(0, "node"), 1, 0.01),
        (WorkerLost(0, "node"), 7, 1.0),
        (WorkerError("It is so."), 1, 1.0),
        (ConfigurationError("It is so."), 1, 10.0**6),
    ],
)
def test_what_retries_cost(error: Exception, times: int, costs: float) -> None:
    assert cost_of_retry(error, {"func": twice, "fail_count": times}) == costs  # type: ignore[typeddict-item]


CLUSTERS = """
[clusters.shared]
root = "/software/rootstock"
[clusters.shared.jobs]
scheduler = "slurm"
[clusters.shared.hardware]
accelerator = "cuda"
[clusters.shared.jobs.batch]
cpus-per-gpu = 6
memory-per-gpu = "40G"
partition = "gpu"
account-required = true
interface = "lo"
walltime-max = {"1" = "02:00:00"}
[clusters.whole]
root = "/software/rootstock"
[clusters.whole.jobs]
scheduler = "pbs"
directives = ["-l select={nodes}:system=polaris", "-l place=scatter", "-l filesystems=home:eagle"]
[clusters.whole.hardware]
accelerator = "cuda"
[clusters.whole.jobs.batch]
whole-nodes = true
gpus-per-node = 4
account = "mine"
[clusters.fluxy]
root = "/software/rootstock"
[clusters.fluxy.jobs]
scheduler = "flux"
"""


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a user know some clusters, and Parsl find no command of theirs."""
    (tmp_path / "rootstock").mkdir()
    (tmp_path / "rootstock" / "clusters.toml").write_text(CLUSTERS)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def script_of(provider: Any, folder: Path) -> list[str]:
    """Return the lines of a job script of Parsl's, which a fake takes in place of the scheduler."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, says in (("sbatch", "Submitted batch job 7"), ("qsub", "7.server")):
        (programs / name).write_text(f"#!/bin/sh\nenv >{folder}/environment\necho {says}\n")
        (programs / name).chmod(0o755)
    provider.script_dir = str(folder)
    assert provider.submit("the command", 1) in ("7", "7.server")
    [script] = [each for each in folder.iterdir() if each.name.startswith("parsl") and each.suffix != ".stdout"]
    return script.read_text().splitlines()


@pytest.mark.usefixtures("clusters")
def test_jobs_on_shared_nodes_have_one_gpu_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="Jobs on shared need an account") as caught:
        config("shared", 16)
    assert '[clusters.shared.jobs.batch]\naccount = "NAME"' in caught.value.hint
    made = config("shared", 16, account="chem", options=["--constraint=gpu80"], walltime="90m")
    [executor] = made.executors
    assert (executor.slots, executor.provider.max_blocks, executor.max_workers_per_node) == (16, 16, 1)
    assert executor.address == "127.0.0.1" and not executor.available_accelerators and executor.prefetch_capacity == 0
    assert made.usage_tracking == 0 and made.initialize_logging is False and made.exit_mode == "wait"
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in ("SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_TIMELIMIT", "SQUEUE_STATES"):
        monkeypatch.setenv(name, "other")
    lines = script_of(executor.provider, tmp_path)
    kept = [line for line in (tmp_path / "environment").read_text().splitlines() if line.startswith(("SB", "SQ"))]
    assert kept == ["SBATCH_QOS=other"]  # what no script says may come from there
    assert {
        "#SBATCH --nodes=1", "#SBATCH --time=90", "#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=6",
        "#SBATCH --mem=40960M", "#SBATCH --partition=gpu", "#SBATCH --account=chem", "#SBATCH --constraint=gpu80",
    } <= {*lines}  # fmt: skip
    assert "export ROOTSTOCK_DEADLINE=$(( $(date +%s) + 5400 ))" in lines and lines[-1].strip() == "the command"
    leave_out(executor.provider, ["n1"])
    leave_out(executor.provider, ["n1", "n2"])
    assert executor.provider.scheduler_options.split("\n").count("#SBATCH --exclude=n1,n2") == 1
    with pytest.raises(ConfigurationError, match="--walltime 3h is too long"):
        config("shared", account="chem", walltime="3h")


@pytest.mark.usefixtures("clusters")
def test_jobs_on_whole_nodes_have_all_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    [executor] = config("whole", 6).executors
    assert (executor.slots, executor.provider.max_blocks, executor.max_workers_per_node) == (8, 2, 4)
    lines = script_of(executor.provider, tmp_path)
    assert [line for line in lines if line.startswith("#PBS -l ")] == [
        "#PBS -l walltime=04:00:00", "#PBS -l select=1:system=polaris", "#PBS -l place=scatter",
        "#PBS -l filesystems=home:eagle",
    ]  # fmt: skip
    assert "#PBS -A mine" in lines
    with pytest.raises(ConfigurationError, match="has Flux, for which Parsl's workers cannot be started"):
        config("fluxy", 4)


def test_commands_do_not_depend_on_path(slow_root: Path) -> None:
    [executor] = config(root=slow_root).executors
    assert Path(executor.interchange_launch_cmd[0]).is_absolute()
    words = executor.launch_cmd.split()
    assert Path(words[0]).is_absolute() and "process_worker_pool.py" not in words
    assert executor.launch_cmd.count("{{block_id}}") == 2
