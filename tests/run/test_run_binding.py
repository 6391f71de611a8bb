"""What a run folder is bound to, how it is made, and which processes may compute in it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rootstock.errors import ConfigurationError, LockBusyError
from rootstock.root.holder import Holder
from rootstock.simulations.runs.cancel import cancel
from rootstock.simulations.runs.carry_out import carry_out
from rootstock.simulations.runs.elements import Computing, Element, claim_element, claim_out, running
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.making import preparing_run
from rootstock.simulations.runs.records import check_same_model, check_same_run, rebase
from rootstock.simulations.runs.schedulers import Job
from tests.support.run_folders import (
    QuickDisk,
    Structures,
    Trivial,
    exported,
    fill_input,
    forked,
    in_memory,
    new_run,
    record_of,
)

SIZES = (3, 1, 2, 1, 4, 2, 2)


@pytest.fixture(name="tmp_path")
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory."""
    with in_memory(tmp_path) as folder:
        yield folder


@pytest.fixture(autouse=True)
def outside_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "PBS_", "FLUX_")):
            monkeypatch.delenv(name)


# -- making and opening


def test_a_run_is_gone_on_with_by_the_same_settings_only(tmp_path: Path) -> None:
    path = tmp_path / "run"
    same = {"kind": "relax", "model": "lj", "settings": {"fmax": 0.1, "mask": [1, 0]}, "setup_kwargs": {}}
    made = new_run(path, SIZES, **same)
    assert RunFolder.open(path).record == made.record
    check_same_run(path, made.record, {**same, "settings": {"fmax": 0.1, "mask": (1, 0)}})
    others: list[tuple[dict[str, Any], str]] = [
        ({"settings": {"fmax": 0.05, "mask": [1, 0]}}, "settings.fmax is 0.1 there, and 0.05 now"),
        ({"settings": {"fmax": 0.1, "mask": [1]}}, r"settings.mask is \[1, 0\] there, and \[1\] now"),
        ({"settings": {**same["settings"], "cell": "full"}}, 'settings.cell is null there, and "full" now'),  # type: ignore[dict-item]
        ({"kind": "singlepoint"}, 'kind is "relax" there, and "singlepoint" now'),
        ({"model": "chgnet"}, 'model is "lj" there, and "chgnet" now'),
        ({"setup_kwargs": {"dtype": "float32"}}, 'setup_kwargs.dtype is null there, and "float32" now'),
    ]
    for changes, message in others:
        with pytest.raises(ConfigurationError, match=f"run holds another run: {message}") as caught:
            check_same_run(path, made.record, {**same, **changes})
        assert f"--run; or go on with what the folder holds: rootstock run continue {path}" in caught.value.hint
    with pytest.raises(ConfigurationError, match="holds a run that another process has just made"):
        RunFolder.create(path, record_of(SIZES))
    assert RunFolder.open(path).record == made.record


def test_folders_that_hold_no_run(tmp_path: Path) -> None:
    for name in ("part-0123456789abcdef.extxyz", "mine.txt"):  # the first: somebody has lost a run.json
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        (folder / name).write_text("mine")
        fill_input(folder, SIZES)
        before = sorted(os.listdir(folder))
        with pytest.raises(ConfigurationError, match=f"holds other files, such as {name}"):
            RunFolder.create(folder, record_of(SIZES))
        with pytest.raises(ConfigurationError, match=f"holds other files, such as {name}"), preparing_run(folder):
            pass
        assert sorted(os.listdir(folder)) == before
        with pytest.raises(ConfigurationError, match="holds no run: it has no run.json"):
            RunFolder.open(folder)
    with pytest.raises(ConfigurationError, match="is not there"):
        RunFolder.open(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="is not a folder"):
        RunFolder.open(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="is not a folder"), preparing_run(tmp_path / "file"):
        pass
    with pytest.raises(ConfigurationError, match="mkdir -p"), preparing_run(tmp_path / "none" / "run"):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ("[]", "it must be an object"),
        ("{}", "it has no 'kind'"),
        ('{"structures": "many"}', "it has no 'kind'"),
        ({"structures": "many"}, "structures must be a whole number, not 'many'"),
        ({"structures": -1}, "structures must be a number from 0"),
        ({"structures": 10**18}, "structures must be a number from 0"),
        ({"structures": 2**31}, "it is about 7 structures, and run.json about 2147483648"),
        ({"structures": 6}, "it is about 7 structures"),
        ({"kind": "phonons"}, "kind must be one of singlepoint, relax, md, not 'phonons'"),
        ({"format": 2}, "this version knows format 1, not 2"),
        ({"settings": []}, "settings must be an object"),
        ({"weights": [5]}, r"weights\[0\] must be an object"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_damaged_run_json_is_one_error(tmp_path: Path, content: Any, message: str) -> None:
    folder = new_run(tmp_path / "run", SIZES)
    if isinstance(content, dict):
        content = json.dumps(asdict(folder.record) | content)
    (folder.path / "run.json").write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        RunFolder.open(folder.path).progress()


@pytest.mark.parametrize("content", [b"", b"PK\3\4", "missing", "compressed", "floats", "objects"])
def test_a_damaged_input_is_one_error(tmp_path: Path, content: bytes | str) -> None:
    folder = new_run(tmp_path / "run", SIZES)
    path = folder.path / "input.npz"
    if content == "missing":
        path.unlink()
    elif content == "compressed":
        np.savez_compressed(path, atoms=np.array(SIZES))
    elif isinstance(content, str):
        np.savez(path, atoms=np.array(SIZES, float if content == "floats" else object))
    else:
        path.write_bytes(content)
    for attempt in (folder.progress, folder.missing):
        with pytest.raises(ConfigurationError, match=f"Cannot read {path}"):
            attempt()


def test_a_creation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        with preparing_run(folder):
            fill_input(folder, SIZES)
            raise ConfigurationError("cannot read big.extxyz")

    for there in (False, True):
        folder = tmp_path / "run"
        if there:
            folder.mkdir()
        with pytest.raises(ConfigurationError, match="big"):
            fail(folder)
        assert not folder.exists()
    folder = new_run(tmp_path / "run", SIZES).path
    before = sorted(os.listdir(folder))
    with pytest.raises(ConfigurationError), preparing_run(folder):
        raise ConfigurationError("another")
    assert sorted(os.listdir(folder)) == before


def killer(lines: int) -> Any:
    """Return a trace function that kills its process after so many lines of the modules that make a run."""
    left = [lines]

    def trace(frame: Any, event: str, argument: object) -> Any:
        ours = frame.f_code.co_filename.endswith(("making.py", "claims.py", "records.py"))
        if not ours and frame.f_code.co_name not in ("write_text", "write_bytes"):
            return None
        if event == "line":
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def test_a_creation_that_is_killed_can_be_begun_again(tmp_path: Path) -> None:
    """Each process is killed one line later, and another one makes or opens the run."""

    def make(path: Path, lines: int) -> None:
        sys.settrace(killer(lines))
        with preparing_run(path):
            fill_input(path, SIZES)
            RunFolder.create(path, record_of(SIZES))

    lines = 0
    while True:
        lines += 1
        path = tmp_path / f"run-{lines}"
        if not (status := forked(lambda: make(path, lines))):  # noqa: B023
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        complete = (path / "run.json").exists()
        if complete:
            assert RunFolder.open(path).missing().size == len(SIZES)
        with preparing_run(path):
            if not complete:
                fill_input(path, SIZES)
                RunFolder.create(path, record_of(SIZES))
        assert RunFolder.open(path).missing().size == len(SIZES)
        assert sorted(os.listdir(path)) == ["input.npz", "run.json"] or complete
    assert lines > 50


# -- the model


INFO = {
    "build": "b" * 64, "environment_sha256": "e" * 64, "rootstock": "1",
    "weights": [{"path": "cache/w.pt", "bytes": 3, "sha256": "c" * 64}],
}  # fmt: skip


def test_another_build_or_other_weights_are_refused_unless_the_run_is_rebased(tmp_path: Path) -> None:
    folder = new_run(tmp_path / "run", SIZES, **INFO)
    elsewhere = {**INFO, "weights": [{"path": "/other/w.pt", "bytes": 3, "sha256": "c" * 64}]}
    check_same_model(folder.path, folder.record, elsewhere)
    for change, message in (
        ({"build": "d" * 64}, f'build was "{"b" * 64}", and is "{"d" * 64}" now'),
        ({"build": None}, 'build was "bbb.*and is "none" now'),
        ({"environment_sha256": "f" * 64}, "environment_sha256 was "),
        ({"weights": [{"path": "w.pt", "sha256": "d" * 64}]}, "weights.w.pt was "),
        ({"weights": None}, "weights.w.pt was .* and is null now"),
    ):
        with pytest.raises(ConfigurationError, match=f"run was begun with another model: {message}") as caught:
            check_same_model(folder.path, folder.record, {**INFO, **change})
        assert f"rootstock run continue --rebase {folder.path}" in caught.value.hint
    new = {**INFO, "build": "d" * 64}
    rebase(folder.path, new)
    again = RunFolder.open(folder.path)
    check_same_model(folder.path, again.record, new)
    [earlier] = again.record.earlier
    assert (earlier["build"], earlier["weights"]) == (INFO["build"], INFO["weights"])
    assert replace(again.record, build=INFO["build"], earlier=[], rootstock="1") == folder.record
    rebase(folder.path, INFO)
    assert [each["build"] for each in RunFolder.open(folder.path).record.earlier] == ["b" * 64, "d" * 64]
    assert sorted(os.listdir(folder.path)) == ["input.npz", "run.json"]


def test_the_model_is_compared_before_anything_is_computed(tmp_path: Path) -> None:
    class Another(Trivial):
        name = "rootstock"
        device = "cpu"

        def info(self) -> dict[str, Any]:
            return {**INFO, "build": "d" * 64, "gpu": None, "device": "cpu"}

    folder, calc = new_run(tmp_path / "run", SIZES, **INFO), Another()
    with pytest.raises(ConfigurationError, match="another model: build was"):
        carry_out(folder, Structures(SIZES), calc)
    assert not calc.computed


# -- elements


def test_elements_share_all_structures_by_size() -> None:
    sizes = np.random.default_rng(0).integers(1, 100, 1000)
    for of in (1, 3, 8):
        owned = [Element(number, of).owned(sizes) for number in range(1, of + 1)]
        assert sorted(np.concatenate(owned).tolist()) == list(range(1000))
        assert all((np.diff(sizes[each]) >= 0).all() for each in owned)
        atoms = [int(sizes[each].sum()) for each in owned]
        assert max(atoms) - min(atoms) <= 100
    assert Element.parse("2/8") == Element(2, 8) and str(Element(2, 8)) == "2/8"
    for text in ("0/2", "3/2", "2", "2/", "a/b", "-1/2", "1/10000000", "1/0", "٢/8"):
        with pytest.raises(ConfigurationError, match="is no share of a run"):
            Element.parse(text)


def hold(folder: Path, element: str, said: Connection) -> None:
    """Have an element of a run until the other end of a pipe says so."""
    try:
        with RunFolder.open(folder).recorder(Element.parse(element)):
            said.send("holds")
            said.recv()
    except LockBusyError as error:
        said.send(str(error))
        sys.exit(error.exit_code)


@contextlib.contextmanager
def started(folder: Path, element: str) -> Iterator[tuple[BaseProcess, str]]:
    """Start a process that takes an element of a run; yield it with what it says."""
    context = multiprocessing.get_context("fork")  # which has all modules already
    ours, its = context.Pipe()
    process = context.Process(target=hold, args=(folder, element, its))
    process.start()
    with ours, its:
        try:
            yield process, ours.recv()
        finally:
            ours.send("end")
            process.join()


@contextlib.contextmanager
def computing(folder: Path, element: str = "1/1") -> Iterator[BaseProcess]:
    """Start a process that has an element of a run."""
    with started(folder, element) as (process, said):
        assert said == "holds"
        yield process


def try_to_compute(folder: Path, element: str) -> tuple[int | None, str]:
    with started(folder, element) as (process, said):
        pass
    return process.exitcode, said


def test_one_process_computes_an_element(tmp_path: Path) -> None:
    folder = new_run(tmp_path / "a run", SIZES)
    with computing(folder.path, "2/3") as first, computing(folder.path, "1/3"):
        for element in ("2/3", "1/1", "1/4"):  # of another number, elements overlap
            code, said = try_to_compute(folder.path, element)
            assert code == 11
            assert f"{folder.path} is being computed by {Holder('').user} on {os.uname().nodename} (process " in said
            assert f"(process {first.pid}, since 20" in said or element != "2/3"
            assert (
                f"Wait until it ends, or end it: rootstock run cancel '{folder.path}'" in said and "rm -f" not in said
            )
        assert try_to_compute(folder.path, "3/3") == (0, "holds")
        assert [(str(each.element), each.state) for each in running(folder.path)] == [
            ("1/3", "running"), ("2/3", "running")
        ]  # fmt: skip
        assert not list(folder.path.glob("part-*"))
        first.kill()
        first.join()
        assert [each.state for each in running(folder.path)] == ["running", "ended"]
        assert try_to_compute(folder.path, "2/3") == (0, "holds")  # what was killed leaves nothing that hinders
    assert running(folder.path) == []
    assert sorted(os.listdir(folder.path)) == ["input.npz", "run.json"]


def test_the_indices_of_elements_are_computed_once(tmp_path: Path) -> None:
    folder, computed = new_run(tmp_path / "run", SIZES), []
    for number in (2, 1, 3):
        calc = Trivial()
        carry_out(folder, Structures(SIZES), calc, Element(number, 3), disk=QuickDisk())
        assert set(calc.computed) == {*Element(number, 3).owned(np.array(SIZES)).tolist()}
        computed += calc.computed
    assert sorted(computed) == list(range(len(SIZES))) and len(exported(folder)) == len(SIZES)


def test_cancel_ends_the_processes_of_this_node(tmp_path: Path) -> None:
    folder = new_run(tmp_path / "run", SIZES).path
    with computing(folder, "1/2") as first, computing(folder, "2/2") as second:
        # A later process with the number of one that has ended is not touched.
        record = folder / "computing-2-of-2.json"
        content = json.loads(record.read_text())
        record.write_text(json.dumps({**content, "start": "another boot 5"}))
        [(found, what)] = cancel(folder)
        assert found.process is not None and found.process.pid == first.pid and what.startswith("was sent SIGTERM")
        first.join()
        assert first.exitcode == -signal.SIGTERM and second.exitcode is None


def test_a_copy_of_a_run_is_computed_by_nobody(tmp_path: Path) -> None:
    folder, copy = new_run(tmp_path / "run", SIZES).path, tmp_path / "copy"
    with computing(folder, "1/2") as process:
        shutil.copytree(folder, copy)
        assert [each.runs for each in running(copy)] == [False] and cancel(copy) == []
        with claim_element(copy, Element()):  # an overlapping share
            pass
        [found] = running(folder)
        assert found.runs and process.exitcode is None
        folder.rename(tmp_path / "moved")
        assert [each.runs for each in running(tmp_path / "moved")] == [True]
        (tmp_path / "moved").rename(folder)


def foreign(folder: Path, element: Element = Element(), job: Job | None = None) -> Path:  # noqa: B008
    """Leave the record of a process of another node."""
    process = Computing(
        "rootstock singlepoint", "ann", "lost-node", 7, "2026-01-01", "", element.number, element.of, job
    )
    record = folder / f"computing-{element.number}-of-{element.of}.json"
    record.write_text(process.to_json())
    return record


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of programs, the only one that is searched beside the system's."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f'#!/bin/sh\necho "$0 $*" >> {folder}/asked\n{text}\n')
    (folder / name).chmod(0o755)


TABLE = "Job id            Name   User  Time Use S Queue\n----------------  -----  ----  -------- - -----"
SLURM, PBS, FLUX = Job("slurm", "12_3", "0"), Job("pbs", "12.server"), Job("flux", "ƒ8TR")
BUSY, GONE, NOBODY = "is queued or runs", "is gone", "nobody knows"


@pytest.mark.parametrize(
    ("job", "name", "text", "expected"),
    [
        (SLURM, "squeue", "echo 12_3", BUSY),
        (SLURM, "squeue", "true", GONE),
        (SLURM, "squeue", "echo 112_3", GONE),
        (SLURM, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", GONE),
        (SLURM, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1", NOBODY),
        (SLURM, "nothing", "", NOBODY),
        (PBS, "qstat", f"echo '{TABLE}'; echo '12.server  name  ann  00:00:00 Q small'", BUSY),
        (PBS, "qstat", f"echo '{TABLE}'; echo '12.serv*  name  ann  00:00:00 R small'; exit 1", BUSY),
        (PBS, "qstat", f"echo '{TABLE}'; echo '12.server  name  ann  00:00:00 C small'", GONE),
        (PBS, "qstat", "echo 'qstat: Unknown Job Id 12.server' >&2; exit 153", GONE),
        (PBS, "qstat", "echo 'qstat: 12.server Job has finished, use -x' >&2; exit 35", GONE),
        (PBS, "qstat", "echo 'cannot connect to server' >&2; exit 1", NOBODY),
        (FLUX, "flux", "echo f8TR RUN", BUSY),
        (FLUX, "flux", "echo ƒ8TR INACTIVE", GONE),
        (FLUX, "flux", "exit 1", NOBODY),
        (None, "squeue", "true", NOBODY),
        (Job("slurm", "--help"), "squeue", "true", NOBODY),
        (Job("unknown", "5"), "squeue", "true", NOBODY),
    ],
)
def test_the_batch_system_is_asked_about_other_nodes(
    tmp_path: Path, programs: Path, job: Job | None, name: str, text: str, expected: str
) -> None:
    folder = new_run(tmp_path / "run", SIZES).path
    program(programs, name, text)
    for left, mine in ((Element(), Element()), (Element(2, 4), Element(1, 3)), (Element(2, 4), Element(1, 4))):
        record = foreign(folder, left, job)
        if expected == GONE or (left.of == mine.of and left != mine):
            with claim_element(folder, mine):
                assert [each.state for each in running(folder) if each.element == mine] == ["running"]
        else:
            with (
                pytest.raises(LockBusyError, match="is being computed by ann on lost-node") as caught,
                claim_element(folder, mine),
            ):
                pass
            assert job is None or f", in {job}" in caught.value.message
            if expected == BUSY:
                assert f"end it: rootstock run cancel {folder}" in caught.value.hint
            else:
                assert caught.value.hint.endswith(f"\nrm -f {record}")
            assert record.exists()
        record.unlink(missing_ok=True)
    if job is not None and expected != NOBODY:
        assert set((programs / "asked").read_text().splitlines()) == {
            {"slurm": f"{programs}/squeue -h -r -o %i %T %r -j 12_3", "pbs": f"{programs}/qstat 12.server"}.get(
                job.scheduler, f"{programs}/flux jobs -n --format={{id.f58}} {{state}} ƒ8TR"
            )
        }


@pytest.mark.parametrize(
    ("answer", "restart", "taken"),
    [("true", "0", True), ("echo 12_3", "0", False), ("exit 1", "0", False), ("echo 12_3", "1", True)],
)
def test_a_file_for_results_is_free_once_the_job_that_had_it_is_gone(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, answer: str, restart: str, taken: bool
) -> None:
    program(programs, "squeue", answer)
    left = replace(Computing.of_this_process("rootstock relax"), host="lost-node", user="ann", job=SLURM)
    record = tmp_path / ".relaxed.extxyz.lock"
    record.write_text(left.to_json())
    if restart != "0":  # Slurm has begun it again, here
        said = {"JOB_ID": "15", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "3", "RESTART_COUNT": restart}
        for name, value in said.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
    expected = contextlib.nullcontext() if taken else pytest.raises(LockBusyError, match="ann on lost-node")
    with expected, claim_out(tmp_path / "relaxed.extxyz", "rootstock relax"):
        assert "lost-node" not in record.read_text()
    assert record.exists() != taken


@pytest.mark.parametrize(
    ("variables", "job", "taken"),
    [
        ({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "1"},
         SLURM, True),
        ({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, SLURM, False),
        ({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "4"}, SLURM, False),
        ({"PBS_JOBID": "12.server", "PBS_NODEFILE": "new-node.site\nnew-node\n"}, PBS, True),
        ({"PBS_JOBID": "12.server", "PBS_NODEFILE": "new-node\nlost-node.site\n"}, PBS, False),  # runs on both
        ({"PBS_JOBID": "12.server"}, PBS, False),
        ({"FLUX_JOB_ID": "ƒ8TR"}, FLUX, False),  # which begins no job again
    ],
)  # fmt: skip
def test_a_job_that_was_begun_again_goes_on(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], job: Job, taken: bool
) -> None:
    program(programs, "squeue", "echo 12_3")  # it is this job that runs
    folder = new_run(tmp_path / "run", SIZES).path
    foreign(folder, job=job)
    for name, value in variables.items():
        if name == "PBS_NODEFILE":
            (tmp_path / "nodes").write_text(value)
        monkeypatch.setenv(name, str(tmp_path / "nodes") if name == "PBS_NODEFILE" else value)
    if not taken:
        with pytest.raises(LockBusyError), claim_element(folder, Element()):
            pass
    else:
        with claim_element(folder, Element()):
            [found] = running(folder)
            assert found.process is not None and found.process.job is not None
            assert found.process.job.id == job.id and found.process.pid == os.getpid()
    assert len(running(folder)) == (not taken)


def test_cancel_ends_jobs_of_other_nodes(tmp_path: Path, programs: Path) -> None:
    folder = new_run(tmp_path / "run", SIZES).path
    for name, text in (
        ("squeue", "echo 12_3"),
        ("qstat", f"echo '{TABLE}'; echo '12.server n a 0 R q'"),
        ("flux", "echo ƒ8TR RUN"),
    ):
        program(programs, name, text)
    program(programs, "scancel", "true")
    program(programs, "qdel", "echo 'you may not' >&2; exit 1")
    for number, job in enumerate((SLURM, PBS, FLUX, None), 1):
        foreign(folder, Element(number, 5), job)
    (folder / "computing-5-of-5.json").touch()
    said = [what for _, what in cancel(folder)]
    assert said == [
        "job 12_3 of Slurm was cancelled",
        "job 12.server of PBS was not cancelled: you may not",
        "job ƒ8TR of Flux was cancelled",
        "nothing was done: it runs on lost-node, where this ends it: kill 7",
        f"its record {folder / 'computing-5-of-5.json'} is damaged: nothing was done",
    ]
    assert f"{programs}/scancel 12_3" in (programs / "asked").read_text()
    assert f"{programs}/flux cancel ƒ8TR" in (programs / "asked").read_text()


def test_a_batch_system_is_asked_once_about_all_jobs(tmp_path: Path, programs: Path) -> None:
    folder = new_run(tmp_path / "run", SIZES).path
    program(programs, "squeue", "echo 12_2; echo 12_4; echo 15")
    answer = f"echo '{TABLE}'; echo '7.server n a 0 Q q'; echo 'qstat: Unknown Job Id 8.server' >&2; exit 153"
    program(programs, "qstat", answer)
    jobs = [Job("slurm", f"12_{task}") for task in (1, 2, 3, 4)] + [
        Job("pbs", f"{number}.server") for number in (7, 8, 9)
    ]
    for number, job in enumerate(jobs, 1):
        foreign(folder, Element(number, 7), job)
    assert [found.state for found in running(folder)] == [
        "ended", "running", "ended", "running", "running", "ended", "unknown"
    ]  # fmt: skip
    assert (programs / "asked").read_text().splitlines() == [
        f"{programs}/squeue -h -r -o %i %T %r -j {','.join(job.id for job in jobs[:4])}",
        f"{programs}/qstat 7.server 8.server 9.server",
    ]
    with pytest.raises(LockBusyError), claim_element(folder, Element(1, 3)):
        pass
    assert len((programs / "asked").read_text().splitlines()) == 4


def test_cancel_ends_what_has_not_begun_of_an_array_that_is_this_run(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_run(tmp_path / "run", SIZES).path
    program(programs, "squeue", "echo 12_1; echo 12_2; echo 13_1; echo 14_0")
    program(programs, "scancel", 'test "$1" != 14 || { echo "not yours" >&2; exit 1; }')
    for number, job in enumerate(
        (
            Job("slurm", "12_1", tasks=4), Job("slurm", "12_2", tasks=4),
            Job("slurm", "13_1", tasks=9),  # some of its tasks compute something else
            Job("slurm", "14_0", tasks=4),
        ), 1
    ):  # fmt: skip
        foreign(folder, Element(number, 4), job)
    foreign(folder, Element(), Job("slurm", "15_1", tasks=1))  # has ended
    said = [what for _, what in cancel(folder)]
    assert said == [
        "job 12 of Slurm was cancelled, with its tasks that have not begun",
        "job 12 of Slurm was cancelled, with its tasks that have not begun",
        "job 13_1 of Slurm was cancelled",
        "job 14_0 of Slurm was cancelled",
    ]
    asked = [line.split("/")[-1] for line in (programs / "asked").read_text().splitlines()]
    assert asked[1:] == ["scancel 12", "scancel 14", "scancel 13_1", "scancel 14_0"]
    # A process says which array it is of.
    for name, value in {"JOB_ID": "22", "ARRAY_JOB_ID": "20", "ARRAY_TASK_ID": "3", "ARRAY_TASK_COUNT": "4"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert Job.of_this_process() == Job("slurm", "20_3", "0", 4)
