"""Cost of one call of ``atoms.get_forces()`` over the i-PI protocol, with a potential that costs nothing.

Four ways in one run: the calculator in this process; Rootstock's two ends of the protocol; Rootstock's server with
ASE's SocketClient; ASE's SocketIOCalculator with its SocketClient. They take turns, so that whatever else the machine
does meets all; the figures are medians over all calls, and what counts is their ratio.

    python benchmarks/ipi_overhead.py [--atoms 8 64 ...] [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import runpy
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import record
from ipc_overhead import ASE_WORKER, NOTHING, SIZES, ase_calculator, make_atoms, time_in_turns

from rootstock.ipi import IPICalculator

DRIVER = """
import runpy, sys
from ase.io import read
from rootstock.interfaces.ipi.driver import Driver, connect
atoms = read(sys.argv[2])
atoms.calc = runpy.run_path(sys.argv[1])["setup"]("", "cpu")
Driver(atoms).serve(connect(sys.argv[3], 30))
"""


def measure(n: int, rounds: int, folder: Path) -> dict[str, float]:
    """Return microseconds for each way."""
    calls = max(60, min(1000, 300_000 // n))  # enough for each to warm up after the others
    structure = folder / f"{n}.traj"
    make_atoms(n).write(structure)
    files = [str(NOTHING), str(structure)]
    with ExitStack() as stack:
        contenders = {
            "in process": runpy.run_path(str(NOTHING))["setup"](""),
            "rootstock": stack.enter_context(IPICalculator(command=[sys.executable, "-c", DRIVER, *files, "{socket}"])),
            "ase client": stack.enter_context(
                IPICalculator(command=[sys.executable, "-c", ASE_WORKER, *files, "{address}", ""])
            ),
            "ase both": stack.enter_context(ase_calculator(n, folder)),
        }
        return time_in_turns(contenders, n, rounds, calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to write the figures, in microseconds; plot.py reads it")
    arguments = parser.parse_args()
    results = record.new("ipi_overhead")
    names = ["in process", "rootstock", "ase client", "ase both"]
    print(f"{'atoms':>8} " + " ".join(f"{name:>13}" for name in names) + "   rootstock/in process  rootstock/ase both")
    with tempfile.TemporaryDirectory() as folder:
        for n in arguments.atoms:
            row = measure(n, arguments.rounds, Path(folder))
            results["rows"].append({"atoms": n, **row})
            print(
                f"{n:>8} " + " ".join(f"{row[name]:>10.0f} us" for name in names)
                + f"   {row['rootstock'] / row['in process']:>20.2f} {row['rootstock'] / row['ase both']:>19.3f}",
                flush=True,
            )  # fmt: skip
    record.write(results, arguments.json)


if __name__ == "__main__":
    main()
