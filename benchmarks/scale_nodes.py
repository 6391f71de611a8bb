"""Many nodes: how much faster several slots are than one, and how long the first result takes.

Typed on a login node, with an environment made of ``benchmarks/nothing.py`` in the root, whose model ``waitN`` waits N
milliseconds for each structure and leaves the time at which it was done as the energy. So the time from the first
result to the last is what the nodes themselves say. The scheduler's own delay is that of an array of the same size
whose jobs write down the time and end.

    python benchmarks/scale_nodes.py --root ROOT [--gpus 6] [--structures 300] [--milliseconds 200] [--rounds 3]
                                     [--engine array parsl] [--json FILE]
    python benchmarks/scale_nodes.py --root ROOT --loopback [...]    as root: on a test cluster of three nodes

`overhead_ms` is what a structure costs a slot beside the model, from its first result to its last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record
from ase.build import bulk
from ase.io import read

from rootstock.simulations.extxyz import write_extxyz

LOOK_S = 0.5


class Login:
    """A user on a login node, in a folder that all nodes see."""

    def __init__(self, folder: Path, root: Path, enter: tuple[str, ...] = (), variables: dict[str, str] | None = None):
        self.folder, self.enter = folder, enter
        self.variables = {**(os.environ if variables is None else variables), "ROOTSTOCK_ROOT": str(root)}
        self.rootstock = str(next(root.glob("client/*/bin/rootstock")))

    def run(self, *words: str) -> str:
        command = f"cd {shlex.quote(str(self.folder))} && {shlex.join(words)}"
        done = subprocess.run(
            [*self.enter, "sh", "-c", command], env=self.variables, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout


def compute(login: Login, name: str, model: str, gpus: int, *more: str) -> tuple[float, list[list[float]]]:
    """Compute all structures, and return when that was asked for, and when each was done, by workers."""
    begun = time.time()
    login.run(login.rootstock, "singlepoint", model, "many.xyz", "--run", name, "--gpus", str(gpus), *more)
    while any(job["running"] or job["waiting"] for job in status(login, name)["jobs"]):
        time.sleep(LOOK_S)
    if status(login, name)["missing"]:
        raise SystemExit(f"{name} is not complete.")
    parts = [times for part in (login.folder / name).glob("part-*.extxyz") if (times := times_in(part))]
    if len(read(login.folder / f"{name}.extxyz", ":")) != sum(map(len, parts)):
        raise SystemExit(f"Structures of {name} were computed twice, or are missing.")
    return begun, parts


def times_in(part: Path) -> list[float]:
    """Return when each structure in a part of a run was done, which one worker has computed."""
    return sorted(atoms.calc.results["energy"] for atoms in read(part, ":"))


def status(login: Login, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(login.run(login.rootstock, "run", "status", name, "--json"))
    return found


def schedulers_delay(login: Login, gpus: int) -> float:
    """Return how long it takes until the first job of an array runs."""
    script = login.folder / "delay.sh"
    script.write_text(
        f"#!/bin/sh\n#SBATCH --array=1-{max(gpus, 2)}\n#SBATCH --gres=gpu:1\n#SBATCH --output=/dev/null\n"
        "date +%s.%N > delay-$SLURM_ARRAY_TASK_ID\n"
    )
    begun = time.time()
    login.run("sbatch", "--wait", str(script))
    files = [*login.folder.glob("delay-*")]
    first = min(float(file.read_text()) for file in files)
    for file in files:
        file.unlink()
    return first - begun


def measure(login: Login, options: argparse.Namespace, engine: str, turn: int) -> dict[str, float]:
    model, found = f"{options.model}-wait{options.milliseconds}", {}
    more = ["--walltime", options.walltime, *(["--engine", engine] if engine != "array" else [])]
    for gpus in (1, options.gpus):
        begun, parts = compute(login, f"{engine}-{gpus}-{turn}", model, gpus, *more)
        times = sorted(time for part in parts for time in part)
        # The first result has taken its time before it was there.
        found[f"seconds_{gpus}"] = times[-1] - times[0] + 1e-3 * options.milliseconds
        found[f"first_{gpus}"] = times[0] - begun
    found["ratio"] = found["seconds_1"] / found[f"seconds_{options.gpus}"]
    found["delay"] = schedulers_delay(login, options.gpus)
    steps = sum(len(part) - 1 for part in parts)
    found["overhead_ms"] = 1e3 * sum(part[-1] - part[0] for part in parts) / max(steps, 1) - options.milliseconds
    return found


@contextlib.contextmanager
def loopback(root: Path) -> Iterator[Login]:
    """Bring up the cluster of the tests."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.support.slurm import Slurm

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        cluster = Slurm(Path(folder), nodes=3)
        try:
            yield Login(cluster.home, root, cluster.enter, dict(cluster.variables))
        finally:
            cluster.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", default="nothing", help="the environment of benchmarks/nothing.py")
    parser.add_argument("--gpus", type=int, default=6)
    parser.add_argument("--structures", type=int, default=300)
    parser.add_argument("--milliseconds", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", nargs="+", default=["array"], choices=["array", "parsl"])
    parser.add_argument("--walltime", default="10m")
    parser.add_argument("--loopback", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = record.new("scale_nodes", gpus=str(options.gpus), milliseconds=str(options.milliseconds))
    with contextlib.ExitStack() as stack:
        if options.loopback:
            login = stack.enter_context(loopback(options.root))
        else:
            login = Login(Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd()))), options.root)
        write_extxyz(login.folder / "many.xyz", [bulk("Cu", cubic=True) for _ in range(options.structures)])
        for engine in options.engine:
            turns = [measure(login, options, engine, turn) for turn in range(options.rounds)]
            row = {key: statistics.median(each[key] for each in turns) for key in turns[0]}
            found["rows"].append({"engine": engine, **row})
            print(f"{engine}: " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()), flush=True)
    record.write(found, options.json)


if __name__ == "__main__":
    main()
