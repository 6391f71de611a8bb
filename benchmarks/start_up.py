"""Time from construction to the first energy, against the same imports and model load without Rootstock.

    python benchmarks/start_up.py --root ROOT --model emt [--repeat 5]

Two parts. With a build: the interpreter of the build runs the environment file and computes an energy, once by itself
and once as a worker. With ``uv run``: the first start in an empty root, where uv makes the environment (from its own
cache of packages, which is empty too), and those after it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.environment import BUILD_SOURCE, EnvironmentManager

ALONE = """
import sys
from ase import Atoms
source = compile(open(sys.argv[1]).read(), sys.argv[1], "exec")
exec(source, globals())
atoms = Atoms("Cu4", cell=[3.61] * 3, pbc=True, scaled_positions=[(0, 0, 0), (0, .5, .5), (.5, 0, .5), (.5, .5, 0)])
atoms.calc = setup(sys.argv[2], "cpu")
atoms.get_potential_energy()
"""


def first_energy(**arguments: object) -> float:
    atoms = bulk("Cu", cubic=True)
    start = time.perf_counter()
    with RootstockCalculator(device="cpu", **arguments) as calc:  # type: ignore[arg-type]
        atoms.calc = calc
        atoms.get_potential_energy()
        return time.perf_counter() - start


def alone(root: Path, environment: str) -> float:
    manager = EnvironmentManager(root)
    launch = manager.launch(manager.find(environment))
    assert launch.build is not None
    start = time.perf_counter()
    # Until the energy is there: the end of the process costs neither of the two anything here.
    command = [*launch.command, "-c", ALONE + "import os; os._exit(0)", str(launch.build / BUILD_SOURCE), ""]
    subprocess.run(
        command, env=dict(launch.variables), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", default="emt")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    root = arguments.root.absolute()
    pairs = [
        (alone(root, arguments.model), first_energy(root=root, model=arguments.model)) for _ in range(arguments.repeat)
    ]
    bare, worker = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"build     alone {bare:.2f} s   as a worker {worker:.2f} s   ratio {worker / bare:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "emt.py")
        shutil.copy(EnvironmentManager(root).find("emt").path, file)
        times = [
            first_energy(root=Path(folder, "root"), environment=file, model="") for _ in range(arguments.repeat + 1)
        ]
    print(f"uv run    cold {times[0]:.2f} s   warm {statistics.median(times[1:]):.2f} s")


if __name__ == "__main__":
    main()
