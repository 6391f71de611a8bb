"""``--workers`` as a person types it, what is shown meanwhile, and `rootstock.Run`."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ase.build import bulk
from click.testing import CliRunner

from rootstock import Relaxation, Relaxed, RootstockCalculator, Run
from rootstock.cli.run_line import Line
from rootstock.cli.user import main as user
from rootstock.errors import ConfigurationError, LockBusyError, UnknownEnvironmentError
from rootstock.root.holder import Holder
from rootstock.simulations.extxyz import write_extxyz
from rootstock.simulations.pool.run import deadline_of
from rootstock.simulations.runs.elements import Element
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.worker_states import read_states, telling_states
from tests.support.commands import Done, clean_environment
from tests.support.processes import wait_for
from tests.support.run_folders import new_run

STRUCTURES = 12


@pytest.fixture(name="here")
def folder_with_structures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder one is in, with structures, one of which no model here knows."""
    monkeypatch.chdir(tmp_path)
    images = [bulk("Cu", cubic=True) * (1, 1, 1 + k % 2) for k in range(STRUCTURES)]
    for k, atoms in enumerate(images):
        atoms.rattle(0.05, seed=k)
        atoms.info["id"] = k
    images[5].symbols[0] = "Li"
    write_extxyz(Path("many.xyz"), images)
    return tmp_path


@pytest.fixture(name="environment")
def environment_of_a_user(root: Path, here: Path) -> dict[str, str]:
    return clean_environment(ROOTSTOCK_ROOT=str(root))


def rootstock(environment: dict[str, str], *words: str) -> Done:
    """Run a command in this process; its drivers are processes all the same."""
    done = CliRunner().invoke(user, words, prog_name="rootstock", env=environment)
    return Done(words, done.exit_code, done.stdout, done.stderr)


def test_one_command(environment: dict[str, str]) -> None:
    relax = ("relax", "emt", "many.xyz", "--device", "cpu", "--fmax", "0.01", "--workers", "2")
    planned = rootstock(environment, *relax, "--dry-run")
    assert planned.returncode == 0 and [*map(str, Path().iterdir())] == ["many.xyz"]
    assert planned.stdout.startswith("many-relaxed.run: 12 structures (4 to 8 atoms each) with emt; 12 to compute\n")
    assert "results: many-relaxed.extxyz\n2 workers (" in planned.stdout and "Nothing was started." in planned.stdout
    trial = rootstock(environment, *relax, "--limit", "4")
    assert trial.returncode == 0 and "The other 8 structures take about" in trial.stdout, trial.stderr
    assert "worker hours\nCompute the rest: rootstock run continue many-relaxed.run" in trial.stdout.replace(
        ".\n", "\n"
    )
    assert not Path("many-relaxed.extxyz").exists()
    done = rootstock(environment, *relax)
    assert done.returncode == 22 and "1 of 12 structures failed" in done.stderr, done.stderr
    assert "12 structures with emt; 4 are done, 8 to compute" in done.stderr.replace(
        "3 are done, 1 failed", "4 are done"
    )
    assert "many-relaxed.extxyz: 11 of 12 structures" in done.stdout and " steps, " in done.stdout
    # Nothing is left to do: no place is looked for, and no GPU is missed.
    again = rootstock(environment, "run", "continue", "many-relaxed.run", "--workers", "auto", "--device", "cuda")
    assert again.returncode == 22 and "none to compute" in again.stderr
    status = json.loads(rootstock(environment, "run", "status", "many-relaxed.run", "--json").stdout)
    assert (status["done"], status["missing"], status["partial"], status["computed_twice"]) == (11, 0, 0, 0)


def test_optimizers_that_search_along_a_line_say_that_they_go_one_by_one(environment: dict[str, str]) -> None:
    words = ("--device", "cpu", "--optimizer", "BFGSLineSearch", "--workers", "1", "--run", "lines")
    done = rootstock(environment, "relax", "emt", "many.xyz@:4", *words)
    assert done.returncode == 0, done.stderr
    assert "BFGSLineSearch asks for forces within a step: each worker relaxes one structure" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "0"), "--workers 0 is no number of workers."),
        (("--workers", "many"), "--workers many is no number of workers."),
        (("--workers", "2", "--device", "cuda:1"), "each take another"),
        (("--workers", "1", "--device", "cuda"), "No GPU was found"),
        (("--limit", "3"), "--limit is for --workers"),
        (("--grace", "3"), "--grace is for --workers"),
        (("--dry-run",), "--dry-run is for --workers"),
        (("--workers", "2", "more.xyz"), "The results of 2 files go into one run folder, which has no name yet."),
    ],
)
def test_wrong_words(environment: dict[str, str], words: tuple[str, ...], message: str) -> None:
    Path("more.xyz").write_bytes(Path("many.xyz").read_bytes())
    done = rootstock(environment, "relax", "emt", "many.xyz", *words)
    assert done.returncode in (2, 3, 18) and message in done.stderr and "Traceback" not in done.stderr
    assert not [*Path().glob("*.run")]  # nothing is made before it is known where to compute


def test_python_programs(root: Path, here: Path) -> None:
    relaxation = Relaxation(fmax=0.02, cell="full")
    background = Run.relax("many.xyz", model="emt", settings=relaxation, workers=2, device="cpu", root=root)
    with pytest.raises(ConfigurationError, match="is not there"):
        [*background.results()]
    background.start()
    with pytest.raises(LockBusyError):
        background.start()
    with pytest.raises(TimeoutError):
        background.wait(0.01)
    counts = background.wait()
    assert (counts["done"], counts["failed_structure"], counts["missing"]) == (STRUCTURES - 1, 1, 0)
    found = [*background.results()]
    assert [each.index for each in found] == [*range(STRUCTURES)]
    assert [each.index for each in found if each.error is not None] == [5] and found[5].structure.info["id"] == 5
    assert all(isinstance(each, Relaxed) and each.converged is (None if each.error else True) for each in found)
    assert min(each.steps for each in found if each.error is None) > 0
    with RootstockCalculator("emt", root=root, device="cpu") as calc:
        alone = relaxation.run(found[5 - 1].structure.copy(), calc)
    assert abs(alone.get_potential_energy() - found[4].results["energy"]) < 1e-6
    opened = Run.open(here / "many-relaxed.run")
    assert not opened.is_running() and len([*opened.results()]) == STRUCTURES
    unknown = Run.singlepoint("many.xyz", model="emd", run="other", device="cpu", root=root)
    unknown.start()
    with pytest.raises(UnknownEnvironmentError, match="emd"):
        unknown.wait()


def test_a_run_in_the_background_is_ended_and_goes_on(root: Path, here: Path) -> None:
    background = Run.relax(
        "many.xyz", model="emt", settings=Relaxation(fmax=1e-9, steps=10**6), workers=1, device="cpu", root=root
    )
    background.start()
    wait_for((background.folder / "run.json").exists, "the run folder")
    background.cancel()  # before it has begun to compute
    assert not background.is_running()
    background.start()
    wait_for(lambda: background.folder.joinpath("computing-1-of-1.json").exists(), "a process that computes")
    background.cancel()
    assert not background.is_running() and RunFolder.open(background.folder).progress().counts()["done"] == 0
    again = Run.relax("many.xyz", model="emt", run="few", settings=Relaxation(steps=1), device="cpu", root=root)
    again.start()
    assert again.wait()["not_converged"] == STRUCTURES - 1


@pytest.mark.parametrize(("structures", "more"), [(["a.xyz", "b.xyz"], {}), ("a.xyz", {"wrkers": 2})])
def test_wrong_arguments(structures: object, more: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Run.relax(structures, model="emt", **more)  # type: ignore[arg-type]


def test_the_end_of_a_job() -> None:
    assert deadline_of({}) is None and deadline_of({"SLURM_JOB_END_TIME": "1790000000"}) == 1.79e9
    assert deadline_of({"ROOTSTOCK_DEADLINE": "5.5", "SLURM_JOB_END_TIME": "6"}) == 5.5
    with pytest.raises(ConfigurationError, match="unset ROOTSTOCK_DEADLINE"):
        deadline_of({"ROOTSTOCK_DEADLINE": "soon"})


def test_what_workers_do_is_shown(tmp_path: Path) -> None:
    shown: list[str] = []
    line = Line(shown.append)
    line.begin(new_run(tmp_path / "run", [3] * 40), 40)
    line.states({"GPU 0": "starting", "GPU 1": "computing"})
    assert shown[-1] == "0 of 40 computed, 0 failed; 1 computing, GPU 0: starting"
    line.states({f"GPU {k}": "starting" for k in range(6)})
    assert shown[-1].endswith("; GPU 0: starting, GPU 1: starting, GPU 2: starting, GPU 3: starting, 2 more")
    line.states(dict.fromkeys(("GPU 0", "GPU 1"), "computing"))
    line.add(range(20))
    assert (
        "20 of 40 computed, 0 failed, " in shown[-1] and "atoms/s" in shown[-1] and shown[-1].endswith("; 2 computing")
    )


def test_the_time_counts_from_where_workers_begin(tmp_path: Path) -> None:
    shown: list[str] = []
    line = Line(shown.append)
    line.begin(new_run(tmp_path / "run", [3] * 40), 40)
    line.states({"GPU 0": "starting"})
    line.states({"GPU 0": "computing"})
    time.sleep(0.3)
    line.states({"GPU 0": "a.xyz@0: step 7 of 9"})
    line.add(range(3))
    assert float(re.findall(r"([0-9.]+) structures/s", shown[-1])[0]) <= 10 and " left" in shown[-1]


def test_nobody_can_tell_how_long_relaxations_take_that_go_on_together(tmp_path: Path) -> None:
    shown: list[str] = []
    line = Line(shown.append)
    line.begin(new_run(tmp_path / "run", [3] * 40, kind="relax", settings=asdict(Relaxation())), 40)
    line.add(range(19))
    assert " left" not in shown[-1]
    line.add([20])
    assert " left" in shown[-1]


def test_a_run_that_is_being_made(environment: dict[str, str], here: Path) -> None:
    (here / "new.run").mkdir()
    maker = Holder.of_this_process("rootstock relax")
    (here / "new.run/making.json").write_text(maker.to_json())
    done = rootstock(environment, "run", "status", "new.run")
    assert done.returncode == 3 and f"The run new.run is being made by {maker}" in done.stderr
    (here / "new.run/making.json").write_text(replace(maker, start="long ago 1").to_json())
    done = rootstock(environment, "run", "status", "new.run")
    assert done.returncode == 3 and "holds no run" in done.stderr  # the one that made it was killed


def test_what_workers_do_is_told_to_others(tmp_path: Path) -> None:
    element, me = Element(2, 4), Holder.of_this_process("")
    file, others = tmp_path / "workers-2-of-4.json", tmp_path / "others"
    others.write_text("{}")
    file.symlink_to(others)
    with telling_states(tmp_path, element) as tell:
        tell({"GPU 0": "starting", "GPU 1": "computing"})
        assert read_states(tmp_path, element, me) == {"GPU 0": "starting", "GPU 1": "computing"}
        assert others.read_text() == "{}"  # nothing is written where a link leads
        # What a killed process has left says nothing of another one.
        assert not read_states(tmp_path, element, replace(me, pid=1)) and not read_states(tmp_path, Element(), me)
        file.write_text(file.read_text()[:20])
        assert not read_states(tmp_path, element, me)
        file.unlink()
        file.mkdir()  # whatever hinders it, the computation goes on
        tell({"GPU 0": "computing"})
        file.rmdir()
        tell({"GPU 0": "computing"})
    assert not file.exists()
