"""100 relaxations of atomate2's: each process of a pool runs flows of ten jobs and single jobs, as jobflow does."""

import json
import sys
from concurrent.futures import ProcessPoolExecutor

from ase.build import bulk
from atomate2.forcefields.jobs import ForceFieldRelaxMaker
from jobflow import Flow, run_locally
from pymatgen.io.ase import AseAtomsAdaptor


def rattled(seed):
    atoms = bulk("Cu", a=3.5 + 0.002 * seed, cubic=True)
    atoms.rattle(0.05, seed=seed)
    return AseAtomsAdaptor.get_structure(atoms)


def run_flow(seeds):
    """Make the jobs here; jobflow gives each a copy of the maker, which makes its own calculator."""
    relax = ForceFieldRelaxMaker(
        calculator_meta="rootstock.RootstockCalculator",
        calculator_kwargs={"model": "emt", "device": "cpu", "shared": True},
        relax_cell=False,
        relax_kwargs={"fmax": 0.02},
        optimizer_kwargs={"optimizer": "BFGS"},
    )
    jobs = [relax.make(rattled(seed)) for seed in seeds]
    done = run_locally(Flow(jobs), log=False, create_folders=True, ensure_success=True)
    return [done[job.uuid][1].output.output.energy for job in jobs]


if __name__ == "__main__":
    count = int(sys.argv[1])
    half = count // 2 // 10 * 10
    parts = [*(range(begin, begin + 10) for begin in range(0, half, 10)), *([seed] for seed in range(half, count))]
    with ProcessPoolExecutor(2) as pool:
        print(json.dumps([energy for energies in pool.map(run_flow, parts) for energy in energies]))
