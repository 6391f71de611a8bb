"""Time from nothing to the first energy, and its parts, against the same imports and model load without Rootstock.

    python benchmarks/start_up.py --root ROOT [--model emt chgnet ...] [--repeat 5] [--uv-run] [--json FILE]

Of each model, which must be built in ROOT: the interpreter of the build runs the environment file and computes an
energy, once by itself, once as a worker whose stages are timed, and once through `RootstockCalculator`. They take
turns; the figures are medians. With ``--uv-run`` also emt without a build: its first start in an empty root, where uv
makes the environment (from its own cache of packages, which is empty too), and those after it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import record
from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.channel.memory import PROPERTY_BITS
from rootstock.client import Client
from rootstock.environment import EnvironmentManager
from rootstock.inputs import Inputs
from rootstock.model import parse_model_string
from rootstock.sources import registered_names
from rootstock.spawn import Launch

THREADS = 1  # several wait for each other where other programs run, for seconds
PARTS = ["build found", "interpreter and numpy", "ase", "environment file", "model", "first energy"]
# time.monotonic() is the machine's clock: what two processes read can be compared.
ALONE = """
import sys, time
import numpy
marks = [time.monotonic()]
from ase import Atoms
marks.append(time.monotonic())
source = compile(open(sys.argv[1]).read(), sys.argv[1], "exec")
exec(source, globals())
marks.append(time.monotonic())
atoms = Atoms("Cu4", cell=[3.61] * 3, pbc=True, scaled_positions=[(0, 0, 0), (0, .5, .5), (.5, 0, .5), (.5, .5, 0)])
atoms.calc = setup(sys.argv[2], "cpu")
marks.append(time.monotonic())
atoms.get_potential_energy()
marks.append(time.monotonic())
print("\\n" + repr(marks), flush=True)
import os
os._exit(0)  # the end of the process costs neither of them anything here
"""


def launch_of(root: Path, model: str) -> tuple[Launch, str]:
    manager = EnvironmentManager(root)
    name, argument = parse_model_string(model, registered_names(manager.layout))
    return manager.launch(manager.find(name), "build", THREADS), argument


def alone(root: Path, model: str) -> list[float]:
    launch, argument = launch_of(root, model)  # without Rootstock, it is known where the build is
    start = time.monotonic()
    command = [*launch.command, "-c", ALONE, str(launch.environment_file), argument]
    printed = subprocess.run(command, env=dict(launch.variables), capture_output=True, text=True, check=True).stdout
    return [0.0, *parts([start, *json.loads(printed.splitlines()[-1])])]


def worker(root: Path, model: str) -> list[float]:
    inputs = Inputs()
    inputs.update(bulk("Cu", cubic=True))
    marks = [time.monotonic()]
    launch, argument = launch_of(root, model)
    marks.append(time.monotonic())
    client = Client(
        launch, argument, "cpu", {}, start_timeout=600.0, on_progress=lambda stage: marks.append(time.monotonic())
    )
    marks.append(time.monotonic())
    client.evaluate(inputs, PROPERTY_BITS["energy"], 600.0)
    marks.append(time.monotonic())
    client.close()
    return parts(marks)


def parts(marks: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(marks)]


def first_energy(**arguments: object) -> float:
    atoms = bulk("Cu", cubic=True)
    start = time.monotonic()
    with RootstockCalculator(device="cpu", **arguments) as calc:  # type: ignore[arg-type]
        atoms.calc = calc
        atoms.get_potential_energy()
        return time.monotonic() - start


def measure(root: Path, model: str, repeat: int) -> list[dict[str, object]]:
    """Return a row for each way, in seconds; parts are medians, and so is the total, which is not quite their sum."""
    runs = [
        (alone(root, model), worker(root, model), [first_energy(root=root, model=model, threads=THREADS)])
        for _ in range(repeat)
    ]
    rows: list[dict[str, object]] = []
    for way, times in zip(["alone", "worker", "calculator"], zip(*runs, strict=True), strict=True):
        row: dict[str, object] = {"model": model, "way": way, "total": statistics.median(map(sum, times))}
        if way != "calculator":
            medians = map(statistics.median, zip(*times, strict=True))
            row["parts"] = dict(zip(PARTS, medians, strict=True))
        rows.append(row)
    return rows


def uv_run(root: Path, repeat: int) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "emt.py")
        shutil.copy(EnvironmentManager(root).find("emt").path, file)
        times = [first_energy(root=Path(folder, "root"), environment=file, model="") for _ in range(repeat + 1)]
    first, later = times[0], statistics.median(times[1:])
    return [
        {"model": "emt", "way": "uv run, the first", "total": first},
        {"model": "emt", "way": "uv run, later", "total": later},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["emt"])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--uv-run", action="store_true")
    parser.add_argument("--json", type=Path, help="where to write the figures, in seconds; plot.py reads it")
    arguments = parser.parse_args()
    root = arguments.root.absolute()
    found = record.new("start_up")
    for model in arguments.model:
        found["rows"] += measure(root, model, arguments.repeat)
    if arguments.uv_run:
        found["rows"] += uv_run(root, arguments.repeat)
    for row in found["rows"]:
        seconds = {**row.get("parts", {}), "total": row["total"]}
        print(f"{row['model']:<8} {row['way']:<18}" + "  ".join(f"{part} {s:.2f} s" for part, s in seconds.items()))
    record.write(found, arguments.json)


if __name__ == "__main__":
    main()
