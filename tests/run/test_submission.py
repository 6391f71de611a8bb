"""Jobs that compute run folders: how a run is divided, what the scheduler is told, and what stands in the folder."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.io import read
from click.testing import CliRunner

from rootstock import Run
from rootstock.cli.user import main as user
from rootstock.config.clusters import Cluster
from rootstock.errors import ConfigurationError
from rootstock.root.holder import Holder
from rootstock.simulations.extxyz import write_extxyz
from rootstock.simulations.runs.elements import Computing
from rootstock.simulations.runs.engine_jobs import note_engine_job
from rootstock.simulations.runs.schedulers import Job, Queue, jobs_named, queues_of
from rootstock.simulations.runs.submissions import BadNode, bad_nodes, note_bad_node, submissions, submitted
from rootstock.simulations.submission.plan import JobPlan, Request, plan_jobs
from tests.support.batch_fakes import batch_fakes, hold, path_with, release
from tests.support.commands import ROOTSTOCK, Done, clean_environment, run, started
from tests.support.processes import wait_for

SHARED = Cluster("hill", {}, scheduler="slurm", accelerator="cuda", gpus_per_node=4, cpus_per_gpu=8)
WHOLE = replace(SHARED, whole_nodes=True)
STRUCTURES = 8


def plan(cluster: Cluster, gpus: int, todo: int | Sequence[int] = 1000, **asked: Any) -> JobPlan:
    return plan_jobs(cluster, Request(gpus, **asked), todo)


@pytest.mark.parametrize(
    ("cluster", "gpus", "todo", "shares", "nodes", "each", "cpus"),
    [
        (SHARED, 16, 1000, 16, 1, 1, 8),
        (SHARED, 1, 1000, 1, 1, 1, 8),
        (SHARED, 16, 3, 3, 1, 1, 8),
        (SHARED, 16, 0, 1, 1, 1, 8),
        (WHOLE, 16, 1000, 4, 1, 4, 32),
        (WHOLE, 6, 1000, 2, 1, 4, 32),
        (WHOLE, 1, 1000, 1, 1, 4, 32),
        (replace(WHOLE, arrays=False), 16, 1000, 4, 4, 4, 32),
        (replace(WHOLE, arrays=False), 4, 1000, 1, 1, 4, 32),
        (replace(SHARED, arrays=False), 16, 1000, 4, 4, 4, 32),
        (replace(SHARED, arrays=False), 2, 1000, 1, 1, 2, 16),
        (replace(WHOLE, scheduler="flux"), 16, 1000, 4, 4, 4, 32),
        (replace(SHARED, gpus_per_node=0), 16, 1000, 16, 1, 1, 8),
    ],
)
def test_how_a_run_is_divided(
    cluster: Cluster, gpus: int, todo: int, shares: int, nodes: int, each: int, cpus: int
) -> None:
    found = plan(cluster, gpus, todo)
    assert (found.shares, found.nodes.number, found.nodes.gpus, found.nodes.cpus) == (shares, nodes, each, cpus)
    assert found.gpus == shares * each and found.hours == 4 * found.gpus


def test_a_plan_in_words() -> None:
    assert str(plan(SHARED, 16)) == "an array of 16 jobs with 1 GPU each, for 04:00:00 at most: 64 GPU hours at most"
    assert str(plan(SHARED, 1, walltime="1h")) == "one job with 1 GPU, for 01:00:00 at most: 1 GPU hour at most"
    assert str(plan(replace(WHOLE, arrays=False), 16, walltime="90m", until_done=3)) == (
        "one job of 4 nodes with 4 GPUs each, for 01:30:00 at most, up to 3 times: 72 GPU hours at most"
    )


@pytest.mark.parametrize(
    ("changes", "asked", "said"),
    [
        ({"scheduler": "none"}, {}, "has no scheduler.*\n.*--workers auto"),
        ({"accelerator": "cpu"}, {}, "has no GPUs.*\n.*--element"),
        ({"whole_nodes": True, "gpus_per_node": 0}, {}, r"how many GPUs(.|\n)*clusters.toml(.|\n)*gpus-per-node = 4"),
        (
            {"account_required": True},
            {},
            r'need an account(.|\n)*--account NAME(.|\n)*\[clusters.hill.jobs.batch\]\naccount = "NAME"',
        ),
        ({"array_max": 10}, {}, "16 jobs are too many for an array on hill, which has 10 at most.\n.*--gpus 10"),
        ({"queued_max": 20}, {"until_done": 2}, "32 jobs are too many: hill takes 20 of a user.*\n.*--gpus 10"),
        ({"walltime_max": {"1": "2h"}}, {"walltime": "3h"}, "too long: a job on hill has 02:00:00 at most"),
        ({}, {"walltime": "30:00"}, "'30:00' is no walltime"),
        ({}, {"gpu_type": "a100"}, "no GPUs called 'a100'; its file names none"),
        ({"scheduler": "pbs"}, {"reservation": "r"}, "--reservation r is for Slurm.*\n.*--partition"),
        ({"scheduler": "flux"}, {"qos": "q"}, "--qos q is for Slurm"),
        ({}, {"options": ("constraint=gpu",)}, "no option of a scheduler"),
        ({}, {"options": ("--comment=a\nb",)}, "no option of a scheduler"),
        ({}, {"options": ("--time=1",)}, "is about time.\n.*--walltime"),
        ({"scheduler": "pbs"}, {"options": ("-l walltime=1:00",)}, "is about time"),
        ({}, {"partition": "main --hold"}, "'main --hold' is no name"),
    ],
)
def test_what_a_cluster_does_not_allow(changes: dict[str, Any], asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan(replace(SHARED, **changes), 16, **asked)
    assert re.search(said, str(caught.value)), caught.value


def test_an_account_may_be_that_of_slurms_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "chem")
    assert plan(replace(SHARED, account_required=True), 16).options == []
    with pytest.raises(ConfigurationError, match="need an account"):
        plan(replace(SHARED, account_required=True, scheduler="pbs"), 16)


def test_what_is_left_is_divided_among_all() -> None:
    """Where one share of eight was lost, eight shares would leave all of it to one."""
    lost = range(3, 1000, 8)
    assert (plan(SHARED, 8, lost).shares, plan(SHARED, 8, 1000).shares) == (7, 8)
    assert plan(WHOLE, 32, lost).shares == 7 and plan(WHOLE, 32, lost).gpus == 28
    assert (plan(SHARED, 8, []).shares, plan(SHARED, 1, lost).shares, plan(SHARED, 8, [5]).shares) == (1, 1, 1)


def test_the_walltime_is_that_of_the_number_of_nodes() -> None:
    cluster = replace(WHOLE, arrays=False, walltime="8h", walltime_max={"1": "2h", "4": "6h", "100": "12h"})
    assert [plan(cluster, 4 * nodes).seconds // 3600 for nodes in (1, 3, 4, 99, 100)] == [2, 2, 6, 6, 8]
    assert plan(replace(cluster, arrays=True), 400).seconds == 7200  # each is a node


def test_options_of_a_scheduler() -> None:
    asked = {"account": "mine", "qos": "fast", "gpu_type": "big", "options": ("--mail-type=END",)}
    types = {"big": "--constraint=gpu80"}
    cluster = replace(SHARED, partition="gpu", account="theirs", batch_options=("--hint=x",), gpu_types=types)
    assert plan(cluster, 1, **asked).options == [
        "--partition=gpu", "--account=mine", "--hint=x", "--constraint=gpu80", "--qos=fast", "--mail-type=END"
    ]  # fmt: skip
    pbs = replace(cluster, scheduler="pbs", batch_options=())
    assert plan(pbs, 1, partition="debug").options == ["-q debug", "-A theirs"]
    flux = replace(pbs, scheduler="flux")
    assert plan(flux, 1).options == ["--queue=gpu", "--bank=theirs"]


def test_the_grace_is_less_than_what_the_scheduler_waits() -> None:
    found = {name: plan(replace(SHARED, scheduler=name), 1).grace for name in ("slurm", "pbs", "flux")}
    assert found == {"slurm": 24, "pbs": 8, "flux": 4}
    assert plan(replace(SHARED, kill_wait=60), 1).grace == 48


# -- as people type it, with stand-ins for PBS and Flux that run the jobs


CLUSTERS = """\
[clusters.local.jobs]
scheduler = "{scheduler}"
[clusters.local.hardware]
accelerator = "cuda"
[clusters.local.jobs.batch]
whole-nodes = true
gpus-per-node = 2
cpus-per-gpu = 1
arrays = {arrays}
walltime = "10m"
"""


class Site:
    """A user at a cluster."""

    def __init__(self, programs: Path, root: Path, here: Path) -> None:
        self.programs, self.here = programs, here
        self.config = programs.parent / "home/.config/rootstock/clusters.toml"
        home = programs.parent / "home"
        (home / ".bash_profile").write_text(f"export PATH={programs}:$PATH\n")  # as a site's profile does
        variables = {"HOME": str(home), "PATH": path_with(programs), "ROOTSTOCK_ROOT": str(root)}
        self.environment = {**clean_environment(**variables), "XDG_CONFIG_HOME": ""}

    def has(self, scheduler: str, *, arrays: bool = True) -> None:
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(CLUSTERS.format(scheduler=scheduler, arrays=str(arrays).lower()))

    def type(self, *words: str, code: int | None = 0) -> Done:
        found = CliRunner().invoke(user, words, prog_name="rootstock", env=self.environment)
        done = Done(words, found.exit_code, found.stdout, found.stderr)
        assert code in (None, done.returncode), done
        return done

    def status(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.type("run", "status", "many.run", "--json").stdout)
        return found

    def wait(self) -> None:
        wait_for(lambda: not any(job["running"] or job["waiting"] for job in self.status()["jobs"]), "the jobs' end")

    def logs(self) -> str:
        return "\n".join(
            path.read_text() for path in sorted(Path("many.run/jobs").glob("*/*")) if path.suffix != ".json"
        )


@pytest.fixture
def login(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    images = [bulk("Cu", cubic=True) for _ in range(STRUCTURES)]
    for k, atoms in enumerate(images):
        atoms.rattle(0.05, seed=k)
    write_extxyz(Path("many.xyz"), images)
    with batch_fakes(tmp_path / "batch") as programs:
        yield Site(programs, root, here)


SUBMIT = ("singlepoint", "emt", "many.xyz", "--run", "many.run", "--gpus", "4")


@pytest.mark.parametrize(
    ("scheduler", "arrays", "said"),
    [
        ("pbs", True, "an array of 2 jobs with 2 GPUs each"),
        ("pbs", False, "one job of 2 nodes with 2 GPUs each"),
        ("flux", True, "one job of 2 nodes with 2 GPUs each"),
    ],
)
def test_a_run_by_jobs(login: Site, scheduler: str, arrays: bool, said: str) -> None:
    login.has(scheduler, arrays=arrays)
    done = login.type(*SUBMIT)
    assert f"{said}, for 00:10:00 at most: 0.7 GPU hours at most" in done.stdout
    assert "rootstock run status many.run --watch" in done.stdout
    login.wait()
    assert login.status()["missing"] == 0, login.logs()
    watched = login.type("run", "status", "many.run", "--watch")
    assert f"{STRUCTURES} of {STRUCTURES} computed, 0 failed" in watched.stdout.splitlines()[-1], login.logs()
    found = login.status()
    assert (found["done"], found["missing"], found["computed_twice"], found["running"]) == (STRUCTURES, 0, 0, [])
    assert [job["shares"] for job in found["jobs"]] == [2], login.logs()
    results = read("many.extxyz", ":")
    assert len(results) == STRUCTURES and all(atoms.calc.results["energy"] for atoms in results)
    again = login.type(*SUBMIT)  # nothing is left to do, so nothing is submitted
    assert "none to compute" in again.stderr and len(submissions(Path("many.run"))) == 1


def test_what_would_be_submitted(login: Site) -> None:
    login.has("pbs")
    done = login.type(*SUBMIT, "--dry-run", "--account", "chem", "--option=-l place=excl", "--until-done", "2")
    assert [*map(str, Path().iterdir())] == ["many.xyz"]
    assert f"many.run: {STRUCTURES} structures (4 atoms each) with emt; {STRUCTURES} to compute\n" in done.stdout
    for line in ("#PBS -J 0-1", "#PBS -A chem", "#PBS -l place=excl", "#PBS -l walltime=00:10:00"):
        assert f"\n{line}\n" in done.stdout
    script = f"{login.here}/many.run/jobs/0001/job.sh"
    assert (
        f"\nqsub {script}\nthen, after the end of the one before: qsub {script}\nNothing was submitted.\n"
        in done.stdout
    )


def test_no_two_submissions_at_once(login: Site) -> None:
    login.has("pbs")
    hold(login.programs)
    first = login.type(*SUBMIT)
    refused = login.type(*SUBMIT, code=11)
    [job] = [each.job for each in submitted(Path("many.run"))]
    assert f"is being computed by {job} (0 running, 2 waiting)" in refused.stderr and str(job) in first.stdout
    assert "rootstock run cancel many.run" in refused.stderr and "--force" in refused.stderr
    forced = login.type("run", "continue", "many.run", "--gpus", "2", "--force")
    assert "one job with 2 GPUs" in forced.stdout
    cancelled = login.type("run", "cancel", "many.run")
    assert cancelled.stdout.count("(0 running, ") == cancelled.stdout.count(" was cancelled\n") == 2
    release(login.programs)
    assert login.type("run", "cancel", "many.run").stdout == "Nothing computes many.run.\n"
    ended = login.type("run", "status", "many.run", "--watch", code=1).stderr
    assert f"Error: Nothing computes many.run any more, and {STRUCTURES} of its structures are missing.\n" in ended
    assert "rootstock run continue many.run --gpus 2\n" in ended  # as it was submitted last


def test_a_copy_of_a_run_has_no_jobs(login: Site) -> None:
    """They compute the first one, also after it was moved."""
    login.has("pbs")
    hold(login.programs)
    login.type(*SUBMIT)
    [job] = [each.job.id for each in submitted(Path("many.run"))]
    shutil.copytree("many.run", "copy.run")
    assert "waiting" not in login.type("run", "status", "copy.run").stdout
    assert login.type("run", "cancel", "copy.run").stdout == "Nothing computes copy.run.\n"
    assert [each["id"] for each in login.status()["jobs"]] == [job]
    login.type("run", "continue", "copy.run", "--gpus", "2")
    [own] = [each.job.id for each in submitted(Path("copy.run"))]
    assert own != job and "was cancelled" in login.type("run", "cancel", "copy.run").stdout
    shutil.rmtree("copy.run")
    Path("many.run").rename("moved.run")
    time.sleep(1.1)  # runs are told apart by when they were made
    login.type("singlepoint", "emt", "many.xyz", "--run", "many.run", "--device", "cpu")  # in its place
    assert f"job {job} of PBS (0 running, 2 waiting) was cancelled" in login.type("run", "cancel", "moved.run").stdout
    release(login.programs)


def test_python_waits_for_jobs(login: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks the scheduler now and then, and takes no answer for none."""
    login.has("pbs")
    hold(login.programs)
    login.type(*SUBMIT)
    monkeypatch.setenv("PATH", login.environment["PATH"])
    run, qstat = Run.open("many.run"), login.programs / "qstat"
    assert run.is_running()
    real = qstat.read_text()
    qstat.write_text(f"#!/bin/sh\necho asked >>asked.txt\n{real}")
    with pytest.raises(TimeoutError):
        run.wait(timeout=2)
    assert Path("asked.txt").read_text().count("asked") <= 2
    qstat.write_text("#!/bin/sh\nexit 1\n")
    assert run.is_running()
    qstat.write_text(real)
    run.cancel()
    assert not run.is_running() and run.wait()["missing"] == STRUCTURES
    release(login.programs)


def test_until_done(login: Site) -> None:
    """The second array finds nothing to do, and ends at once."""
    login.has("pbs")
    done = login.type(*SUBMIT, "--until-done", "2")
    first, second = [each.job.id for each in submitted(Path("many.run"))]
    assert done.stdout.splitlines()[1] == f"job {second} of PBS waits for the end of the one before" and first != second
    login.wait()
    assert login.status()["missing"] == 0 and login.status()["computed_twice"] == 0
    assert login.logs().count("none to compute") == 2, login.logs()


def test_a_command_that_ends_between_submitting_and_noting(login: Site) -> None:
    """Its job is found by its name."""
    login.has("pbs")
    hold(login.programs)
    login.type(*SUBMIT)
    record = Path("many.run/jobs/0001/submission.json")
    before = json.loads(record.read_text())
    record.write_text(json.dumps(before | {"ids": []}))
    assert [job["id"] for job in login.status()["jobs"]] == before["ids"]
    assert "is being computed by job" in login.type(*SUBMIT, code=11).stderr
    login.type("run", "cancel", "many.run")
    assert login.status()["jobs"] == []
    release(login.programs)


@pytest.mark.parametrize("said", ["echo Thanks", "kill -9 $$", "echo Socket timed out >&2; exit 1"])
def test_a_scheduler_of_which_nobody_knows_what_it_has_taken(login: Site, said: str) -> None:
    """What may be in the queue is looked for there by its name, and nothing more is submitted while nobody answers."""
    login.has("pbs")
    hold(login.programs)
    qsub = login.programs / "qsub"
    real = qsub.read_text()
    qsub.with_name("real").write_text(real)
    qsub.with_name("real").chmod(0o755)
    qsub.write_text(f'#!/bin/sh\nreal "$@" >/dev/null\n{said}\n')
    done = login.type(*SUBMIT, code=23)
    assert "so nobody can tell whether it has taken" in done.stderr and "rootstock run cancel many.run" in done.stderr
    qsub.write_text(real)
    [job] = [each["id"] for each in login.status()["jobs"]]
    assert f"is being computed by job {job} of PBS (0 running, 2 waiting)" in login.type(*SUBMIT, code=11).stderr
    selects = login.programs / "qselect"
    answers = selects.read_text()
    selects.write_text("#!/bin/sh\necho 'qselect: cannot connect to server' >&2\nexit 1\n")
    [name] = [each.name for each in submissions(Path("many.run"))]
    refused = login.type(*SUBMIT, code=11).stderr
    assert f"computed by job named {name} of PBS (nobody here can tell whether it runs)" in refused
    assert f"job named {name}: nobody here can tell" in login.type("run", "status", "many.run").stdout
    assert "was not cancelled" in login.type("run", "cancel", "many.run", code=None).stdout
    selects.write_text(answers)
    login.type("run", "cancel", "many.run")
    assert login.status()["jobs"] == []
    release(login.programs)


def test_a_scheduler_whose_number_stands_among_other_lines(login: Site) -> None:
    login.has("pbs")
    qsub = login.programs / "qsub"
    (login.programs / "real").write_text(qsub.read_text())
    (login.programs / "real").chmod(0o755)
    qsub.write_text('#!/bin/sh\necho Welcome\nreal "$@"\necho Your project has 12 hours left\n')
    login.type(*SUBMIT)
    assert len(submissions(Path("many.run"))[0].ids) == 1
    login.wait()
    assert login.status()["missing"] == 0


def test_variables_of_slurm_do_not_outrank_what_is_asked_for(login: Site) -> None:
    login.has("slurm")
    for name, answer in (("sbatch", "env >sbatch.txt; echo 12"), ("squeue", "env >squeue.txt; echo 12_0 RUNNING"),
                         ("scancel", "env >scancel.txt")):  # fmt: skip
        (login.programs / name).write_text(f"#!/bin/sh\n{answer}\n")
        (login.programs / name).chmod(0o755)
    names = ("ACCOUNT", "ARRAY_INX", "JOB_NAME", "PARTITION", "QOS", "TIMELIMIT", "WAIT")
    login.environment |= {f"SBATCH_{name}": "1" for name in names}
    login.environment |= {"SQUEUE_STATES": "SUSPENDED", "SCANCEL_INTERACTIVE": "1", "SLURM_CONF": "/here"}
    login.type(*SUBMIT, "--partition", "gpu", "--option=-q fast")
    login.type("run", "cancel", "many.run")
    found = {name: Path(f"{name}.txt").read_text() for name in ("sbatch", "squeue", "scancel")}
    assert re.findall("^SBATCH_.*", found["sbatch"], re.M) == ["SBATCH_ACCOUNT=1"]
    assert all("SQUEUE_" not in text and "SCANCEL_" not in text for text in found.values())
    assert all("SLURM_CONF=/here" in text for text in found.values())


def test_the_file_for_results_is_that_of_the_last_command(login: Site) -> None:
    login.has("pbs")
    hold(login.programs)
    login.type(*SUBMIT, "--out", "first.extxyz")
    login.type("run", "cancel", "many.run")
    for words in (SUBMIT, ("run", "continue", "many.run", "--gpus", "4")):
        Path("second.extxyz").write_text("of somebody else")
        assert "exists" in login.type(*words, "--out", "second.extxyz", code=3).stderr
        done = login.type(*words, "--out", "second.extxyz", "--overwrite")
        assert "Results go to second.extxyz" in done.stdout
        if words is SUBMIT:
            login.type("run", "cancel", "many.run")
    release(login.programs)
    login.wait()
    assert len(read("second.extxyz", ":")) == STRUCTURES and not Path("first.extxyz").exists(), login.logs()


def test_a_watch_ends_after_the_results_are_written(login: Site) -> None:
    login.has("pbs")
    login.type(*SUBMIT)
    login.wait()
    Path("many.extxyz").unlink()
    [job] = submissions(Path("many.run"))[0].ids
    row = f"{job.replace('[]', '[0]')} n a 0 R q"
    qstat = login.programs / "qstat"
    qstat.write_text(f"#!/bin/sh\nif [ -e asked ]; then touch many.extxyz; exit; fi; touch asked; echo '{row}'\n")
    watched = login.type("run", "status", "many.run", "--watch")
    assert len(watched.stdout.splitlines()) == 2 and Path("many.extxyz").exists()
    qstat.write_text("#!/bin/sh\n")
    Path("many.extxyz").unlink()  # as where the disk was full, or somebody else had it
    said = login.type("run", "status", "many.run", "--watch", code=1).stderr
    assert "nothing has written" in said and "rootstock run export many.run many.extxyz" in said
    assert "not written; write them:" in login.type("run", "status", "many.run").stdout


def test_a_dry_run_writes_nothing_where_nothing_is_left_to_do(login: Site) -> None:
    login.has("pbs")
    login.type(*SUBMIT)
    login.wait()
    Path("many.extxyz").unlink()
    for words in (SUBMIT, ("run", "continue", "many.run", "--gpus", "4")):
        done = login.type(*words, "--dry-run")
        assert "; 0 to compute\n" in done.stdout and done.stdout.endswith("\nNothing was submitted.\n")
        assert "#PBS" not in done.stdout and not Path("many.extxyz").exists()


def test_a_scheduler_that_takes_nothing(login: Site) -> None:
    login.has("pbs")
    refused = login.type(*SUBMIT, "--option=--nonsense", code=23)
    assert "\nError: PBS has not taken the job: qsub: " in refused.stderr and "--dry-run" in refused.stderr
    assert not submissions(Path("many.run")) and not [*Path("many.run/jobs").iterdir()]
    login.environment["PATH"] = os.environ["PATH"]
    assert "There is no qsub here" in login.type(*SUBMIT, code=23).stderr
    assert login.status()["jobs"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--walltime", "1h"), "--walltime is for --gpus only."),
        (("--force",), "--force is for --gpus only; existing files are replaced by --overwrite."),
        (("--gpus", "2", "--workers", "2"), "--workers is for this node"),
        (("--gpus", "2", "--element", "1/2"), "--element is for one of several processes"),
        (("--gpus", "2", "--limit", "3"), "--limit is for --workers only."),
        (("--dry-run",), "--dry-run is for --workers and --gpus only."),
        (("--gpus", "2", "--device", "cpu"), "--gpus asks for GPUs, and the device is 'cpu'."),
        (("--gpus", "2", "--engine", "parsl", "--until-done", "2"), "--until-done is for --engine array"),
        (("--gpus", "2", "--device", "cuda:1"), "device='cuda:1' is one GPU"),
        (("--gpus", "2", "--run", "a b"), "Schedulers do not take this path"),
        (("--gpus", "2", "--run", "a:b"), "Schedulers do not take this path"),
    ],
)
def test_wrong_words(login: Site, words: tuple[str, ...], said: str) -> None:
    login.has("pbs")
    done = login.type("singlepoint", "emt", "many.xyz", *words, code=3)
    assert said in done.stderr and [each.name for each in Path().iterdir()] == ["many.xyz"]


def test_what_is_not_as_somebody_would_expect(login: Site) -> None:
    login.has("pbs")
    done = login.type(*SUBMIT[:-1], "1000", "--threads", "4", "--dry-run")
    assert f"Note: {2 * STRUCTURES} GPUs compute, not 1000: with more, the largest share would be" in done.stderr
    assert "Note: each worker computes with 4 threads on 1 processor (jobs.batch.cpus-per-gpu)." in done.stderr
    assert "Note: jobs get whole nodes here, so 4 GPUs compute." in login.type(*SUBMIT[:-1], "3", "--dry-run").stderr
    assert "Note" not in login.type(*SUBMIT, "--threads", "1", "--dry-run").stderr


def test_a_share_of_a_job_ends_with_0(login: Site) -> None:
    """Launchers may end all processes of a job when one ends otherwise."""
    images = [bulk("Cu", cubic=True), bulk("Li", cubic=True)]
    write_extxyz(Path("two.xyz"), images)
    login.type("singlepoint", "emt", "two.xyz", "--run", "two", "--device", "cpu", "--element", "1/2", code=None)
    share = ("run", "continue", "two", "--device", "cpu", "--element", "2/2")
    assert "1 of 2 structures failed" in login.type(*share, code=22).stderr
    assert "1 of 2 structures failed" in login.type(*share, "--exit-zero").stderr
    assert "is no share of a run" in login.type(*share[:-1], "3/2", "--exit-zero").stderr


def test_parsl_that_is_not_installed(login: Site, tmp_path: Path) -> None:
    """It is missed before anything is written."""
    login.has("pbs")
    (tmp_path / "parsl.py").write_text("raise ModuleNotFoundError('no parsl here')\n")
    variables = {**login.environment, "PYTHONPATH": str(tmp_path)}
    done = run(ROOTSTOCK, *SUBMIT, "--engine", "parsl", env=variables)
    assert (done.returncode, "client.extras=parsl" in done.stderr) == (3, True), done.stderr
    assert not Path("many.run").exists()


def test_what_parsl_would_submit(login: Site) -> None:
    login.has("pbs")
    done = login.type(*SUBMIT, "--engine", "parsl", "--account", "chem", "--dry-run")
    assert "by Parsl, from this process: 2 jobs with 2 GPUs each, for 00:10:00 at most" in done.stdout
    assert "\n  #PBS -l select=1:ncpus=2:ngpus=2\n  #PBS -A chem\nNothing was submitted.\n" in done.stdout


def test_jobs_of_parsl_that_are_refused(login: Site) -> None:
    """It is told at once, in the scheduler's words."""
    login.has("pbs")
    (login.programs / "qsub").write_text("#!/bin/sh\necho asked >>asked.txt\necho qsub: Bad account >&2\nexit 1\n")
    done = run(ROOTSTOCK, *SUBMIT, "--engine", "parsl", env=login.environment)
    assert (done.returncode, "Error: PBS has not taken the job: qsub: Bad account\n" in done.stderr) == (23, True), done
    assert Path("asked.txt").read_text() == "asked\n"


def test_settings_that_cannot_be_read_are_missed(login: Site) -> None:
    """Jobs would go without the account that they name."""
    login.has("pbs")
    login.config.write_text(login.config.read_text().replace("[clusters.local.jobs]", "[clusters.local.jobs"))
    refused = login.type(*SUBMIT, code=3)
    assert f"{login.config} is not valid TOML" in refused.stderr and "jobs would go without" in refused.stderr
    assert not Path("many.run").exists()


def test_records_of_lost_nodes(login: Site) -> None:
    """What has certainly ended is no obstacle; where nobody can tell, --force says so."""
    login.has("pbs")
    hold(login.programs)
    login.type(*SUBMIT)
    login.type("run", "cancel", "many.run")
    release(login.programs)
    lost = Computing("rootstock run continue", "ann", "lost-node", 7, number=1, of=2, job=Job("pbs", "1.server"))
    record = Path("many.run/computing-1-of-2.json")
    record.write_text(replace(lost, job=None).to_json())
    refused = login.type("run", "continue", "many.run", "--gpus", "4", code=11)
    assert "is being computed by ann on lost-node" in refused.stderr and "--force" in refused.stderr
    record.write_text(lost.to_json())  # PBS knows no such job any more
    # Only this node can tell that a process of its own has ended: to jobs it would look as if it computed.
    here = replace(Computing.of_this_process("rootstock run continue"), start="another boot 5")
    Path("many.run/computing-1-of-1.json").write_text(here.to_json())
    submitted = login.type("run", "continue", "many.run", "--gpus", "4")
    assert "many.run: 8 structures with emt; 8 to compute\n" in submitted.stderr
    login.wait()
    assert login.status()["missing"] == 0, login.logs()


def test_jobs_that_end_with_an_error(login: Site) -> None:
    """It is told where people look."""
    login.has("pbs")
    hold(login.programs)
    login.type(*SUBMIT)
    Path("many.extxyz").write_text("somebody else's")
    release(login.programs)
    login.wait()
    shown = login.type("run", "status", "many.run").stdout
    assert "  no process computes it\n    2 jobs said: Error: " in shown and "many.extxyz exists" in shown
    assert "\n    Logs of the jobs: many.run/jobs/0001\n" in shown
    watched = login.type("run", "status", "many.run", "--watch", code=1).stderr
    assert (
        "\n2 jobs said: Error: " in watched and "if you used them): rootstock run continue many.run --gpus" in watched
    )
    Path("many.extxyz").unlink()
    here = login.type("run", "continue", "many.run", "--device", "cpu")
    assert f"Note: this computes here, on {platform.node()}. By jobs as before: rootstock run continue" in here.stderr


def test_jobs_that_try_again_what_failed_are_waited_for(login: Site) -> None:
    """All is computed before they begin."""
    login.has("pbs")
    write_extxyz(Path("many.xyz"), [bulk("Cu", cubic=True), bulk("Li", cubic=True)])
    login.type(*SUBMIT, "--device", "cuda")
    login.wait()
    assert (login.status()["missing"], login.status()["failed"]["structure"]) == (0, 1)
    hold(login.programs)
    login.type("run", "retry-failed", "many.run", "--gpus", "2")
    command = [ROOTSTOCK, "run", "status", "many.run", "--watch"]
    with started(command, env=login.environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE) as watch:
        assert watch.stdout is not None and "1 waiting" in watch.stdout.readline()
        release(login.programs)
        assert watch.wait(60) == 0
    assert not any(job["waiting"] or job["running"] for job in login.status()["jobs"])


def test_jobs_of_a_parsl_that_was_killed(login: Site) -> None:
    """Whoever asks sees them, and can end them."""
    login.has("pbs")
    hold(login.programs)
    login.type(*SUBMIT)
    [job] = [each.job for each in submitted(Path("many.run"))]
    shutil.rmtree("many.run/jobs")
    (folder := Path("many.run/engine/000")).mkdir(parents=True)
    note_engine_job(folder, job)
    assert "  1 job of Parsl: 0 running, 2 waiting\n" in login.type("run", "status", "many.run").stdout
    refused = login.type("run", "continue", "many.run", "--gpus", "2", code=11).stderr
    assert f"many.run is being computed by {job} (0 running, 2 waiting), of Parsl." in refused
    shutil.copytree("many.run", "copy.run")
    assert login.type("run", "cancel", "copy.run").stdout == "Nothing computes copy.run.\n"
    assert login.type("run", "cancel", "many.run").stdout == f"{job} was cancelled\n"
    assert login.status()["engine_jobs"] == []
    release(login.programs)


def test_nodes_on_which_workers_were_given_up(login: Site, tmp_path: Path) -> None:
    login.has("flux")
    done = login.type(*SUBMIT, "--dry-run")
    assert "--requires" not in done.stdout
    hold(login.programs)
    login.type(*SUBMIT)
    login.type("run", "cancel", "many.run")
    folder = Path("many.run")
    note_bad_node(folder, "n3.site", {"GPU 1": "lost"})
    note_bad_node(folder, "../n4", {"GPU 1": "lost"})
    assert [(node.host, node.places) for node in bad_nodes(folder)] == [("n3.site", {"GPU 1": "lost"})]
    shutil.copy(folder / "node-n3.site.json", folder / "node-other.json")  # of which nobody knows who wrote it
    assert [node.host for node in bad_nodes(folder)] == ["n3.site"]
    assert login.status()["bad_nodes"][0]["host"] == "n3.site"
    note_bad_node(folder, "n3.site", {"GPU 0": "no memory"})  # by another job
    shown = login.type("run", "status", "many.run").stdout
    assert "on n3.site workers were given up, and" in shown and "GPU 0: no memory; GPU 1: lost" in shown
    refused = login.type(*SUBMIT, "--option=--nonsense", code=23).stderr
    assert "were not to run on n3" in refused and "remove from many.run: node-n3.site.json" in refused
    done = login.type(*SUBMIT, "--dry-run")
    assert "flux batch '--requires=not host:n3' " in done.stdout and "Note: not on n3" in done.stderr
    login.has("pbs")
    assert "no option against a node" in login.type(*SUBMIT, "--dry-run").stderr
    release(login.programs)
    assert BadNode("a", {}).host == "a"


def test_queues(login: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """All jobs of one batch system are asked about at once; arrays count by their tasks."""
    answers = {
        "squeue": "12_0 RUNNING None\\n12_1 PENDING Priority\\n12_2 COMPLETING None\\n12_3 PENDING Priority\\n"
        "12_4 PENDING ReqNodeNotAvail, Reserved for maintenance\\n13 COMPLETED None\\n15_4 PENDING None\\n",
        "qstat": "Job id  Name  User  Time Use S Queue\\n---- --- --- --- - ---\\n"
        "7[].server n a 0 B q\\n7[0].server n a 0 R q\\n7[1].server n a 0 Q q\\n7[2].server n a 0 X q\\n",
        "flux": "ƒ8TR RUN\\nƒ9 INACTIVE\\nƒ7 SCHED\\n",
    }
    for name, text in answers.items():
        program = login.programs / name
        program.write_text(f"#!/bin/sh\nprintf '{text}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", path_with(login.programs))
    jobs = [
        *(Job("slurm", number) for number in ("12", "13", "14", "15")), Job("pbs", "7[].server"),
        *(Job("flux", number) for number in ("f8TR", "ƒ9", "f7")), Job("none", "1"),
    ]  # fmt: skip
    assert str(Queue(5, 3, "Priority", 1)) == "4 running, 3 waiting (Priority), 1 ending"
    assert [*queues_of(jobs).values()] == [
        Queue(2, 3, "Priority; ReqNodeNotAvail, Reserved for maintenance", 1), Queue(0, 0), Queue(0, 0), Queue(0, 1),
        Queue(1, 1), Queue(1, 0), Queue(0, 0), Queue(0, 1), None,
    ]  # fmt: skip
    (login.programs / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    assert queues_of([Job("slurm", "12")]) == {Job("slurm", "12"): None} and jobs_named("slurm", "rs-1") is None
    (login.programs / "qstat").write_text("#!/bin/sh\necho 'qstat: line 3: python: command not found' >&2; exit 127\n")
    assert queues_of([Job("pbs", "7.server")]) == {Job("pbs", "7.server"): None}


def test_what_waits_is_kept_off_a_node(login: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's list of nodes is replaced, so that what it has before counts on."""
    monkeypatch.setenv("PATH", path_with(login.programs))
    for name, answer in (("squeue", "printf 'no:n[4-5]\\nno:\\n'"), ("scontrol", 'echo "$*" >>updates.txt')):
        (login.programs / name).write_text(f"#!/bin/sh\n{answer}\n")
        (login.programs / name).chmod(0o755)
    Job("slurm", "12").keep_off(["n3", "n1"])
    (login.programs / "squeue").write_text("#!/bin/sh\n")  # nothing waits
    for job in (Job("slurm", "13"), Job("pbs", "7"), Job("flux", "f7")):
        job.keep_off(["n1"])
    assert Path("updates.txt").read_text() == "update JobId=12 ExcNodeList=n1,n3,n[4-5]\n"


def test_the_whole_of_a_task() -> None:
    tasks = (("slurm", "12_3"), ("pbs", "12[3].s"), ("pbs", "12.s"), ("flux", "ƒ1"))
    assert [Job(*each).whole.id for each in tasks] == ["12", "12[].s", "12.s", "ƒ1"]
    assert Holder.of_this_process("").pid == os.getpid()
