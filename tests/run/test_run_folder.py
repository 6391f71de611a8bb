"""Run folders: what they are bound to, what is recorded and missing, who computes what, and how that is carried out."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io.extxyz import read_xyz

from rootstock import RootstockCalculator
from rootstock.client.evaluated import FailureClass
from rootstock.errors import (
    ConfigurationError,
    ModelError,
    NonFiniteError,
    OutOfMemoryError,
    WorkerDiedError,
    WorkerStartError,
)
from rootstock.simulations.provenance import SOURCE
from rootstock.simulations.relax import Relaxation, singlepoint
from rootstock.simulations.runs.carry_out import carry_out
from rootstock.simulations.runs.compute import Computation
from rootstock.simulations.runs.feed import Listed
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.index import ENTRY, Status, checks_of, entry, read_index
from rootstock.simulations.runs.partials import Partials
from rootstock.simulations.runs.progress import parts_of
from rootstock.simulations.runs.recorder import Recorder
from rootstock.worker.channel.failures import FailureCode
from tests.support.commands import run
from tests.support.processes import wait_for
from tests.support.run_folders import (
    QuickDisk,
    Structures,
    Ticking,
    Trivial,
    exported,
    failing,
    new_run,
)

SIZES = (3, 1, 2, 1, 4, 2)


def compute(run: RunFolder, calc: Any = None, source: Structures | None = None, **more: Any) -> list[int]:
    calc = calc or Trivial()
    carry_out(run, source or Structures(SIZES), calc, disk=QuickDisk(), **more)
    return calc.computed if isinstance(calc, Trivial) else []


# -- what is recorded


def test_the_order_in_which_a_result_becomes_recorded(tmp_path: Path) -> None:
    said: list[str] = []

    class Watched(QuickDisk):
        def __init__(self) -> None:
            self.names: dict[int, str] = {}

        def create(self, path: Path) -> int:
            descriptor = super().create(path)
            self.names[descriptor] = path.suffix
            said.append(f"create {path.suffix}")
            assert path.name[5:21].isalnum() and len(path.name.split(".")[0]) == 21
            with pytest.raises(FileExistsError):
                super().create(path)
            return descriptor

        def write(self, descriptor: int, content: bytes | memoryview) -> int:
            said.append(f"write {self.names[descriptor]}")
            return super().write(descriptor, content[:100])  # as a file system that takes less at a time

        def fsync(self, descriptor: int) -> None:
            said.append(f"fsync {self.names.get(descriptor, 'folder')}")

    run = new_run(tmp_path / "run", SIZES)
    carry_out(
        run, Structures(SIZES), Trivial(), disk=Watched(), clock=Ticking(0),
        on_recorded=lambda indices: said.append(f"recorded {sorted(indices)}"),
    )  # fmt: skip
    assert list(dict.fromkeys(said)) == [
        "create .extxyz", "create .index", "fsync folder", "write .extxyz", "fsync .extxyz", "write .index",
        "fsync .index", "recorded [0, 1, 2, 3, 4, 5]",
    ]  # fmt: skip
    assert len(exported(run)) == 6


def atoms_of(index: int) -> Atoms:
    [atoms] = [Structures(SIZES)[index]]
    atoms.calc = next(iter(Trivial().iter_many([atoms]))).atoms.calc
    return atoms


def test_results_wait_for_the_disk_only_so_long(tmp_path: Path) -> None:
    now, told = 0.0, list[int]()
    run = new_run(tmp_path / "run", SIZES)
    recorder = Recorder(run.path, told.extend, disk=QuickDisk(), clock=lambda: now)
    recorder.add(0, atoms_of(0))
    now = 4.9
    recorder.add(1, atoms_of(1))
    assert not told and set(run.missing().tolist()) == {*range(6)}
    now = 5.0
    recorder.add(2, atoms_of(2))
    assert told == [0, 1, 2] and set(run.missing().tolist()) == {3, 4, 5}
    recorder.add(3, atoms_of(3))
    recorder.close()
    assert told == [0, 1, 2, 3]
    # Nobody adds anything while a slow structure is computed.
    recorder = Recorder(run.path, told.extend, disk=QuickDisk(), delay=0.05)
    recorder.add(4, atoms_of(4))
    wait_for(lambda: 4 not in run.missing(), "the record of the result")
    recorder.close()
    recorder.close()
    assert told == [0, 1, 2, 3, 4]


def test_much_is_written_at_once_and_not_held(tmp_path: Path) -> None:
    sizes = [40_000] * 5
    run = new_run(tmp_path / "run", sizes)
    told: list[Sequence[int]] = []
    carry_out(run, Structures(sizes), Trivial(), disk=QuickDisk(), clock=Ticking(0), on_recorded=told.append)
    assert sum(map(len, told)) == 5 and len(told) > 1 and max(map(len, told)) < 5


def test_checks_are_those_of_zlib() -> None:
    entries = np.frombuffer(np.random.default_rng(0).bytes(1000 * ENTRY.itemsize), ENTRY)
    expected = [zlib.crc32(entries[row].tobytes()[:-4]) for row in range(1000)]
    assert checks_of(entries).tolist() == expected
    assert checks_of(entries[:10]).tolist() == expected[:10]


def test_entries_that_lie_cost_only_themselves(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", SIZES)
    (run.path / "part-0123456789abcdef.extxyz").write_bytes(b"x" * 1000)
    far, frame = 2**64 - 10, b"x" * 20
    wrong = [
        entry(6, Status.DONE, 0, frame), entry(2**63, Status.DONE, 0, frame), entry(1, Status.DONE, 990, frame),
        entry(1, Status.DONE, far, frame), entry(1, Status.MISSING, 0, frame), entry(1, Status.DONE, 0, b""),
        entry(1, Status.FAILED_STRUCTURE, 0, frame), bytes(ENTRY.itemsize),
    ]  # fmt: skip
    good = [entry(0, Status.DONE, 0, frame), entry(2, Status.NOT_CONVERGED, 980, frame)]
    again = entry(0, Status.NOT_CONVERGED, 20, frame)  # the first counts
    (run.path / "part-0123456789abcdef.index").write_bytes(good[0] + b"".join(wrong) + good[1] + again + b"torn")
    (run.path / "part-of-somebody.index").write_bytes(b"not ours")
    progress = run.progress()
    assert progress.statuses.tolist() == [Status.DONE, 0, Status.NOT_CONVERGED, 0, 0, 0]
    assert (progress.damaged, progress.twice) == (len(wrong), 1)
    assert progress.counts() == {
        "missing": 4, "done": 1, "not_converged": 1, "failed_structure": 0, "failed_resource": 0
    }  # fmt: skip


MILLION = """
import sys, time
from pathlib import Path
from rootstock.simulations.runs.folder import RunFolder
begun = time.process_time()
run = RunFolder.open(Path(sys.argv[1]))
counts, missing = run.progress().counts(), run.missing()
seconds = time.process_time() - begun
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(counts["done"], len(missing), seconds, int(peak.split()[1]) / 1024)
"""


def test_a_million_entries(tmp_path: Path) -> None:
    count = 10**6
    run_ = new_run(tmp_path / "run", np.arange(count) % 199 + 1)
    entries = np.zeros(count - 1, ENTRY)
    entries["status"], entries["length"] = Status.DONE, 100
    entries["index"] = np.arange(1, count)
    entries["offset"] = entries["index"] * 100
    entries["check"] = checks_of(entries)
    for number, part in enumerate(np.array_split(entries, 8)):
        (run_.path / f"part-{number:016x}.index").write_bytes(part.tobytes())
        with (run_.path / f"part-{number:016x}.extxyz").open("wb") as file:
            file.truncate(100 * count)
    done = run(sys.executable, "-c", MILLION, run_.path, check=True)
    recorded, missing, seconds, megabytes = map(float, done.stdout.split())
    assert (recorded, missing) == (count - 1, 1)
    assert seconds < 3
    assert megabytes < 100


def test_the_first_whole_frame_of_an_index_counts(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", SIZES)
    compute(run)
    before = dict(run.frames())
    ghost = Recorder(run.path, disk=QuickDisk())  # of a requeued element, on a node that is lost
    for index in (2, 5, 2):
        ghost.add(index, atoms_of(index))
    ghost.close()
    assert run.progress().twice == 3 and len(parts_of(run.path)) == 2
    assert dict(run.frames()).keys() == before.keys() and len(exported(run)) == 6
    first, second = (run.path / f"{part}.extxyz" for part in parts_of(run.path))
    content = first.read_bytes()
    first.write_bytes(bytes(len(content)))  # where the first is damaged, another one does
    whole = (
        {index for index in range(6) if index in (2, 5)} if first.stat().st_size > second.stat().st_size else {*before}
    )
    found: list[Any] = []
    assert {index for index, _ in run.frames(found)} == whole and {each.index for each in found}


# -- failures


def test_failures_and_what_is_computed_again(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", SIZES)
    errors = failing(1) | {2: (ModelError("too large"), FailureClass.RESOURCE)}
    source = Structures(SIZES, unreadable=frozenset({4}))
    assert sorted(compute(run, Trivial(errors), source)) == [0, 1, 2, 3, 5]
    assert run.progress().counts() == {
        "missing": 0, "done": 3, "not_converged": 0, "failed_structure": 2, "failed_resource": 1
    }  # fmt: skip
    assert {index for index, _ in run.frames()} == {0, 3, 5}
    said = {each["index"]: each for each in run.failures()}
    assert said[1].items() >= {
        "class": "structure", "error": "ModelError", "message": "no numbers for 1", "structure": "big.extxyz@1, Ar",
    }.items()  # fmt: skip
    assert said[2]["class"] == "resource" and said[2]["structure"] == "big.extxyz@2, Ar2"
    assert (said[4]["error"], said[4]["structure"]) == ("ConfigurationError", "big.extxyz@4")
    assert all(each["host"] == os.uname().nodename and each["time"].startswith("20") for each in said.values())
    assert not compute(run)
    # A success counts, whatever else is recorded; so does the last failure.
    assert set(compute(run, Trivial(failing(4)), retry_failed=True)) == {1, 2, 4}
    assert {each["index"]: each["message"] for each in run.failures()} == {4: "no numbers for 4"}
    assert set(exported(run)) == {0, 1, 2, 3, 5} and run.progress().count(Status.FAILED_STRUCTURE) == 1


class Ours(Trivial):
    """A calculator that says what it is, as RootstockCalculator does."""

    name = "rootstock"

    def __init__(self, gpu: str | None, **more: Any) -> None:
        super().__init__(**more)
        self.parameters, self.model_name = {"model": "lj", "build": "b" * 64}, "lj"
        self.device, self.said = "cpu" if gpu is None else "cuda", 0
        self._info = {"gpu": gpu, "device": self.device, "build": None, "environment_sha256": "", "weights": None}

    def info(self) -> dict[str, Any]:
        self.said += 1
        return self._info


def gpu_of(gpu: str | None, **more: Any) -> Ours:
    return Ours(gpu, **more)


def test_what_does_not_fit_is_final_for_gpus_of_one_kind(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", SIZES)
    large = {4: (ModelError("out of memory"), FailureClass.RESOURCE)}
    assert len(compute(run, gpu_of("NVIDIA A100", errors=large))) == 6
    assert next(run.failures())["gpu"] == "NVIDIA A100"
    assert not run.missing().size and not run.missing(gpu="NVIDIA A100").size
    assert run.missing(gpu="NVIDIA H200").tolist() == [4]
    assert compute(run, gpu_of("NVIDIA A100")) == []
    assert compute(run, gpu_of(None, errors=large)) == [4]
    assert compute(run, gpu_of("NVIDIA A100")) == compute(run, gpu_of(None)) == []
    assert compute(run, gpu_of("NVIDIA H200")) == [4]
    idle = gpu_of("NVIDIA H100")
    assert compute(run, idle) == [] and not idle.said  # whoever has nothing to do starts no worker


def test_trouble_of_a_node_is_no_failure_of_a_structure(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", SIZES)
    lost = {5: (WorkerStartError("the GPU is lost"), FailureClass.INFRASTRUCTURE)}
    calc = Trivial(lost)
    with pytest.raises(WorkerStartError, match="the GPU is lost"):
        compute(run, calc)
    assert sorted(run.missing().tolist()) == sorted({*range(6)} - {*calc.computed[:-1]})
    # A structure whose worker somebody ended is no reason to leave out the others.
    ended = {4: (WorkerDiedError("was ended"), FailureClass.INFRASTRUCTURE)}
    with pytest.raises(WorkerDiedError, match="was ended\n1 structure could not be computed"):
        compute(run, Trivial(ended))
    assert run.missing().tolist() == [4]
    [failure] = run.failures()
    assert (failure["class"], failure["index"], failure["structure"]) == ("infrastructure", 4, "big.extxyz@4, Ar4")
    compute(run)
    assert len(exported(run)) == 6 and not [*run.failures()]


def test_what_the_format_cannot_hold_fails_alone(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", SIZES)
    source = Structures(SIZES, change=lambda atoms: atoms.info["id"] == 2 and atoms.info.update(what=object()))
    compute(run, source=source)
    [failure] = run.failures()
    assert (failure["index"], failure["class"], failure["error"]) == (2, "structure", "ConfigurationError")
    assert "cannot hold 'what'" in failure["message"] and failure["structure"] == "big.extxyz@2, Ar2"
    assert len(exported(run)) == 5


@pytest.mark.parametrize(
    ("calc", "source", "error"),
    [
        (Trivial(failing(5)), Structures(SIZES), "big.extxyz@5: no numbers for 5"),
        (Trivial(), Structures(SIZES, unreadable=frozenset({5})), "big.extxyz@5 is broken"),
        (
            Trivial(),
            Structures(SIZES, change=lambda atoms: atoms.info["id"] == 5 and atoms.info.update(x=object())),
            "'x'",
        ),
    ],
)
def test_stop_on_error(tmp_path: Path, calc: Trivial, source: Structures, error: str) -> None:
    run = new_run(tmp_path / "run", SIZES)
    with pytest.raises((ModelError, ConfigurationError), match=error):
        compute(run, calc, source, stop_on_error=True)
    assert run.progress().count(Status.FAILED_STRUCTURE) == 1
    assert set(compute(run)) == {0, 4}


def test_nothing_is_taken_as_long_as_something_is_to_be_computed(tmp_path: Path) -> None:
    """It would wait here, though another process may have nothing."""
    run, calc, taken = new_run(tmp_path / "run", SIZES), Trivial(together=64), []

    class Some(Listed):
        def take(self, atoms: int, *, wait: bool) -> Sequence[int]:
            assert len(calc.computed) == len(taken) and wait
            taken.extend(found := super().take(4, wait=wait))
            return found

    with run.recorder() as recorder:
        feed = Some(run.missing(), np.array(SIZES))
        Computation(run, Structures(SIZES), calc, recorder).run(feed)
    assert sorted(taken) == [*range(6)] and len(exported(run)) == 6
    assert Listed(run.missing(), np.array(SIZES)).take(4, wait=True) == []
    assert Listed(np.arange(6), np.array(SIZES), lambda: True).take(4, wait=True) == []  # stopped


def test_what_the_model_sees_and_what_comes_back(tmp_path: Path) -> None:
    def change(atoms: Atoms) -> None:
        atoms.info.update(rootstock_model="old", converged=True, note="mine")
        atoms.set_array("ref_forces", atoms.positions * 2)
        atoms.set_array("charge_guess", atoms.positions[:, 0])
        atoms.set_tags(range(len(atoms)))
        atoms.set_constraint(FixAtoms([0]))
        atoms.set_cell([5, 5, 5])
        atoms.pbc = (True, False, True)

    class Looking(Ours):
        def iter_many(self, images: Any, properties: Any = None, **more: Any) -> Iterator[Any]:
            def seen() -> Iterator[Atoms]:
                for atoms in images:
                    assert {*atoms.info} == {"id", "note"} and not {*atoms.arrays} & {"ref_forces"}
                    yield atoms

            assert properties == ["energy", "forces"]
            return super().iter_many(seen(), properties, **more)

    run = new_run(tmp_path / "run", SIZES, settings={"properties": ["energy", "forces"]})
    source = Structures(SIZES, change=change)
    compute(run, Looking(None, together=4), source)
    for index, atoms in exported(run).items():
        before = source[index]
        assert atoms.info == {
            "id": index, "note": "mine", SOURCE: f"big.extxyz@{index}", "ref_energy": 0.1, "rootstock_model": "lj",
            "rootstock_build": "b" * 64, "rootstock_device": "cpu",
        }  # fmt: skip
        for name in ("numbers", "positions", "ref_forces", "charge_guess", "tags"):
            assert (atoms.arrays[name] == before.arrays[name]).all()
        assert (atoms.cell == before.cell).all() and (atoms.pbc == before.pbc).all()
        assert atoms.constraints[0].index.tolist() == [0]


# -- relaxations


def relaxing(path: Path, **settings: Any) -> RunFolder:
    return new_run(path, (1, 3, 3), kind="relax", settings=dataclasses.asdict(Relaxation(**settings)))


@dataclasses.dataclass
class Clusters:
    def __getitem__(self, index: int) -> Atoms:
        atoms = Atoms("Ar3", [(0, 0, 0), (1.2, 0, 0), (0, 1.2, 0)]) if index else Atoms("Ar")
        atoms.info.update({"id": index, SOURCE: self.name(index), "ref_energy": 7.0})
        return atoms

    def name(self, index: int) -> str:
        return f"clusters.xyz@{index}"


def test_relaxations(tmp_path: Path) -> None:
    for steps, status in ((200, Status.DONE), (2, Status.NOT_CONVERGED)):
        run = relaxing(tmp_path / f"{steps}", optimizer="FIRE", fmax=0.05, steps=steps)
        carry_out(run, Clusters(), LennardJones(rc=10), disk=QuickDisk())
        assert run.progress().statuses.tolist() == [Status.DONE, status, status] and not run.missing().size
        frames = dict(run.frames())
        assert b"rootstock_source=clusters.xyz@2" in frames[2] and b" start_energy=7.0" in frames[2]
        assert (b"converged=T" in frames[2]) == (status is Status.DONE)


class Dying(LennardJones):
    """Ends like a worker, with the structures of three atoms, so many times."""

    def __init__(self, times: int, error: Exception, code: int | None = None) -> None:
        super().__init__()
        self.left, self.error = times, error
        if isinstance(error, WorkerDiedError):
            error.returncode = code

    def calculate(self, atoms: Any = None, *arguments: Any, **more: Any) -> None:
        if len(atoms) == 3 and self.left:
            self.left -= 1
            raise self.error
        super().calculate(atoms, *arguments, **more)


def reported(error: ModelError, code: FailureCode) -> ModelError:
    error.code = code.value
    return error


@pytest.mark.parametrize(
    ("times", "error", "code", "expected"),
    [
        (1, WorkerDiedError("died"), -9, (Status.DONE, Status.DONE)),
        (2, WorkerDiedError("died"), -11, (Status.FAILED_STRUCTURE, Status.DONE)),
        (2, WorkerDiedError("died"), None, (Status.FAILED_STRUCTURE, Status.DONE)),
        (2, WorkerDiedError("died"), -9, None),
        (2, WorkerDiedError("died"), 143, None),
        (1, WorkerStartError("no worker"), None, None),
        (1, reported(ModelError("assertion"), FailureCode.LOST_GPU), None, (Status.DONE, Status.DONE)),
        (2, reported(ModelError("assertion"), FailureCode.LOST_GPU), None, None),
        (1, reported(ModelError("no answer"), FailureCode.INPUT_OUTPUT), None, None),
        (1, NonFiniteError("NaN"), None, (Status.FAILED_STRUCTURE, Status.DONE)),
        (
            1,
            reported(OutOfMemoryError("too large"), FailureCode.OUT_OF_MEMORY),
            None,
            (Status.FAILED_RESOURCE, Status.DONE),
        ),
        (1, ValueError("the line search failed"), None, (Status.FAILED_STRUCTURE, Status.DONE)),
    ],
)
def test_relaxations_that_fail(tmp_path: Path, times: int, error: Exception, code: int, expected: Any) -> None:
    run = relaxing(tmp_path / "run", optimizer="BFGSLineSearch", fmax=1.0)
    if expected is None:
        with pytest.raises(type(error)):
            carry_out(run, Clusters(), Dying(times, error, code), disk=QuickDisk())
        assert run.progress().statuses.tolist() == [Status.DONE, 0, 0]
        assert [each["class"] for each in run.failures()] == ["infrastructure"]
        expected = (Status.DONE, Status.DONE)
        carry_out(run, Clusters(), LennardJones(), disk=QuickDisk())
    else:
        carry_out(run, Clusters(), Dying(times, error, code), disk=QuickDisk())
    assert run.progress().statuses.tolist() == [Status.DONE, *expected]


class Interrupted(LennardJones):
    """Is interrupted like by Ctrl-C in its call of this number."""

    def __init__(self, call: int) -> None:
        super().__init__(rc=10)
        self.left = call

    def calculate(self, *arguments: Any, **more: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        super().calculate(*arguments, **more)


def test_a_relaxation_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    run = relaxing(tmp_path / "run", optimizer="BFGSLineSearch", fmax=1e-3, steps=60)
    steps, energies = [0], [LennardJones(rc=10).get_potential_energy(Clusters()[1])]
    for call in (9, 7):
        with pytest.raises(KeyboardInterrupt):
            carry_out(run, Clusters(), Interrupted(call), disk=QuickDisk())
        partials, went_on = Partials(run.path, 3), Clusters()[1]
        steps.append(partials.go_on(1, went_on))
        energies.append(LennardJones(rc=10).get_potential_energy(went_on))
        assert len(partials) == 1 and run.missing().tolist() == [1, 2] and not [*run.failures()]
    assert 0 < steps[1] < steps[2] and energies[2] < energies[1] < energies[0]
    carry_out(run, Clusters(), LennardJones(rc=10), disk=QuickDisk())
    assert run.progress().statuses.tolist() == [Status.DONE] * 3
    entries = np.concatenate([read.entries for part in parts_of(run.path) for read in read_index(run.path, part, 3)])
    [took] = entries["more"][(entries["index"] == 1) & (entries["status"] == Status.DONE)]
    assert steps[2] < took < 60
    # What is damaged or of other atoms costs a start from the beginning.
    for file in run.path.glob("part-*.extxyz"):
        file.write_bytes(file.read_bytes().replace(b"Ar", b"Kr"))
    anew = Clusters()[1]
    assert not Partials(run.path, 3).go_on(1, anew) and (anew.positions == Clusters()[1].positions).all()


def test_relaxations_together_that_are_stopped_go_on(tmp_path: Path) -> None:
    run = relaxing(tmp_path / "run", optimizer="FIRE", fmax=1e-3, steps=300)
    steps = [(0, 0)]
    for call in (9, 12):
        with pytest.raises(KeyboardInterrupt):
            carry_out(run, Clusters(), Interrupted(call), disk=QuickDisk())
        partials = Partials(run.path, 3)
        steps.append(tuple(partials.go_on(index, Clusters()[index]) for index in (1, 2)))
    assert (np.diff(steps, axis=0) > 0).all() and run.missing().tolist() == [1, 2]
    carry_out(run, Clusters(), LennardJones(rc=10), disk=QuickDisk())
    assert run.progress().statuses.tolist() == [Status.DONE] * 3
    for index, frame in run.frames():
        [atoms] = read_xyz(io.StringIO(frame.decode()), slice(None))
        alone = Relaxation(optimizer="FIRE", fmax=1e-3, steps=300).run(Clusters()[index], LennardJones(rc=10))
        assert abs(atoms.get_potential_energy() - alone.get_potential_energy()) < 1e-6


# -- a worker


@dataclasses.dataclass
class Metals:
    def __getitem__(self, index: int) -> Atoms:
        atoms = bulk(("Cu", "Au", "Xe", "Ag")[index % 4], "fcc", 4.0, cubic=index > 3)
        atoms.rattle(0.05, seed=index)
        atoms.info.update({"id": index, SOURCE: self.name(index), "ref_energy": 7.0})
        if index == 0:
            atoms.info["start_energy"] = "mine"  # or of a relaxation before
        return atoms

    def name(self, index: int) -> str:
        return f"metals.xyz@{index}"


@pytest.mark.parametrize("kind", ["singlepoint", "relax"])
def test_with_a_worker(root: Path, tmp_path: Path, kind: str) -> None:
    relaxation = Relaxation(fmax=0.05, steps=5, cell="full")
    settings = dataclasses.asdict(relaxation) if kind == "relax" else {}
    with RootstockCalculator("emt", root=root, device="cpu") as calc:
        pins = {name: calc.info()[name] for name in ("build", "environment_sha256")}
        run = new_run(tmp_path / "run", [1] * 4 + [4] * 4, kind=kind, settings=settings, **pins)
        carry_out(run, Metals(), calc, disk=QuickDisk())
        assert {each["index"]: each["class"] for each in run.failures()} == {2: "structure", 6: "structure"}
        for index, frame in run.frames():
            [atoms] = read_xyz(io.StringIO(frame.decode()), slice(None))
            alone = Metals()[index]
            expected = relaxation.run(alone, EMT()) if kind == "relax" else singlepoint(alone, EMT())
            allowed = 1e-9 if kind == "relax" else 0  # the filter that relaxes many cells at once is ASE's to rounding
            assert abs(atoms.positions - expected.positions).max() <= allowed
            assert abs(atoms.cell - expected.cell).max() <= allowed
            assert abs(atoms.get_potential_energy() - expected.get_potential_energy()) <= allowed
            assert abs(atoms.get_forces() - expected.get_forces()).max() <= allowed
            assert abs(atoms.get_stress() - expected.get_stress()).max() <= allowed
            assert (atoms.info["rootstock_model"], atoms.info["rootstock_build"]) == ("emt", f"emt/{pins['build']}")
            # Of positions that it has no more, if it was relaxed.
            expected_info = {"ref_energy": 7.0} if kind == "singlepoint" else {"start_energy": 7.0}
            if index == 0:
                expected_info = {("start_energy_2" if kind == "relax" else "ref_energy"): 7.0, "start_energy": "mine"}
            assert {name: atoms.info[name] for name in atoms.info if "energy" in name} == expected_info
            assert atoms.info["id"] == index
