"""100 relaxations in a pool of processes: jobflow runs flows of ten jobs of atomate2's, and jobs of a user's own."""

import json
import sys
from concurrent.futures import ProcessPoolExecutor

from ase.build import bulk
from ase.optimize import BFGS
from atomate2.forcefields.jobs import ForceFieldRelaxMaker
from jobflow import Flow, job, run_locally
from pymatgen.io.ase import AseAtomsAdaptor

from rootstock import RootstockCalculator

HOW = {"model": "emt", "device": "cpu", "shared": True}


def rattled(seed):
    atoms = bulk("Cu", a=3.5 + 0.002 * seed, cubic=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def run(jobs):
    done = run_locally(Flow(jobs), log=False, create_folders=True, ensure_success=True)
    return [done[each.uuid][1].output for each in jobs]


def by_atomate2(seeds):
    """Make the jobs here; jobflow gives each a copy of the maker, which makes its own calculator."""
    maker = ForceFieldRelaxMaker(
        calculator_meta="rootstock.RootstockCalculator",
        calculator_kwargs=HOW,
        relax_cell=False,
        relax_kwargs={"fmax": 0.02},
        optimizer_kwargs={"optimizer": "BFGS"},
    )
    return [document.output.energy for document in run([maker.make(structure(seed)) for seed in seeds])]


def structure(seed):
    return AseAtomsAdaptor.get_structure(rattled(seed))


@job
def relax(seed):
    atoms = rattled(seed)
    atoms.calc = RootstockCalculator(**HOW)
    BFGS(atoms, logfile=None).run(fmax=0.02)
    return atoms.get_potential_energy()


def by_hand(seed):
    return run([relax(seed)])


if __name__ == "__main__":
    count = int(sys.argv[1])
    half = count // 20 * 10
    with ProcessPoolExecutor(2) as pool:
        flows = pool.map(by_atomate2, [range(begin, begin + 10) for begin in range(0, half, 10)])
        jobs = pool.map(by_hand, range(half, count))
        print(json.dumps([energy for part in (*flows, *jobs) for energy in part]))
