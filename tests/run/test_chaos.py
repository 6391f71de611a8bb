"""Lives of calculators with faults at random moments: no hang, no wrong number, nothing left."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY, clean_environment, run

KINDS = ("ModelError", "NonFiniteError", "WorkerDiedError", "WorkerProtocolError", "WorkerStartError",
         "WorkerTimeoutError", "KeyboardInterrupt")  # fmt: skip


@pytest.mark.parametrize(
    ("lives", "at_once", "of_each", "killed"),
    [
        pytest.param(40, 2, 1, 2),
        # Hours: 80 minutes on 2 idle processors.
        pytest.param(10_000, 4, 60, 200, marks=[pytest.mark.soak, pytest.mark.timeout(8 * 3600)]),
    ],
)
def test_many_lives(tmp_path: Path, lives: int, at_once: int, of_each: int, killed: int) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    sizes = ("--lives", str(lives), "--at-once", str(at_once), "--seed", "20261124")
    words = (sys.executable, "-m", "tests.run.chaos", tmp_path / "root", *sizes)
    done = run(*words, env=clean_environment(TMPDIR=str(scratch)), cwd=REPOSITORY, timeout=None)
    assert done.returncode == 0 and not done.stderr, done.stderr
    result = json.loads(done.stdout)
    assert not result["problems"], "\n".join(result["problems"][:5])
    assert result["lives"] >= lives and result["clients_killed"] >= killed, result
    assert all(result["seen"].get(kind, 0) >= of_each for kind in KINDS), result["seen"]
    # Logs are kept of workers that failed, or whose client was killed; there is nothing else.
    folders = {path.relative_to(scratch).parts[1] for path in scratch.glob("rootstock-*/*")}
    assert folders <= {"log", "cache"}, folders
    failures = sum(result["seen"].get(kind, 0) for kind in KINDS) + 4 * result["clients_killed"]
    assert len(list(scratch.glob("rootstock-*/log/*"))) <= failures, result


@pytest.mark.parametrize(
    "lives", [pytest.param(8), pytest.param(500, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_lives_where_somebody_else_has_the_temporary_folder(tmp_path: Path, lives: int) -> None:
    """Whoever is killed leaves a folder, which the next process removes."""
    scratch = tmp_path / "scratch"
    squatted = scratch / f"rootstock-{os.getuid()}"
    squatted.mkdir(parents=True)
    squatted.chmod(0o777)
    env = clean_environment(TMPDIR=str(scratch))
    words = (sys.executable, "-m", "tests.run.chaos", tmp_path / "root", "--lives", str(lives), "--seed", "20261129")
    done = run(*words, env=env, cwd=REPOSITORY, timeout=None)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert not json.loads(done.stdout)["problems"]
    run(sys.executable, "-c", "from rootstock.client.scratch import private_scratch as p; p()", env=env, check=True)
    assert [path.name for path in scratch.glob("rootstock-*")] == [squatted.name]
    assert not list(squatted.iterdir())
