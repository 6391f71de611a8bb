"""Five hundred lives of calculators with faults at random moments: no hang, no wrong number, nothing left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import clean_environment

PROGRAM = Path(__file__).with_name("chaos.py")


@pytest.mark.timeout(1800)
def test_five_hundred_lives(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path / "root", "--seed", "20261124"],
        env=clean_environment(TMPDIR=str(scratch)), capture_output=True, text=True, timeout=1700,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    result = json.loads(done.stdout)
    assert not result["problems"], "\n".join(result["problems"][:5])
    assert result["lives"] >= 500 and result["clients_killed"] >= 10, result
    kinds = ["ModelError", "NonFiniteError", "WorkerDiedError", "WorkerProtocolError", "WorkerStartError",
             "WorkerTimeoutError", "KeyboardInterrupt"]  # fmt: skip
    assert all(result["seen"].get(kind, 0) >= 3 for kind in kinds), result["seen"]
    # Logs are kept of workers that failed, or whose client was killed; there is nothing else.
    folders = {path.relative_to(scratch).parts[1] for path in scratch.glob("rootstock-*/*")}
    assert folders <= {"log", "cache"}, folders
    failures = sum(result["seen"].get(kind, 0) for kind in kinds) + 4 * result["clients_killed"]
    assert len(list(scratch.glob("rootstock-*/log/*"))) <= failures, result
