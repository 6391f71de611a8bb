"""Run folders whose files are damaged, whose disks fail, and whose processes are killed."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from rootstock.errors import ConfigurationError, OutputError
from rootstock.simulations.runs.carry_out import carry_out
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.index import ENTRY
from rootstock.simulations.runs.parts import Disk
from rootstock.simulations.runs.progress import Damaged, parts_of
from tests.support.commands import run as run_command
from tests.support.folders import small_disk
from tests.support.processes import wait_for
from tests.support.run_folders import (
    FaultyDisk,
    QuickDisk,
    Structures,
    Ticking,
    Trivial,
    exported,
    failing,
    forked,
    in_memory,
    new_run,
)

SIZES = (2, 1, 1, 3)
ALL = set(range(len(SIZES)))
FAILS = {2}


@pytest.fixture(name="tmp_path")
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory: what is synced, and when, is the disk's to see."""
    with in_memory(tmp_path) as folder:
        yield folder


def compute(folder: RunFolder, calc: Trivial | None = None, disk: Disk | None = None, tick: float = 2.0) -> list[int]:
    """Compute what is missing, synced every other structure, and return what was computed."""
    calc = calc or Trivial(failing(*FAILS))
    carry_out(folder, Structures(SIZES), calc, disk=disk or QuickDisk(), clock=Ticking(tick))
    return calc.computed


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    """Return a run of one part, with three results and a failure."""
    run = new_run(tmp_path / "run", SIZES)
    assert set(compute(run)) == ALL
    assert set(exported(run)) == ALL - FAILS
    return run


def file_of(run: RunFolder, ending: str) -> Path:
    [path] = run.path.glob(f"part-*{ending}")
    return path


def spans(run: RunFolder, ending: str) -> dict[int, tuple[int, int]]:
    """Return where in a file of the run's one part each structure has its bytes."""
    entries = np.fromfile(file_of(run, ".index"), ENTRY)
    if ending == ".index":
        return {
            int(entry["index"]): (at * ENTRY.itemsize, (at + 1) * ENTRY.itemsize) for at, entry in enumerate(entries)
        }
    its = [entry for entry in entries if (entry["index"] in FAILS) == (ending == ".failed.jsonl")]
    return {int(entry["index"]): (int(entry["offset"]), int(entry["offset"] + entry["length"])) for entry in its}


def cut(content: bytes) -> list[bytes]:
    """Return all that may be left of a file that was cut."""
    return [content[:size] for size in range(len(content))]


def holes(content: bytes) -> list[bytes]:
    """Return a file with holes of NULs, of garbage, and with single bits that are others."""
    random_bytes = random.Random(1).randbytes
    made = []
    for begin in range(0, len(content), 7):
        for size in (13, ENTRY.itemsize):
            end = min(begin + size, len(content))
            made += [
                content[:begin] + filling + content[end:] for filling in (bytes(end - begin), random_bytes(end - begin))
            ]
        made.append(content[:begin] + bytes([content[begin] ^ 4]) + content[begin + 1 :])
    return made


@pytest.mark.parametrize("damage", [cut, holes])
@pytest.mark.parametrize("ending", [".index", ".extxyz", ".failed.jsonl"])
def test_damage_costs_only_itself(finished: RunFolder, ending: str, damage: Callable[[bytes], list[bytes]]) -> None:
    before = {path: path.read_bytes() for path in finished.path.iterdir()}
    file, places = file_of(finished, ending), spans(finished, ending)
    # Of a failure whose line is damaged, it is still known that it failed.
    final = FAILS if ending == ".failed.jsonl" and damage is holes else set()
    seen: list[set[int]] = []
    for content in damage(before[file]):
        file.write_bytes(content)
        hit = {index for index, (begin, end) in places.items() if content[begin:end] != before[file][begin:end]}
        damaged: list[Damaged] = []
        assert {index for index, _ in finished.frames(damaged)} == ALL - FAILS - hit
        assert {each.index for each in damaged} <= hit - FAILS
        [*said] = finished.failures()
        assert {each["index"] for each in said} == (FAILS if final else FAILS - hit)
        assert all(each["class"] == "structure" for each in said)
        seen.append(hit)
        if hit in seen[-9:-1]:  # what follows depends on what is lost, and not on how
            continue
        finished.discard(damaged)
        assert set(compute(finished)) == hit - final
        assert set(exported(finished)) == ALL - FAILS
        assert not finished.progress().twice and [each["index"] for each in finished.failures()] == [*FAILS]
        for path in finished.path.iterdir():
            path.write_bytes(before[path]) if path in before else path.unlink()


def test_a_file_that_cannot_be_read_is_not_computed_again(finished: RunFolder) -> None:
    path = file_of(finished, ".index")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigurationError, match=f"Cannot read {path}: it is a pipe"):
        compute(finished)


# -- disks that fail


class Told:
    """What was reported as recorded, which must be on the disk then."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.indices = run, list[int]()

    def __call__(self, indices: Sequence[int]) -> None:
        self.indices += indices
        assert not set(indices) & set(self.run.missing().tolist())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["create", "write", "short", "fsync", "close"])
def test_after_a_fault_a_new_part_begins(tmp_path: Path, call: str, number: int) -> None:
    for first in range(1, 20):
        disk = FaultyDisk(call, number, first)
        run = new_run(tmp_path / f"{first}", SIZES)
        told = Told(run)
        carry_out(run, Structures(SIZES), Trivial(failing(*FAILS)), on_recorded=told, disk=disk, clock=Ticking(2))
        assert sorted(told.indices) == sorted(ALL) and set(exported(run)) == ALL - FAILS
        progress = run.progress()
        assert (progress.twice, progress.damaged, run.missing().tolist()) == (0, 0, [])
        parts = parts_of(run.path)
        if disk.seen < first:
            assert first > 1 and len(parts) == 1
            break
        assert 1 <= len(parts) <= 2 and (len(parts) == 2 or call == "close" or first <= 5)
        for part in parts:  # nothing is left in a part but what is recorded
            assert (run.path / f"{part}.index").stat().st_size
    else:
        pytest.fail("there is no end to these calls")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["create", "write", "short", "fsync"])
def test_nothing_recorded_is_lost_on_a_disk_that_goes_on_failing(tmp_path: Path, call: str, number: int) -> None:
    for first in range(1, 4 if call == "create" else 6):
        run = new_run(tmp_path / f"{first}", SIZES)
        told, disk = Told(run), FaultyDisk(call, number, first, lasting=True)
        with pytest.raises(OutputError, match=f"Cannot record results in {run.path}: {os.strerror(number)}") as caught:
            carry_out(run, Structures(SIZES), Trivial(failing(*FAILS)), on_recorded=told, disk=disk, clock=Ticking(2))
        assert caught.value.exit_code == 16
        assert "safe; the same command goes on from there" in caught.value.hint and "--out" not in caught.value.hint
        assert not run.progress().damaged
        missing = set(run.missing().tolist())
        assert ALL - missing == set(told.indices)
        assert set(compute(run)) == missing
        assert set(exported(run)) == ALL - FAILS and not run.progress().twice


def test_a_full_disk(tmp_path: Path) -> None:
    sizes = [500] * 30
    with small_disk(tmp_path / "disk", "size=1m", "mode=755") as disk:
        run = new_run(disk / "run", sizes)
        told, calc = Told(run), Trivial()
        with pytest.raises(OutputError, match="No space left on device"):
            carry_out(run, Structures(sizes), calc, on_recorded=told, clock=Ticking(2))
        assert 2 < len(told.indices) < 28
        assert set(exported(run)) == set(told.indices)
        assert run_command("mount", "-o", "remount,size=8m", disk).returncode == 0
        again = Trivial()
        carry_out(run, Structures(sizes), again)
        assert set(again.computed) == set(range(30)) - set(told.indices)
        assert len(exported(run)) == 30


# -- lost power


class PowerLoss(BaseException):
    """The machine is off."""


class Machine(Disk):
    """A disk that keeps, after its last call, what was synced, and of the rest as little as it may."""

    def __init__(self, folder: Path, calls: int, leave: Callable[[bytes, int], bytes], off: Path) -> None:
        self._folder, self._left, self._leave, self._off = folder, calls, leave, off
        self._names: dict[int, Path] = {}
        self._synced: dict[Path, int] = {path: path.stat().st_size for path in folder.iterdir()}
        self._known = {*self._synced}

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._off.mkdir()
            for path in self._known & {*self._folder.iterdir()}:
                content = path.read_bytes()
                ours = path.name.startswith("part-")  # others are synced by other means
                left = self._leave(content, self._synced.get(path, 0)) if ours else content
                (self._off / path.name).write_bytes(left)
        if self._left <= 0:
            raise PowerLoss

    def create(self, path: Path) -> int:
        self._count()
        descriptor = super().create(path)
        self._names[descriptor] = path
        return descriptor

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        self._count()
        return super().write(descriptor, content)

    def fsync(self, descriptor: int) -> None:
        self._count()
        if descriptor in self._names:
            self._synced[self._names[descriptor]] = os.fstat(descriptor).st_size
        else:
            self._known |= {*self._folder.iterdir()}

    def close(self, descriptor: int) -> None:
        self._names.pop(descriptor)
        super().close(descriptor)


@pytest.mark.parametrize(
    "leave",
    [lambda content, synced: content[:synced], lambda content, synced: content[:synced].ljust(len(content), b"\0")],
)
def test_what_was_reported_survives_a_loss_of_power(tmp_path: Path, leave: Callable[[bytes, int], bytes]) -> None:
    lost = 0
    for calls in range(1, 100):
        run = new_run(tmp_path / f"{calls}", SIZES)
        off = tmp_path / f"{calls}-off"
        machine, told = Machine(run.path, calls, leave, off), list[int]()
        try:
            carry_out(
                run,
                Structures(SIZES),
                Trivial(failing(*FAILS)),
                on_recorded=told.extend,
                disk=machine,
                clock=Ticking(2),
            )
        except PowerLoss:
            lost += 1
        else:
            break
        after = RunFolder.open(off)
        missing = set(after.missing().tolist())
        assert not missing & set(told)
        assert set(exported(after)) == ALL - FAILS - missing
        assert set(compute(after)) == missing and set(exported(after)) == ALL - FAILS
    assert lost >= 10


# -- interruptions and kills


class Interrupting(QuickDisk):
    """A disk in one of whose calls Ctrl-C comes."""

    def __init__(self, call: int) -> None:
        self._left = call

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        self._interrupt()
        return super().write(descriptor, content)

    def fsync(self, descriptor: int) -> None:
        self._interrupt()

    def _interrupt(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)  # whoever does not wait for the disk is gone by then


@pytest.mark.parametrize("tick", [0, 2])  # all is recorded at the end; or some of it before
def test_ctrl_c_while_results_are_recorded(tmp_path: Path, tick: float) -> None:
    for call in range(1, 100):
        run = new_run(tmp_path / f"{call}", SIZES)
        calc, told = Trivial(failing(*FAILS)), Told(run)
        try:
            carry_out(run, Structures(SIZES), calc, on_recorded=told, disk=Interrupting(call), clock=Ticking(tick))
        except KeyboardInterrupt:
            pass
        else:
            break
        wait_for(lambda: "rootstock-recorder" not in {each.name for each in threading.enumerate()}, "the thread's end")
        left = set(run.missing().tolist())
        assert not left & set(told.indices)
        assert left & set(calc.computed) <= set(calc.computed[-1:])  # the last may not have been handed over
        assert set(exported(run)) == ALL - FAILS - left
        assert set(compute(run)) == left and not run.progress().twice
    assert call > 7


def test_ctrl_c_while_a_structure_is_computed(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", SIZES)
    calc = Trivial(failing(*FAILS), note=lambda index: signal.raise_signal(signal.SIGINT) if index == 3 else None)
    told = Told(run)
    with pytest.raises(KeyboardInterrupt):
        carry_out(run, Structures(SIZES), calc, on_recorded=told)  # with the real clock: nothing was synced before
    assert sorted(told.indices) == sorted(calc.computed[:-1]) != []
    assert set(compute(run)) == ALL - set(told.indices)


class Deadly(QuickDisk):
    """A disk in one of whose calls the process is killed: before it, or halfway through."""

    def __init__(self, call: int, half: bool) -> None:
        self._left, self._half = call, half

    def create(self, path: Path) -> int:
        self._count()
        return super().create(path)

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        if self._left == 1 and self._half:
            super().write(descriptor, content[: len(content) // 2])
        self._count()
        return super().write(descriptor, content)

    def fsync(self, descriptor: int) -> None:
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


RUNS, LIVES, MANY = 10, 20, 90  # runs, with so many kills and structures in each


@pytest.mark.parametrize("seed", range(RUNS))
def test_killed_200_times(tmp_path: Path, seed: int) -> None:
    """Compute a run in processes of which all but the last are killed at random, and look what each has left."""
    sizes = [1 + index % 4 for index in range(MANY)]
    run, chance = new_run(tmp_path / "run", sizes), random.Random(seed)
    notes = {name: os.open(tmp_path / name, os.O_CREAT | os.O_APPEND | os.O_RDWR) for name in ("computed", "told")}

    def noted(name: str) -> list[int]:
        return [int(word) for word in os.pread(notes[name], 10**7, 0).split()]

    def life(disk: Disk, fails: list[int]) -> None:
        carry_out(
            run, Structures(sizes),
            Trivial(failing(*fails), note=lambda index: os.write(notes["computed"], b"%d\n" % index)),
            on_recorded=lambda indices: os.write(notes["told"], b"".join(b"%d\n" % index for index in indices)),
            disk=disk, clock=Ticking(chance.choice((2, 3, 6))),
        )  # fmt: skip

    recorded, killed = set[int](), 0
    for number in range(LIVES + 1):
        call = chance.randrange(1, 16) if number < LIVES else 0
        disk = Deadly(call, half=chance.random() < 0.5)
        before = noted("computed")
        status = forked(lambda: life(disk, [index for index in range(MANY) if index % 10 == 3]))  # noqa: B023
        assert (os.WIFEXITED(status) and not status) or os.WTERMSIG(status) == signal.SIGKILL, status
        killed += os.WIFSIGNALED(status)
        assert not recorded & set(noted("computed")[len(before) :]), "computed again"
        recorded_now = set(range(MANY)) - set(run.missing().tolist())
        assert recorded <= recorded_now, "lost"
        assert set(noted("told")) <= recorded_now, "reported, and not there"
        recorded = recorded_now
    assert killed == LIVES
    assert len(recorded) == MANY and len(exported(run)) == MANY * 9 // 10 and run.progress().twice == 0
    assert len(set(noted("told"))) == len(noted("told")), "reported twice"
    assert {each["index"] for each in run.failures()} == {index for index in range(MANY) if index % 10 == 3}
