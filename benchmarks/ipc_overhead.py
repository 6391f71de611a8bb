"""Cost of one call of ``atoms.get_forces()`` after a move, with a potential that costs nothing.

Three ways in one run: the calculator in this process; the same in a worker, through Rootstock; the same in another
process, through ASE's SocketIOCalculator over a Unix socket. They take turns, so that whatever else the machine does
meets all three; the figures are medians over all calls, and what counts is their ratio.

    python benchmarks/ipc_overhead.py [--atoms 8 64 ...] [--rounds 7] [--model-ms 5] [--json FILE]

Needs no root: uv makes the worker's environment in a temporary one.
"""

from __future__ import annotations

import argparse
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import record
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.socketio import SocketIOCalculator

from rootstock import RootstockCalculator

NOTHING = Path(__file__).with_name("nothing.py")
SIZES = [8, 64, 512, 4096, 32768, 262144]
ASE_WORKER = """
import runpy, sys
from ase.calculators.socketio import SocketClient
from ase.io import read
atoms = read(sys.argv[2])
atoms.calc = runpy.run_path(sys.argv[1])["setup"](sys.argv[4], "cpu")
SocketClient(unixsocket=sys.argv[3]).run(atoms, use_stress=True)
"""


def make_atoms(n: int) -> Atoms:
    side = 3.0 * n ** (1 / 3)
    positions = np.random.default_rng(0).random((n, 3)) * side
    return Atoms(numbers=np.full(n, 29), positions=positions, cell=[side] * 3, pbc=True)


def time_calls(atoms: Atoms, calls: int) -> list[float]:
    times = []
    for i in range(calls):
        atoms.positions[0, 0] = 1e-3 * (i + 1)
        start = time.perf_counter()
        atoms.get_forces()
        times.append(time.perf_counter() - start)
    return times[calls // 5 :]  # the first ones find cold caches


def time_in_turns(contenders: Mapping[str, Calculator], n: int, rounds: int, calls: int) -> dict[str, float]:
    """Return the median microseconds of a call for each calculator; each makes some calls in every round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, calc in contenders.items():
            atoms = make_atoms(n)
            atoms.calc = calc
            times[name] += time_calls(atoms, calls)
    return {name: statistics.median(values) * 1e6 for name, values in times.items()}


def ase_calculator(n: int, folder: Path, model: str = "") -> SocketIOCalculator:
    structure = folder / f"{n}.traj"
    make_atoms(n).write(structure)
    name = f"rootstock_benchmark_{os.getpid()}_{n}"

    def launch(atoms: Atoms, properties: object, port: object, unixsocket: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", ASE_WORKER, str(NOTHING), str(structure), unixsocket, model])

    return SocketIOCalculator(unixsocket=name, launch_client=launch)


def measure(n: int, rounds: int, rootstock: RootstockCalculator, folder: Path, model: str) -> dict[str, float]:
    """Return microseconds for each way."""
    calls = 100 if model else max(60, min(1000, 300_000 // n))  # enough for each to warm up after the others
    with ase_calculator(n, folder, model) as socketio:
        contenders = {
            "in process": runpy.run_path(str(NOTHING))["setup"](model),
            "rootstock": rootstock,
            "ase socket": socketio,
        }
        return time_in_turns(contenders, n, rounds, calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model-ms", default="", help="let the potential take so many milliseconds (default: none)")
    parser.add_argument("--json", type=Path, help="where to write the figures, in microseconds; plot.py reads it")
    arguments = parser.parse_args()
    results = record.new("ipc_overhead")
    print(f"{'atoms':>8} {'in process':>12} {'rootstock':>12} {'ase socket':>12}   rootstock/in process  rootstock/ase")
    with (
        tempfile.TemporaryDirectory() as folder,
        RootstockCalculator(
            environment=NOTHING, model=arguments.model_ms, root=Path(folder, "root"), device="cpu"
        ) as rootstock,
    ):
        for n in arguments.atoms:
            row = measure(n, arguments.rounds, rootstock, Path(folder), arguments.model_ms)
            results["rows"].append({"atoms": n, **row})
            print(
                f"{n:>8} {row['in process']:>9.0f} us {row['rootstock']:>9.0f} us {row['ase socket']:>9.0f} us   "
                f"{row['rootstock'] / row['in process']:>20.2f} {row['rootstock'] / row['ase socket']:>14.3f}",
                flush=True,
            )
    record.write(results, arguments.json)


if __name__ == "__main__":
    main()
