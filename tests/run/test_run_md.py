"""Molecular dynamics of many structures: each is the simulation that it would be alone, whatever came between."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.io import read
from ase.io.extxyz import read_xyz

from rootstock.errors import (
    ModelError,
    NonFiniteError,
    OutputError,
    RootstockError,
    WorkerDiedError,
)
from rootstock.simulations.dynamics import Dynamics, Simulation
from rootstock.simulations.provenance import SOURCE
from rootstock.simulations.runs.carry_out import carry_out
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.index import Status
from rootstock.simulations.runs.molecular_dynamics import seed_of
from rootstock.simulations.runs.records import read_run
from tests.support.run_folders import QuickDisk, forked, in_memory, new_run

SETTINGS = Dynamics("nvt", steps=12, stats_every=1, traj_every=2, restart_every=5, seed=7)
ENDINGS = ("stats.dat", "traj.extxyz", "restart.json", "final.extxyz")
SIZES = (1, 4, 4)


@dataclasses.dataclass
class Crystals:
    """Some of copper: the second has momenta, and results of before; the first is one atom."""

    def __getitem__(self, index: int) -> Atoms:
        atoms = bulk("Cu", cubic=index > 0)
        atoms.rattle(0.05, seed=index)
        atoms.info.update({SOURCE: self.name(index), "id": index})
        if index == 1:
            atoms.set_momenta(np.linspace(-1, 1, 12).reshape(4, 3))
            atoms.info["ref_energy"] = 7.0
            atoms.set_array("ref_forces", atoms.positions * 2)
        return atoms

    def name(self, index: int) -> str:
        return f"starts.xyz@{index}"


class Potential(Calculator):
    """Springs, which cost nothing. It may do something in its calls, which it counts by structure."""

    implemented_properties = ("energy", "forces")

    def __init__(self, on_call: Callable[[int, int], object] = lambda index, call: None) -> None:
        super().__init__()
        self.on_call, self.calls = on_call, [0] * len(SIZES)

    def calculate(self, atoms: Any = None, *arguments: Any, **more: Any) -> None:
        super().calculate(atoms, *arguments, **more)
        index = atoms.info["id"]
        assert not {name for name in (*atoms.info, *atoms.arrays) if name.startswith("ref_")}
        self.calls[index] += 1
        self.on_call(index, self.calls[index])
        self.results = {"energy": float((atoms.positions**2).sum() / 2), "forces": -atoms.positions}


@pytest.fixture(name="tmp_path")
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory."""
    with in_memory(tmp_path) as folder:
        yield folder


def simulating(path: Path, settings: Dynamics = SETTINGS) -> RunFolder:
    return new_run(path, SIZES, kind="md", settings=dataclasses.asdict(settings))


def compute(run: RunFolder, on_call: Callable[[int, int], object] = lambda *_: None, **more: Any) -> list[int]:
    calc = Potential(on_call)
    carry_out(run, Crystals(), calc, disk=QuickDisk(), **more)
    return calc.calls


def files(run: RunFolder, index: int) -> dict[str, bytes]:
    return {ending: (run.path / "md" / f"00000{index}-{ending}").read_bytes() for ending in ENDINGS}


def alone(folder: Path, index: int, settings: Dynamics = SETTINGS) -> dict[str, bytes]:
    """Return the files of a structure that was simulated alone, and never stopped."""
    atoms = Crystals()[index]
    for entries in (atoms.info, atoms.arrays):
        for name in [name for name in entries if name.startswith("ref_")]:
            del entries[name]
    prefix = folder / f"alone-{index}"
    simulation = Simulation(
        atoms, Potential(), dataclasses.replace(settings, seed=seed_of(settings.seed, index)), str(prefix)
    )
    assert simulation.run()
    return {ending: Path(f"{prefix}-{ending}").read_bytes() for ending in ENDINGS}


def check_as_alone(run: RunFolder, folder: Path) -> None:
    """Compare all files, and what is recorded, with simulations that were never stopped."""
    frames = dict(run.frames())
    assert run.progress().statuses.tolist() == [Status.DONE] * 3 and len(frames) == 3 and not [*run.failures()]
    for index, frame in frames.items():
        expected, found = alone(folder, index, read_settings(run)), files(run, index)
        for ending in ENDINGS:
            assert found[ending] == expected[ending], (index, ending)
        [atoms] = read_xyz(io.StringIO(frame.decode()), slice(None))
        [final] = read_xyz(io.StringIO(expected["final.extxyz"].decode()), slice(None))
        for name in ("positions", "momenta"):
            assert (atoms.arrays[name] == final.arrays[name]).all()
        assert atoms.get_potential_energy() == final.get_potential_energy()
        assert (atoms.get_forces() == final.get_forces()).all()
        assert (atoms.info["id"], atoms.info[SOURCE]) == (index, f"starts.xyz@{index}")
        assert ("ref_energy" in atoms.info, "ref_forces" in atoms.arrays) == (index == 1, index == 1)


def read_settings(run: RunFolder) -> Dynamics:
    return Dynamics(**read_run(run.path).settings)


# -- what comes of each structure


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_each_is_what_it_is_alone(tmp_path: Path, ensemble: str) -> None:
    run = simulating(tmp_path / "run", dataclasses.replace(SETTINGS, ensemble=ensemble, friction=0.01))
    if ensemble == "nve":  # of one atom that nothing holds
        compute(run)
        [failure] = run.failures()
        assert (failure["index"], failure["class"]) == (0, "structure") and "one atom" in failure["message"]
        assert run.progress().statuses.tolist() == [Status.FAILED_STRUCTURE, Status.DONE, Status.DONE]
        return
    compute(run)
    check_as_alone(run, tmp_path)
    momenta = [read(run.path / "md" / f"00000{index}-traj.extxyz", 0).get_momenta() for index in (1, 2)]
    assert (momenta[0] == np.linspace(-1, 1, 12).reshape(4, 3)).all()
    assert compute(run) == [0, 0, 0]


def test_seeds_differ_by_run_and_structure(tmp_path: Path) -> None:
    seeds = {seed_of(seed, index) for seed in (0, 1, 2**32) for index in range(1000)}
    assert len(seeds) == 3000 and max(seeds) < 2**53
    run = simulating(tmp_path / "run")
    compute(run)
    for index in range(3):
        restart = json.loads(files(run, index)["restart.json"])
        assert restart["settings"]["seed"] == seed_of(7, index)


# -- interrupted


def test_killed_at_any_call(tmp_path: Path) -> None:
    """Each process goes on from the restart file until it is killed some calls later; also before there is one."""
    run = simulating(tmp_path / "run")
    killed, before = 0, -1

    def die_in(call: int) -> None:
        left = [call]

        def on_call(*_: int) -> None:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        compute(run, on_call)

    for call in (1, 2, 4, 9, 7, 8, 14, 10, 100):
        if not os.WIFSIGNALED(forked(lambda call=call: die_in(call))):  # type: ignore[misc]
            break
        killed += 1
        recorded = 3 - len(run.missing())
        assert recorded >= before
        before = recorded
    assert killed >= 6
    check_as_alone(run, tmp_path)


def test_stopped_between_two_steps(tmp_path: Path) -> None:
    run = simulating(tmp_path / "run")
    calls = 0

    def stopped() -> bool:
        return bool(calls % 4 == 0)

    def count(*_: int) -> None:
        nonlocal calls
        calls += 1

    starts = 0
    while len(run.missing()):
        calls, starts = 1, starts + 1
        before = [json.loads(path.read_bytes())["step"] for path in run.path.glob("md/*-restart.json")]
        compute(run, count, stopped=stopped)
        after = [json.loads(path.read_bytes())["step"] for path in run.path.glob("md/*-restart.json")]
        assert sum(after) > sum(before)  # not only those at every fifth step
    assert starts > 5
    check_as_alone(run, tmp_path)


def test_what_is_final_and_not_recorded(tmp_path: Path) -> None:
    """Nothing of it is computed again; of a damaged one the last step."""
    run = simulating(tmp_path / "run")
    compute(run)
    before = {index: files(run, index) for index in range(3)}
    for part in run.path.glob("part-*"):
        part.unlink()
    (run.path / "md" / "000002-final.extxyz").write_bytes(before[2]["final.extxyz"][:-20])
    assert run.missing().size == 3
    assert compute(run) == [0, 0, 1]
    assert {index: files(run, index) for index in range(3)} == before
    check_as_alone(run, tmp_path)


# -- failures


class Lost:
    """Loses its worker in some calls of structure 1."""

    def __init__(self, calls: set[int], code: int | None = -11) -> None:
        self.calls, self.code = calls, code

    def __call__(self, index: int, call: int) -> None:
        if index == 1 and call in self.calls:
            error = WorkerDiedError("died")
            error.returncode = self.code
            raise error


def test_a_lost_worker_costs_what_was_not_saved(tmp_path: Path) -> None:
    run = simulating(tmp_path / "run")
    # Its first call; then in step 8, after which step 5 is the last that was saved; and in step 11.
    compute(run, Lost({1, 10, 17}))
    check_as_alone(run, tmp_path)


def test_a_structure_that_kills_its_worker(tmp_path: Path) -> None:
    run = simulating(tmp_path / "run")
    compute(run, Lost({*range(8, 50)}))
    [failure] = run.failures()
    prefix = run.path / "md" / "000001"
    assert failure.items() >= {"index": 1, "class": "structure", "error": "WorkerDiedError"}.items()
    first, last = failure["message"].splitlines()
    assert first == f"died That was after step 5; its files: {prefix}-*"
    assert last == f"rootstock run retry-failed {run.path} goes on after step 5."
    assert compute(run) == [0, 0, 0]
    assert 0 < compute(run, retry_failed=True)[1] < 12
    check_as_alone(run, tmp_path)


def test_trouble_of_a_node_is_no_failure_of_a_structure(tmp_path: Path) -> None:
    run = simulating(tmp_path / "run")
    with pytest.raises(WorkerDiedError, match=r"starts.xyz@1: died"):
        compute(run, Lost({*range(8, 50)}, code=-9))
    assert run.missing().tolist() == [1, 2] and next(run.failures())["class"] == "infrastructure"
    compute(run)
    check_as_alone(run, tmp_path)


@pytest.mark.parametrize("error", [NonFiniteError("NaN."), ValueError("no number")])
def test_one_that_becomes_unstable(tmp_path: Path, error: Exception) -> None:
    run = simulating(tmp_path / "run")

    def unstable(index: int, call: int) -> None:
        if (index, call) == (1, 8):
            raise error

    compute(run, unstable)
    [failure] = run.failures()
    assert (failure["class"], failure["error"], failure["structure"]) == (
        "structure", "NonFiniteError", "starts.xyz@1, Cu4"
    )  # fmt: skip
    assert f"after step 6; its files: {run.path}/md/000001-*" in failure["message"].splitlines()[0]
    assert "use a shorter --timestep, with another --run." in failure["message"]
    assert run.progress().statuses.tolist() == [Status.DONE, Status.FAILED_STRUCTURE, Status.DONE]
    with pytest.raises(RootstockError, match="starts.xyz@1"):
        compute(run, unstable_from_the_start, retry_failed=True, stop_on_error=True)


def unstable_from_the_start(index: int, call: int) -> None:
    if index == 1:
        raise ModelError("no")


def test_a_restart_file_of_something_else(tmp_path: Path) -> None:
    run = simulating(tmp_path / "run")
    (run.path / "md").mkdir()
    for ending, content in alone(tmp_path, 2).items():
        if ending != "final.extxyz":
            (run.path / "md" / f"000001-{ending}").write_bytes(content)
    compute(run)
    [failure] = run.failures()
    assert failure["index"] == 1 and "began with another structure" in failure["message"]
    command = f"rm {run.path}/md/000001-* && rootstock run retry-failed {run.path}"
    assert failure["message"].endswith(f"To begin this one anew: {command}")
    for path in run.path.glob("md/000001-*"):
        path.unlink()
    compute(run, retry_failed=True)
    check_as_alone(run, tmp_path)


@pytest.mark.parametrize("limit", [1000, 3000, 5000])
def test_a_file_that_cannot_grow(tmp_path: Path, limit: int) -> None:
    """It ends the run, and is no structure's failure; what was written in part is cut off."""
    run = simulating(tmp_path / "run")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        with pytest.raises(OutputError, match=r"(?s)Cannot write .*/md/0.*goes on from the restart file") as caught:
            compute(run)
        assert "--" not in str(caught.value)  # no options of a single simulation

    assert forked(limited) == 0
    assert 2 in run.missing() and not [*run.failures()]
    compute(run)
    check_as_alone(run, tmp_path)
