"""Many structures: one by one in process, together in process, and by `evaluate_many`, in CPU seconds.

In process means a Python of the build's own environment, which runs the same environment file: one structure after the
other with ``calculate``, and in batches with ``calculate_batch``, of several sizes, of which the best counts. Each way
runs once before it counts; then they take turns, so that whatever else the machine does meets all of them. Figures are
medians of CPU seconds, all on one thread: of the process that computes, and for `evaluate_many` also of the client.

    python benchmarks/scale.py --root ROOT --model NAME [--model NAME ...] [--structures 64] [--rounds 5] [--json FILE]
    python benchmarks/scale.py --root ROOT --model NAME --memory 100000 [--json FILE]
    python benchmarks/scale.py --root ROOT --model nothing --pool 200 --workers 2 [--json FILE]
    OPENBLAS_NUM_THREADS=1 python benchmarks/scale.py --root ROOT --model NAME --lockstep 64 [--json FILE]
    python benchmarks/scale.py --root ROOT --model NAME --busy 512 [--drivers 1 2 3] [--device cuda] [--json FILE]

The structures are rock salt of 8 or 16 atoms; ``--elements Cu Au`` names others than sodium and chlorine. With
``--memory`` so many are streamed through `iter_many`, and the client's largest memory is told. With ``--lockstep`` so
many are relaxed, with 20 steps each: CPU microseconds of the client for a step of one structure. `steps` is what
optimizers and cells cost, where the forces cost nothing; `ase` the step of ASE's optimizer in that; `client` all that
the client does with a worker. With ``--busy`` so many cells of 12 atoms are relaxed by one, two and three drivers, each
with a worker on the same device: the part of the time for which workers compute, as they say themselves. With
``--pool`` so many are computed by several workers, with an environment made of ``benchmarks/nothing.py`` that waits
200 ms for each: the part of the time for which workers wait, from the first result to the last.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lockstep
import numpy as np
import record
from ase import Atoms
from ase.build import bulk

from rootstock import RootstockCalculator, Run
from rootstock.client.resolve import resolve
from rootstock.config.packaged import PACKAGE
from rootstock.root.layout import RootLayout
from rootstock.simulations.extxyz import write_extxyz

PROPERTIES = ("energy", "forces", "stress")
SIZES = (4, 8, 16, 32, 64)
IN_PROCESS = """
import json, sys, time
sys.path.append(sys.argv[1])
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes
from rootstock.worker.environment_file import call_setup, load_setup
calc = call_setup(load_setup(sys.argv[2]), sys.argv[3], "cpu", {})
images = [Atoms(**given) for given in json.loads(sys.stdin.readline())]
names = json.loads(sys.stdin.readline())
print(json.dumps(hasattr(calc, "calculate_batch")), flush=True)
for line in sys.stdin:
    size = int(line)
    begun = time.process_time()
    if size:
        found = [each for k in range(0, len(images), size) for each in calc.calculate_batch(images[k:k + size], names)]
    else:
        found = []
        for atoms in images:
            calc.reset()
            calc.calculate(atoms, names, all_changes)
            found.append(dict(calc.results))
    took = time.process_time() - begun
    print(json.dumps([took, [float(each["energy"]) for each in found]]), flush=True)
"""


def structures(count: int, elements: list[str]) -> Iterator[Atoms]:
    rng = np.random.default_rng(5)
    for k in range(count):
        atoms = bulk("".join(elements), "rocksalt", a=5.64, cubic=True) * (1, 1, 1 + k % 2)
        atoms.rattle(0.08, rng=rng)
        yield atoms


class InProcess:
    """The same environment file in a Python of its own."""

    def __init__(self, root: Path, model: str, images: list[Atoms]) -> None:
        resolved = resolve(RootLayout(root), model, "cpu", "build")
        launch = resolved.launch(threads=1)
        command = [launch.command[0], "-I", "-W", "ignore", "-c", IN_PROCESS, str(PACKAGE.parent)]
        self._process = subprocess.Popen(
            [*command, str(launch.environment_file), resolved.argument], env=dict(launch.variables), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        given = [{name: getattr(a, name).tolist() for name in ("numbers", "positions", "cell", "pbc")} for a in images]
        self.has_hook = self._tell(json.dumps(given) + "\n" + json.dumps(PROPERTIES))

    def run(self, size: int) -> tuple[float, list[float]]:
        """Return CPU seconds and energies; 0 is one by one."""
        took, energies = self._tell(str(size))
        return took, energies

    def _tell(self, line: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        while (said := self._process.stdout.readline()) and said[:1] not in "[tf":
            pass  # libraries print
        return json.loads(said)

    def close(self) -> None:
        self._process.communicate()


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def by_rootstock(calc: RootstockCalculator, images: list[Atoms]) -> tuple[float, float, list[float]]:
    """Return CPU seconds of the worker and of this process, and energies."""
    pid = calc.info()["pid"]
    worker, client = cpu_of(pid), time.process_time()
    done = calc.evaluate_many(images, PROPERTIES)
    mine = time.process_time() - client
    return cpu_of(pid) - worker, mine, [each.results["energy"] for each in done if each.results is not None]


def measure(root: Path, model: str, images: list[Atoms], rounds: int) -> dict[str, Any]:
    """Return medians of CPU seconds for all structures, by each way, and ratios."""
    repeat = max(1, -(-256 // len(images)))  # the kernel counts the worker's time in ticks of 10 ms
    direct = InProcess(root, model, images)
    sizes = [size for size in SIZES if size <= len(images)] if direct.has_hook else []
    times: dict[str, list[float]] = {}
    with RootstockCalculator(model=model, root=root, device="cpu", threads=1) as calc:
        for turn in range(rounds + 1):
            loop, energies = direct.run(0)
            found = {"loop": loop}
            for size in sizes:
                found[f"batch of {size}"], _ = direct.run(size)
            worker, client, ours = by_rootstock(calc, images * repeat)
            together = max(1, round(calc.info()["batches"]["atoms"] / (sum(map(len, images)) / len(images))))
            if sizes:  # as many as the worker computes together, for what the channel costs
                found["same size"], _ = direct.run(together)
            if turn == 0:
                first = worker / repeat
            found |= {"worker": worker / repeat, "client": client / repeat}
            difference = max(abs(a - b) for a, b in zip(energies * repeat, ours, strict=True))
            for way, seconds in found.items() if turn else ():
                times.setdefault(way, []).append(seconds)
    direct.close()
    medians = {way: statistics.median(seconds) for way, seconds in times.items()}
    best = min((medians[f"batch of {size}"] for size in sizes), default=medians["loop"])
    same = medians.get("same size", medians["loop"])
    return {
        "structures": len(images),
        "atoms": sum(map(len, images)),
        "cpu": medians,
        "first pass": first,
        "native / loop": medians["loop"] / best,
        "evaluate_many / loop": medians["loop"] / medians["worker"],
        "together": together,
        "worker / native of that size": medians["worker"] / same,
        "client us": medians["client"] / len(images) * 1e6,
        "difference eV": difference,
    }


def memory(root: Path, model: str, count: int, elements: list[str]) -> dict[str, Any]:
    """Return the client's largest memory in MB when structures are streamed."""
    with RootstockCalculator(model=model, root=root, device="cpu", threads=1) as calc:
        begun, failed = time.process_time(), 0
        for each in calc.iter_many(structures(count, elements), PROPERTIES):
            failed += each.error is not None
        took = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"structures": count, "failed": failed, "peak MB": peak, "client us": took / count * 1e6}


def pool(root: Path, environment: str, count: int, workers: int, milliseconds: int) -> dict[str, Any]:
    """Return for which part of the time the workers of a pool compute, from the first result to the last."""
    with tempfile.TemporaryDirectory() as place:
        given, folder = Path(place) / "input.extxyz", Path(place) / "many.run"
        write_extxyz(given, structures(count, ["Cu", "Au"]))
        run = Run.singlepoint(
            given, model=f"{environment}-wait{milliseconds}", run=folder, workers=workers, root=root, device="cpu",
            threads=1,
        )  # fmt: skip
        run.start()
        run.wait()
        ends = [each.results["energy"] for each in run.results()]
    each = 1e-3 * milliseconds
    whole = max(ends) - min(ends) + each
    return {
        "workers": workers, "structures": count, "ms a structure": milliseconds, "seconds": whole,
        "busy": len(ends) * each / whole / workers,
    }  # fmt: skip


def cells(count: int, elements: list[str]) -> list[Atoms]:
    """Return cells of 12 atoms."""
    images = [bulk("".join(elements), "rocksalt", a=5.64) * (1, 2, 3) for _ in range(count)]
    for k, atoms in enumerate(images):
        atoms.rattle(0.08, seed=k)
    return images


def rows(asked: argparse.Namespace, model: str) -> Iterator[dict[str, Any]]:
    """Yield what was asked for."""
    if asked.pool:
        yield pool(asked.root, model, asked.pool, asked.workers, 200)
    elif asked.lockstep:
        yield from lockstep.lockstep(asked.root, model, list(structures(asked.lockstep, asked.elements)))
    elif asked.busy:
        images = cells(asked.busy, asked.elements)
        for cell, drivers in itertools.product(lockstep.CELLS, asked.drivers):
            yield lockstep.busy(asked.root, model, asked.device, images, drivers, cell)
    elif asked.memory:
        yield memory(asked.root, model, asked.memory, asked.elements)
    else:
        yield measure(asked.root, model, list(structures(asked.structures, asked.elements)), asked.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--elements", nargs=2, default=["Na", "Cl"])
    parser.add_argument("--structures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=0)
    parser.add_argument("--lockstep", type=int, default=0)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--drivers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pool", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    kind = next((kind for kind in ("memory", "lockstep", "busy", "pool") if getattr(asked, kind)), "")
    found = record.new(f"scale_{kind}" if kind else "scale")
    for model in asked.model:
        shown = model if os.sep not in model else f"{model.partition('-')[0]}, small, random weights"
        for row in rows(asked, model):
            found["rows"].append({"model": shown, **row})
            print(json.dumps(found["rows"][-1], indent=None if kind else 1), flush=True)
    record.write(found, asked.json)


if __name__ == "__main__":
    main()
