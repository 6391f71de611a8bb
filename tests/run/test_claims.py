"""Two commands that would write one file: the second is refused before it writes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from rootstock.errors import ConfigurationError, LockBusyError
from rootstock.root.lock import Holder
from rootstock.simulations.claims import claim_files
from tests.support.commands import ROOTSTOCK, ordinary, run, started
from tests.support.needs import need_program
from tests.support.processes import wait_for

PROGRAM = """
import sys
from pathlib import Path
from rootstock.errors import LockBusyError
from rootstock.simulations.claims import claim_files

try:
    with claim_files([Path(sys.argv[1])], "the first"):
        print("holds", flush=True)
        sys.stdin.read()
except LockBusyError:
    print("refused", flush=True)
"""
QUIET = ("-f", "-qq", "-o", os.devnull)
NO_FLOCK = ("-e", "trace=flock", "-e", "inject=flock:error=ENOSYS")
NO_LINKS = ("-e", "trace=?link,linkat", "-e", "inject=?link,linkat:error=EPERM")
NEITHER = ("-e", "trace=flock,?link,linkat", *NO_FLOCK[2:], *NO_LINKS[2:])
FOREIGN = Holder("rootstock md emt a.xyz", "ann", "lost-node", 7, "2026-01-01")


@contextlib.contextmanager
def claiming(path: Path, prefix: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """Start a process that claims a file, which it has done, or not, when it says so."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", PROGRAM, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def record_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


@pytest.fixture(params=["flock", "no flock", "no links", "neither"])
def prefix(request: pytest.FixtureRequest) -> list[str]:
    """Return what a program is started with on file systems with and without locks and hard links."""
    lacking = {"flock": (), "no flock": NO_FLOCK, "no links": NO_LINKS, "neither": NEITHER}[request.param]
    return [need_program("strace", "strace"), *QUIET, *lacking] if lacking else []


def md(root: Path, *more: str) -> list[str]:
    return [
        str(ROOTSTOCK), "md", "emt", "a.traj", "--ensemble", "nve", "--stats-every", "1", "--traj-every", "1",
        "--file-prefix", "run", "--root", str(root), "--device", "cpu", *more,
    ]  # fmt: skip


def test_two_simulations_with_one_prefix(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.traj", bulk("Cu", cubic=True))
    (tmp_path / "link").symlink_to(tmp_path)
    with started(md(root, "--steps", "1000000", "--restart"), cwd=tmp_path) as first:
        wait_for((tmp_path / "run-restart.json").exists, "the first restart file")
        first.send_signal(signal.SIGSTOP)  # it keeps its files, and leaves the processor to the others
        common = ("--root", root, "--device", "cpu")
        for command in (
            md(root, "--steps", "3", "--restart"),
            md(root, "--steps", "3", "--overwrite", "--file-prefix", f"{tmp_path}/link/run"),
            (ROOTSTOCK, "singlepoint", "emt", "a.traj", "--out", "run-traj.extxyz", "--overwrite", *common),
            (ROOTSTOCK, "relax", "emt", "a.traj", "--traj", "link/run-final.extxyz", *common),
            (ROOTSTOCK, "relax", "emt", "a.traj", "--out", "run-stats.dat", *common),
        ):
            second = run(*command, cwd=tmp_path)
            assert second.returncode == 11, second.stderr
            writer = f"{Holder('').user} on {os.uname().nodename} (process {first.pid}, since 20"
            assert f" is being written by {writer}" in second.stderr
            assert (
                "Wait until it ends, or end it; or write other files" in second.stderr and "rm -f" not in second.stderr
            )
        first.send_signal(signal.SIGCONT)
        first.send_signal(signal.SIGTERM)
        first.communicate()
    assert first.returncode == 130
    steps = np.loadtxt(tmp_path / "run-stats.dat")[:, 0]
    assert (steps == np.arange(len(steps))).all()
    assert [atoms.info["step"] for atoms in read(tmp_path / "run-traj.extxyz", ":")] == list(range(len(steps)))
    assert not list(tmp_path.glob(".*"))
    done = run(*md(root, "--steps", str(len(steps)), "--restart"), cwd=tmp_path)
    assert not done.returncode, done.stderr


def test_a_record_of_another_node_is_believed(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a 'folder'\nof \"mine\""
    folder.mkdir()
    write(folder / "a.traj", bulk("Cu", cubic=True))
    for name in ("run-traj.extxyz", "run-restart.json"):
        record_of(folder / name).write_text(FOREIGN.to_json())
    before = sorted(os.listdir(folder))
    done = run(*md(root, "--steps", "1", "--restart"), cwd=folder)
    assert done.returncode == 11
    assert "is being written by ann on lost-node (process 7, since 2026-01-01: rootstock md emt a.xyz)." in done.stderr
    assert "If you know that it has ended on lost-node, as when a node has failed" in done.stderr
    assert sorted(os.listdir(folder)) == before
    run("sh", "-c", "rm -f" + done.stderr.partition("\nrm -f")[2], check=True)
    done = run(*md(root, "--steps", "1", "--restart"), cwd=folder)
    assert not done.returncode, done.stderr


def test_a_name_is_claimed_in_every_spelling(tmp_path: Path) -> None:
    file, folder = tmp_path / "file.xyz", tmp_path / "folder"
    folder.mkdir()
    (folder / "link.xyz").symlink_to(file)
    (tmp_path / "linked").symlink_to(folder)
    for first, second in (
        (file, folder / ".." / "file.xyz"), (file, folder / "link.xyz"), (folder / "link.xyz", file),
        (folder / "link.xyz", tmp_path / "linked" / "link.xyz"), (folder / "new.xyz", tmp_path / "linked" / "new.xyz"),
    ):  # fmt: skip
        with (
            claim_files([first], "one"),
            pytest.raises(LockBusyError),
            claim_files([file.with_name("b"), second], "two"),
        ):
            pass
        with claim_files([first, second], "one"):
            pass
    assert sorted(os.listdir(tmp_path)) == ["folder", "linked"]


def test_a_holder_that_was_killed_is_none(tmp_path: Path, prefix: list[str]) -> None:
    path = tmp_path / "a.xyz"
    with claiming(path, prefix) as first:
        assert said(first) == "holds"
        with claiming(path, prefix) as second:
            assert said(second) == "refused"
        pid = json.loads(record_of(path).read_text())["pid"]
        os.kill(pid, signal.SIGKILL)
        first.wait()
        assert record_of(path).exists()
        with claiming(path, prefix) as third:
            assert said(third) == "holds"
            third.communicate("")
    assert os.listdir(tmp_path) == []


def test_a_number_that_another_process_has_now(tmp_path: Path, prefix: list[str]) -> None:
    path = tmp_path / "a.xyz"
    me = Holder.of_this_process("rootstock md")
    record_of(path).write_text(Holder(me.command, start=f"{me.start}0").to_json())
    with claiming(path, prefix) as process:
        assert said(process) == "holds"
        process.communicate("")


@pytest.mark.parametrize("left", [b"", b"{", FOREIGN.to_json().encode()])
def test_what_nobody_can_know_is_for_a_person(tmp_path: Path, prefix: list[str], left: bytes) -> None:
    path = tmp_path / "a.xyz"
    record_of(path).write_bytes(left)
    with claiming(path, prefix) as process:
        assert said(process) == "refused"
    assert record_of(path).read_bytes() == left
    with pytest.raises(
        LockBusyError, match=f"remove its records, and run the command again:\nrm -f {record_of(path)}$"
    ):
        claim_files([path], "rootstock").__enter__()


def test_of_many_who_see_a_dead_holder_one_is_next(tmp_path: Path, prefix: list[str]) -> None:
    path = tmp_path / "a.xyz"
    dead = subprocess.Popen(["true"])
    dead.wait()
    for _ in range(3):
        record_of(path).write_text(Holder("killed", pid=dead.pid).to_json())
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(claiming(path, prefix)) for _ in range(4)]
            assert sorted(map(said, processes)) == ["holds", "refused", "refused", "refused"]
            for process in processes:
                process.communicate("")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Cannot write into .*none: No such file"):
        claim_files([tmp_path / "none" / "a.xyz"], "rootstock").__enter__()
    tmp_path.chmod(0o555)
    done = run(*ordinary(), sys.executable, "-c", PROGRAM, tmp_path / "a.xyz")
    assert f"ConfigurationError: Cannot write into {tmp_path}: Permission denied." in done.stderr


CLOSED = """
import sys
from pathlib import Path
from rootstock.errors import OutputError
from rootstock.simulations.claims import claim_files

(folder := Path(sys.argv[1])).mkdir()
with claim_files([folder / "a.extxyz"], "the first"):
    folder.chmod(0o555)
    raise OutputError("The disk is full.")
"""


def test_a_record_that_cannot_be_removed_hides_no_other_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    done = run(*ordinary(), sys.executable, "-c", CLOSED, tmp_path / "closed")
    assert done.stderr.splitlines()[-1] == "rootstock.errors.OutputError: The disk is full.", done.stderr
    assert os.listdir(tmp_path / "closed") == [".a.extxyz.lock"]
