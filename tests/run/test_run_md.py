"""Molecular dynamics of many structures: each is the simulation that it would be alone, whatever came between."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.io import read, write
from ase.io.extxyz import read_xyz
from click.testing import CliRunner

from rootstock.cli.run_line import Line
from rootstock.cli.user import main as user
from rootstock.errors import ModelError, NonFiniteError, OutputError, RootstockError, WorkerDiedError
from rootstock.simulations.dynamics import Dynamics, Simulation
from rootstock.simulations.provenance import SOURCE
from rootstock.simulations.runs.carry_out import carry_out
from rootstock.simulations.runs.elements import Element
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.index import Status
from rootstock.simulations.runs.molecular_dynamics import seed_of
from rootstock.simulations.runs.records import read_run
from tests.support.commands import ROOTSTOCK, Done, clean_environment, started
from tests.support.processes import wait_for
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
        atoms.info.update({"id": index, SOURCE: self.name(index)})
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
        assert ("start_energy" in atoms.info, "start_forces" in atoms.arrays) == (index == 1, index == 1)
        assert "ref_energy" not in atoms.info  # that would be of other positions


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


def test_what_a_restart_file_speaks_of_is_on_the_disk_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a node that is lost, nothing else is there for certain."""
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.rpartition("-")[2])

    monkeypatch.setattr(os, "fsync", fsync)
    run = simulating(tmp_path / "run")
    synced.clear()
    compute(run)
    once = ["stats.dat", "traj.extxyz", "restart.json"]
    of_one = [*once * 4, "final.extxyz"]  # of steps 0, 5, 10 and 12
    assert [name for name in synced if name in of_one] == of_one * 3


def test_a_step_is_told_now_and_then(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = simulating(tmp_path / "run")
    with caplog.at_level("INFO", "rootstock.simulations"):
        compute(run, lambda index, call: (index, call) == (1, 4) and time.sleep(0.6))
    assert "starts.xyz@1: step 3 of 12" in caplog.messages
    line = Line(lambda text: None)
    begun = line._first
    line.tell("starts.xyz@1: step 3 of 12", computes=True)
    assert line._first == begun


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
    assert first == f"after step 5 ({prefix}-*): died"
    assert last == f"rootstock run retry-failed {run.path} goes on after step 5."
    assert compute(run) == [0, 0, 0]
    assert 0 < compute(run, retry_failed=True)[1] < 12
    check_as_alone(run, tmp_path)


class Sick(Potential):
    """Fails in some calls of structure 1, and after these with everything until it is renewed."""

    def __init__(self, calls: set[int]) -> None:
        super().__init__(self.fail)
        self.bad_calls, self.is_sick, self.renewals = calls, False, 0

    def fail(self, index: int, call: int) -> None:
        self.is_sick |= index == 1 and call in self.bad_calls
        if self.is_sick:
            raise ModelError("the device is gone")

    def renew(self) -> None:
        self.is_sick, self.renewals = False, self.renewals + 1


def test_a_worker_that_fails_with_everything_costs_no_structure(tmp_path: Path) -> None:
    run, calc = simulating(tmp_path / "run"), Sick({10})
    carry_out(run, Crystals(), calc, disk=QuickDisk())
    assert calc.renewals == 1
    check_as_alone(run, tmp_path)


def test_a_structure_with_which_its_worker_fails_costs_no_other(tmp_path: Path) -> None:
    run, calc = simulating(tmp_path / "run"), Sick({*range(10, 50)})
    carry_out(run, Crystals(), calc, disk=QuickDisk())
    assert calc.renewals == 2
    assert [(failure["index"], failure["class"]) for failure in run.failures()] == [(1, "structure")]
    assert run.progress().count(Status.DONE) == 2


def test_trouble_of_a_node_is_no_failure_of_a_structure(tmp_path: Path) -> None:
    run = simulating(tmp_path / "run")
    with pytest.raises(WorkerDiedError, match=r"starts.xyz@1: after step 5 .*: died"):
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
    assert failure["message"].startswith(f"after step 6 ({run.path}/md/000001-*): ")
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


def test_two_elements_share_no_structure(tmp_path: Path) -> None:
    run = simulating(tmp_path / "run")
    calls = [compute(run, element=Element(number, 2)) for number in (1, 2)]
    assert all(bool(one) != bool(other) for one, other in zip(*calls, strict=True))
    check_as_alone(run, tmp_path)


# -- the command


Command = Callable[..., Done]
LINE = ("--ensemble", "nvt", "--traj-every", "1", "--stats-every", "1", "--restart-every", "1000000", "--steps")


@pytest.fixture
def rootstock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Command:
    """Return what runs a command in this process; the folder holds `starts.xyz`, whose second structure is unknown."""
    monkeypatch.chdir(tmp_path)
    write("starts.xyz", [bulk(symbol, "fcc", 4.0, cubic=True) for symbol in ("Cu", "U", "Au")])

    def command(*words: str) -> Done:
        done = CliRunner().invoke(user, words, prog_name="rootstock", env=clean_environment(ROOTSTOCK_ROOT=str(root)))
        return Done(words, done.exit_code, done.stdout, done.stderr)

    return command


def test_a_file_of_starts(rootstock: Command) -> None:
    line = ("md", "emt", "starts.xyz", "--device", "cpu", "--run", "melts", *LINE)
    done = rootstock(*line, "3")
    assert done.returncode == 22, done.stderr
    seed = read_run(Path("melts")).settings["seed"]
    assert f"seed {seed}, as the run folder keeps it.\n" in done.stderr
    assert "starts.xyz@1, U4: structure: ConfigurationError: " in done.stderr
    finals = read("melts.extxyz", ":")
    assert [atoms.info["rootstock_source"] for atoms in finals] == ["starts.xyz@0", "starts.xyz@2"]
    assert all(atoms.get_potential_energy() and atoms.get_momenta().any() for atoms in finals)
    assert sorted(path.name for path in Path("melts/md").iterdir()) == [
        f"00000{index}-{name}" for index in (0, 2) for name in sorted(ENDINGS)
    ]
    # The same command goes on; it needs to know no seed.
    again = rootstock(*line, "3")
    assert (
        again.returncode == 22
        and f"seed {seed}, as the run folder keeps it" in again.stderr
        and "none to compute" in again.stderr
    )
    for words, what in (
        (("3", "--seed", "1"), f"seed is {seed} there, and 1 now"),
        (("4",), "steps is 3 there, and 4"),
    ):
        refused = rootstock(*line, *words)
        assert refused.returncode == 3 and f"melts holds another run: settings.{what}" in refused.stderr
    # One of them alone, with the seed that its restart file says.
    its = json.loads(Path("melts/md/000002-restart.json").read_text())["settings"]["seed"]
    assert its == seed_of(seed, 2)
    one = rootstock(
        "md", "emt", "starts.xyz@2", "--device", "cpu", "--file-prefix", "one", "--seed", str(its), *LINE, "3"
    )
    assert not one.returncode, one.stderr
    expected = read("one-traj.extxyz", ":")
    for found, same in zip(read("melts/md/000002-traj.extxyz", ":"), expected, strict=True):
        assert found.positions == pytest.approx(same.positions, abs=1e-9)
        assert found.get_momenta() == pytest.approx(same.get_momenta(), abs=1e-9)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--run", "r", "--restart"), "--restart is for one structure: with --run, the same command always goes on."),
        (
            ("--run", "r", "--file-prefix", "x"),
            "--file-prefix is for one structure: with --run, the files are in r/md.",
        ),
        (("--out", "x.extxyz"), "--out is for --run"),
        (("--element", "1/2"), "--element is for --run."),
        (
            (),
            "starts.xyz holds 3 structures.\nPick one, such as 'starts.xyz@-1'; or simulate each of them: --run FOLDER",
        ),
        (("starts.xyz@0", "--file-prefix", "x"), "Without --run, md simulates one structure, and 2 files were given."),
        (("--run", "r", "--friction", "1", "--ensemble", "nve"), "--friction is for nvt; nve does not use it."),
    ],
)
def test_what_is_refused(rootstock: Command, words: tuple[str, ...], said: str) -> None:
    done = rootstock("md", "emt", "starts.xyz", *LINE, "3", *words)
    assert (done.returncode, said in done.stderr) == (3, True), done.stderr
    assert [path.name for path in Path().iterdir()] == ["starts.xyz"]


def test_a_signal_ends_it_after_a_step(rootstock: Command, root: Path) -> None:
    steps = 150
    words = ("md", "emt", "starts.xyz@0", "--device", "cpu", "--seed", "5", "--run", "melts", *LINE)
    restart, stats = Path("melts/md/000000-restart.json"), Path("melts/md/000000-stats.dat")
    with started([ROOTSTOCK, *words, f"{steps}"], env=clean_environment(ROOTSTOCK_ROOT=str(root))) as process:
        wait_for(restart.exists, "the first restart file")  # it is written before the first step
        process.send_signal(signal.SIGTERM)
        told = process.communicate()[1]
    assert process.returncode == 130, told
    assert "Interrupted. 0 of 1 structures are recorded. Continue with: rootstock run continue melts" in told
    step = json.loads(restart.read_text())["step"]
    assert 0 < step < steps and len(stats.read_text().splitlines()) == step + 2
    done = rootstock("run", "continue", "melts")
    assert not done.returncode, done.stderr
    assert len(read("melts.extxyz", ":")) == 1
    assert np.loadtxt(stats)[:, 0].tolist() == list(range(steps + 1))
