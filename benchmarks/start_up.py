"""Time from nothing to the first energy, and its parts, against the same imports and model load without Rootstock.

    ROOT/client/VERSION/bin/python benchmarks/start_up.py --root ROOT [--model emt chgnet ...] [--repeat 6] [--uv-run]
                                                          [--device cpu] [--json FILE]

Of each model, which must be built in ROOT: the interpreter of the build runs the environment file and computes an
energy, once by itself, once as a worker whose stages are timed, and once through `RootstockCalculator`. Before these
rounds each runs once, and in each round another begins. All three get the same options of the interpreter and the same
variables, and a session of their own, for Linux shares a busy machine among sessions. The figures are medians.

What is there before any of it is timed too: ``import rootstock``, less what Python needs for nothing, and
``rootstock --help``. With ``--uv-run`` also emt without a build: its first start in an empty root, where uv
makes the environment (from its own cache of packages, which is empty too), and those after it.

Use the client of a root, as users do. From a checkout the worker's code may have to be compiled in every start.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import record
from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.client.connection import WorkerConnection
from rootstock.client.inputs import Inputs
from rootstock.client.process import Launch
from rootstock.client.resolve import resolve
from rootstock.root.layout import RootLayout
from rootstock.worker.channel.memory import PROPERTY_BITS

THREADS = 1  # several wait for each other where other programs run, for seconds
PARTS = ["build found", "interpreter and numpy", "ase", "environment file", "model", "first energy"]
# time.monotonic() is the machine's clock: what two processes read can be compared.
ALONE = """
import sys, time

def compute():
    import numpy
    marks = [time.monotonic()]
    from ase import Atoms
    marks.append(time.monotonic())
    source = compile(open(sys.argv[1]).read(), sys.argv[1], "exec")
    exec(source, globals())
    marks.append(time.monotonic())
    atoms = Atoms("Cu4", cell=[3.61] * 3, pbc=True, scaled_positions=[(0, 0, 0), (0, .5, .5), (.5, 0, .5), (.5, .5, 0)])
    atoms.calc = setup(sys.argv[2], sys.argv[4])
    marks.append(time.monotonic())
    atoms.get_potential_energy()
    marks.append(time.monotonic())
    print("\\n" + repr(marks), flush=True)

def at_depth(calls):
    at_depth(calls - 1) if calls else compute()

at_depth(int(sys.argv[3]))
import os
os._exit(0)  # the end of the process costs neither of them anything here
"""
# Python keeps the frames of calls in chunks, and fetches or drops memory whenever a call crosses the end of one. How
# often an import does depends on how deep it begins: CHGNet's between 5,000 and 30,000 times, which is 4 % of its time.
# The worker begins at a depth of its own, so what runs alone begins at several.
DEPTHS = itertools.cycle(range(0, 20, 3))


def launch_of(root: Path, model: str) -> tuple[Launch, str]:
    resolved = resolve(RootLayout(root), model, mode="build")
    return resolved.launch(THREADS), resolved.argument


def alone(root: Path, model: str, device: str) -> list[float]:
    launch, argument = launch_of(root, model)  # without Rootstock, it is known where the build is
    start = time.monotonic()
    command = [*launch.command, "-c", ALONE, str(launch.environment_file), argument, str(next(DEPTHS)), device]
    printed = subprocess.run(
        command, env=dict(launch.variables), capture_output=True, text=True, check=True, start_new_session=True
    ).stdout
    return [0.0, *parts([start, *json.loads(printed.splitlines()[-1])])]


def worker(root: Path, model: str, device: str) -> list[float]:
    inputs = Inputs()
    inputs.update(bulk("Cu", cubic=True))
    marks = [time.monotonic()]
    launch, argument = launch_of(root, model)
    marks.append(time.monotonic())
    client = WorkerConnection(
        launch, argument, device, {}, start_timeout=600.0, on_progress=lambda stage: marks.append(time.monotonic())
    )
    marks.append(time.monotonic())
    client.evaluate(inputs, PROPERTY_BITS["energy"], 600.0)
    marks.append(time.monotonic())
    client.close()
    return parts(marks)


def parts(marks: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(marks)]


def first_energy(device: str, **arguments: object) -> float:
    atoms = bulk("Cu", cubic=True)
    start = time.monotonic()
    with RootstockCalculator(device=device, **arguments) as calc:  # type: ignore[arg-type]
        atoms.calc = calc
        atoms.get_potential_energy()
        return time.monotonic() - start


def in_turns(ways: dict[str, Callable[[], list[float]]], repeat: int) -> dict[str, list[list[float]]]:
    """Return what each way took in each round; in every round another one begins."""
    for measure in ways.values():  # the first has to read the files from the disk
        measure()
    times: dict[str, list[list[float]]] = {way: [] for way in ways}
    for turn in range(repeat):
        order = [*ways][turn % len(ways) :] + [*ways][: turn % len(ways)]
        for way in order:
            times[way].append(ways[way]())
    return times


def measure(root: Path, model: str, device: str, repeat: int) -> list[dict[str, object]]:
    """Return a row for each way, in seconds; parts are medians, and so is the total, which is not quite their sum."""
    ways: dict[str, Callable[[], list[float]]] = {
        "alone": lambda: alone(root, model, device),
        "worker": lambda: worker(root, model, device),
        "calculator": lambda: [first_energy(device, root=root, model=model, threads=THREADS)],
    }
    rows: list[dict[str, object]] = []
    for way, times in in_turns(ways, repeat).items():
        row: dict[str, object] = {"model": model, "way": way, "total": statistics.median(map(sum, times))}
        if way != "calculator":
            medians = map(statistics.median, zip(*times, strict=True))
            row["parts"] = dict(zip(PARTS, medians, strict=True))
        rows.append(row)
    return rows


def at_once(repeat: int) -> list[dict[str, object]]:
    """Return the time of what needs no worker."""
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "import rootstock": [sys.executable, "-c", "import rootstock"],
        "rootstock --help": [sys.executable, "-c", "from rootstock.cli.user import main; main()", "--help"],
    }

    def run(command: list[str]) -> list[float]:
        begun = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return [time.monotonic() - begun]

    ways: dict[str, Callable[[], list[float]]] = {way: partial(run, command) for way, command in commands.items()}
    seconds = {way: statistics.median(map(sum, times)) for way, times in in_turns(ways, repeat).items()}
    seconds["import rootstock"] -= seconds.pop("python")
    return [{"model": "", "way": way, "total": total} for way, total in seconds.items()]


def uv_run(root: Path, repeat: int) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "emt.py")
        shutil.copy(RootLayout(root).environment_file("emt"), file)
        times = [first_energy("cpu", root=Path(folder, "root"), environment=file, model="") for _ in range(repeat + 1)]
    first, later = times[0], statistics.median(times[1:])
    return [
        {"model": "emt", "way": "uv run, the first", "total": first},
        {"model": "emt", "way": "uv run, later", "total": later},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["emt"])
    parser.add_argument("--repeat", type=int, default=6)
    parser.add_argument("--uv-run", action="store_true")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument("--json", type=Path, help="where to write the figures, in seconds; plot.py reads it")
    arguments = parser.parse_args()
    root = arguments.root.absolute()
    results = record.new("start_up", device=arguments.device)
    results["rows"] += at_once(3 * arguments.repeat)
    for model in arguments.model:
        results["rows"] += measure(root, model, arguments.device, arguments.repeat)
    if arguments.uv_run:
        results["rows"] += uv_run(root, arguments.repeat)
    alone_s = {row["model"]: row["total"] for row in results["rows"] if row["way"] == "alone"}
    for row in results["rows"]:
        seconds = {**row.get("parts", {}), "total": row["total"]}
        line = f"{row['model']:<8} {row['way']:<18}" + "  ".join(f"{part} {s:.3f} s" for part, s in seconds.items())
        if row["way"] in ("worker", "calculator"):
            line += f"  {row['total'] / alone_s[row['model']]:.3f} of alone"
        print(line)
    record.write(results, arguments.json)


if __name__ == "__main__":
    main()
