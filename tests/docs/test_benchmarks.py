"""The programs in benchmarks/ run, write what they found, and it can be drawn. How fast anything is, no test says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.support.commands import REPOSITORY, run

BENCHMARKS = REPOSITORY / "benchmarks"
PLOTS = REPOSITORY / "docs" / "explanation" / "plots"
CALLS = ["--atoms", "2048", "4096", "--rounds", "1"]


def benchmark(program: str, *arguments: str | Path) -> None:
    run(sys.executable, BENCHMARKS / program, *arguments, check=True)


def figures(values: Any) -> list[float]:
    """Return every number in rows."""
    if isinstance(values, dict | list):
        return [n for value in (values.values() if isinstance(values, dict) else values) for n in figures(value)]
    return [values] if isinstance(values, float) else []


def test_calls(tmp_path: Path) -> None:
    found = {}
    for name, ways in (
        ("ipc_overhead", {"in process", "rootstock", "ase socket"}),
        ("ipi_overhead", {"in process", "rootstock", "ase client", "ase both"}),
    ):
        benchmark(f"{name}.py", *CALLS, "--json", tmp_path / f"{name}.json")
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
        assert found[name]["machine"]["cores"] >= 1
        assert set(found[name]["machine"]["load"]) == {"start", "end"}
        assert [row["atoms"] for row in found[name]["rows"]] == [2048, 4096]
        assert all(set(row) == ways | {"atoms"} and min(row.values()) > 0 for row in found[name]["rows"])
    benchmark("plot.py", *(tmp_path / f"{name}.json" for name in found), "--output", tmp_path)
    for name in found:
        text = "".join(ElementTree.parse(tmp_path / f"{name}.svg").getroot().itertext())
        assert "number of atoms" in text
        assert "4,096" in text


def test_a_start(root: Path, tmp_path: Path) -> None:
    benchmark("start_up.py", "--root", root, "--model", "emt", "--repeat", "1", "--json", tmp_path / "starts.json")
    rows = {row["way"]: row for row in json.loads((tmp_path / "starts.json").read_text())["rows"]}
    assert list(rows) == ["import rootstock", "rootstock --help", "alone", "worker", "calculator"]
    alone, worker, calculator = rows["alone"], rows["worker"], rows["calculator"]
    for row in (alone, worker):
        assert list(row["parts"]) == [
            "build found", "interpreter and numpy", "ase", "environment file", "model", "first energy",
        ]  # fmt: skip
        assert sum(row["parts"].values()) == pytest.approx(row["total"])
        assert min(row["parts"].values()) >= 0
    assert calculator["total"] > 0


def test_many_structures(root: Path, tmp_path: Path) -> None:
    where = ("--root", root, "--model", "emt", "--elements", "Cu", "Au", "--json", tmp_path / "scale.json")
    benchmark("scale.py", *where, "--structures", "4", "--rounds", "1")
    (row,) = json.loads((tmp_path / "scale.json").read_text())["rows"]
    assert (row["structures"], row["atoms"], row["difference eV"]) == (4, 48, 0.0)
    assert min(figures(row["cpu"])) > 0
    benchmark("scale.py", *where, "--memory", "50")
    (row,) = json.loads((tmp_path / "scale.json").read_text())["rows"]
    assert (row["structures"], row["failed"]) == (50, 0)
    assert row["peak MB"] > 0


def test_relaxations_together(root: Path, tmp_path: Path) -> None:
    where = ("--root", root, "--model", "emt", "--elements", "Cu", "Au", "--json", tmp_path / "scale.json")
    benchmark("scale.py", *where, "--lockstep", "2")
    rows = json.loads((tmp_path / "scale.json").read_text())["rows"]
    assert len({(row["optimizer"], row["cell"]) for row in rows}) == 8
    assert all(0 < row["steps"] < 1e5 and 0 < row["ase"] < 1e5 and row["client"] > 0 for row in rows)
    benchmark("scale.py", *where, "--busy", "4", "--drivers", "2", "--device", "cpu")
    rows = json.loads((tmp_path / "scale.json").read_text())["rows"]
    assert [(row["cell"], row["drivers"]) for row in rows] == [("fixed", 2), ("full", 2)]
    assert all(0 < row["busy"] <= 1 and row["structure-steps/s"] > 0 for row in rows)


@pytest.mark.parametrize("name", ["ipc_overhead", "ipi_overhead", "scale", "start_up"])
def test_plots_show_the_figures_beside_them(name: str, tmp_path: Path) -> None:
    record = json.loads((PLOTS / f"{name}.json").read_text(encoding="utf-8"))
    assert record["date"]
    assert min(figures(record["rows"])) >= 0
    benchmark("plot.py", PLOTS / f"{name}.json", "--output", tmp_path)
    text, shown = (
        "".join(ElementTree.parse(folder / f"{name}.svg").getroot().itertext()) for folder in (tmp_path, PLOTS)
    )
    assert text.split() == shown.split()
