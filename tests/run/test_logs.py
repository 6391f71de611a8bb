"""The logs of workers that failed: the newest stay, and no living worker loses its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ase import Atoms

from rootstock.errors import WorkerStartError
from tests.run.conftest import Make


def test_old_logs_of_failed_workers_go(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    folder = tmp_path / f"rootstock-{os.getuid()}" / "log"
    calc = make().start()
    [living] = folder.iterdir()
    os.utime(living, (1, 1))
    for i in range(60):
        (folder / f"emt-{i:02}.log").write_text("it failed")
        os.utime(folder / f"emt-{i:02}.log", (1000 + i, 1000 + i))
    (folder / "emt-link.log").symlink_to(tmp_path / "nowhere")
    failed = make(setup="raise ValueError('no')")
    with pytest.raises(WorkerStartError, match="ValueError: no"):
        failed.start()
    names = {path.name for path in folder.iterdir()}
    assert {f"emt-{i:02}.log" for i in range(60)} & names == {f"emt-{i}.log" for i in range(10, 60)}
    assert living.name in names  # the oldest of all
    assert len(names - {living.name, "emt-link.log"}) == 51  # those, and that of the worker that failed last
    assert calc.get_potential_energy(Atoms("H")) == 1.0
