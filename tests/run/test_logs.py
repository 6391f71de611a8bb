"""The logs of workers that failed: the newest stay, and no living worker loses its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ase import Atoms

from rootstock.errors import ModelError, WorkerStartError
from tests.run.conftest import Make
from tests.support.folders import small_disk


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


PRINTS = """\
if self.calls == 0:
    print("the beginning", flush=True)
self.calls += 1
size = -1
while os.fstat(1).st_size >= size:  # until somebody has shortened it
    size = os.fstat(1).st_size
    os.write(2, b"a warning\\n" * 10000)
    time.sleep(0.001)
while os.fstat(1).st_size < 1000000:  # until its end is there again
    time.sleep(0.001)
print("the end", flush=True)
"""


def test_a_log_stays_short_within_one_call(make: Make) -> None:
    calc = make(PRINTS, setup="Calculator.calls = 0; return Calculator()")
    for count in (1, 2):
        assert calc.get_potential_energy(Atoms(f"H{count}")) == count
        lines = Path(calc.info()["log"]).read_text().splitlines()
        assert lines[0] == "the beginning"
        assert lines[-1].endswith("the end")
        [cut] = [number for number, line in enumerate(lines) if "the middle of this log was taken out" in line]
        assert len(lines[:cut]) > 50000 < len(lines[cut:])  # half a megabyte
        assert set(lines[1:cut]) == {"a warning"}
        # A line that is being written in the moment of the cut may lose its end, and so run into the next one.
        assert len([line for line in lines[cut + 1 :] if line not in ("a warning", "the end")]) <= count


def test_a_log_stays_short_with_many_calls(make: Make) -> None:
    calc = make("os.write(1, b'x' * 100000)")
    log, size, atoms = Path(calc.info()["log"]), -1, Atoms("H")
    while (now := log.stat().st_size) >= size:
        size = now
        atoms.positions += 1
        calc.get_potential_energy(atoms)


def test_long_lines_do_not_take_both_parts_with_them(make: Make) -> None:
    """Progress bars write one line, with returns; what ends it is an error, perhaps."""
    calc = make("if len(self.atoms) == 1: print('loading', '\\r 12 %' * 500000, 'the error', flush=True)")
    log = Path(calc.info()["log"])
    calc.get_potential_energy(Atoms("H"))
    count = 1
    while log.stat().st_size > 2**21:
        count += 1
        calc.get_potential_energy(Atoms(f"H{count}"))
    text = log.read_text()
    begin, end = text.split("... (here the middle of this log was taken out, since it became too long)\n")
    assert min(len(begin), len(end)) > 500000
    assert "loading" in begin and end.endswith("the error\n")


def test_the_callers_own_log_is_left_alone(make: Make, tmp_path: Path) -> None:
    log = tmp_path / "own.log"
    log.write_text("of an earlier run\n")
    calc = make("os.write(1, b'x' * 9999 + b'\\n'); time.sleep(0.01)", log=log)
    for count in range(1, 301):
        calc.get_potential_energy(Atoms("H", positions=[[count, 0, 0]]))
    assert log.stat().st_size == 18 + 300 * 10000


FULL = """\
import logging, warnings
print("a warning " * 10000, flush=True)
print("a warning " * 10000, file=sys.stderr)
sys.stdout.buffer.write(b"x" * 100000)
sys.stdout.flush()
logging.warning("a warning " * 10000)
warnings.warn("a warning " * 10000)
os.system("echo from C")
"""


def test_a_full_disk_costs_lines_of_the_log_and_nothing_else(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "size=1m", "mode=1777") as disk:
        monkeypatch.setenv("SLURM_TMPDIR", str(disk))
        calc = make(FULL + "if self.atoms.positions[0, 0] == 10: raise ValueError('it failed')")
        for count in range(10):
            assert calc.get_potential_energy(Atoms("H", positions=[[count, 0, 0]])) == 1.0
        assert os.statvfs(disk).f_bavail == 0
        assert Path(calc.info()["log"]).is_relative_to(disk)
        with pytest.raises(ModelError, match="it failed"):
            calc.get_potential_energy(Atoms("H", positions=[[10, 0, 0]]))
