"""A calculator that travels with each of many tasks, in processes of joblib's, Dask's or, by matcalc, of joblib's.

usage: tasks_in_processes.py joblib|dask|matcalc
"""

import json
import os
import sys
from pathlib import Path

from ase.build import bulk

from rootstock import RootstockCalculator

TASKS, PROCESSES = 30, 2


def task(calc, seed):
    atoms = rattled(seed)
    atoms.calc = calc
    return atoms.get_potential_energy(), os.getpid(), calc.info()["pid"]


def rattled(seed):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


class Noting(RootstockCalculator):
    """Notes in a folder which process asked which worker; matcalc hands out no calculators."""

    def get_property(self, name, atoms=None, allow_calculation=True):
        value = super().get_property(name, atoms, allow_calculation)
        Path(f"asked-{os.getpid()}-{self.info()['pid']}").touch()
        return value


def many_tasks(calc, seeds):
    done = calc.evaluate_many([rattled(seed) for seed in seeds])
    return [(each.results["energy"], os.getpid(), calc.info()["pid"]) for each in done]


def by_joblib(calc):
    """Half of the tasks have one structure each, others many, as the guide to many structures has it."""
    from joblib import Parallel, delayed

    half, parts = TASKS // 2, [range(begin, begin + 5) for begin in range(TASKS // 2, TASKS, 5)]
    tasks = [*(delayed(task)(calc, seed) for seed in range(half)), *(delayed(many_tasks)(calc, part) for part in parts)]
    found = Parallel(PROCESSES)(tasks)
    return [*found[:half], *(each for part in found[half:] for each in part)]


def by_dask(calc):
    from dask.distributed import Client

    with Client(n_workers=PROCESSES, threads_per_worker=2, dashboard_address=None) as client:
        return client.gather([client.submit(task, calc, seed, pure=False) for seed in range(TASKS)])


def by_matcalc(calc):
    from matcalc import RelaxCalc

    calc = Noting(**{name: calc.parameters[name] for name in ("model", "root", "device")})
    relax = RelaxCalc(calc, max_steps=0, relax_atoms=False, relax_cell=False)
    energies = [done["energy"] for done in relax.calc_many([rattled(seed) for seed in range(TASKS)], n_jobs=PROCESSES)]
    asked = [path.name.split("-")[1:] for path in Path().glob("asked-*")]
    return [(energy, *map(int, asked[i % len(asked)])) for i, energy in enumerate(energies)]


if __name__ == "__main__":
    spread = {"joblib": by_joblib, "dask": by_dask, "matcalc": by_matcalc}[sys.argv[1]]
    found = spread(RootstockCalculator("emt", device="cpu"))
    workers = sorted({(process, worker) for _, process, worker in found})
    print(json.dumps({"energies": [energy for energy, _, _ in found], "workers": workers}))
