"""What every rank of an MPI program does with a calculator; the first argument says how. Each rank leaves a file."""

import json
import os
import sys
import time

if sys.argv[1] != "plain":
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    rank = comm.rank
else:
    rank = int(os.environ["PMI_RANK"])

import numpy as np
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from rootstock import RootstockCalculator
from rootstock.errors import RootstockError


def answer(**found):
    with open(f"{rank}.new", "w") as file:
        json.dump(found, file)
    os.rename(f"{rank}.new", f"{rank}.json")


def children():
    """Count the workers of this process."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return len(file.read().split())


def copper(seed=1):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def together(**arguments):
    """Relax on all ranks; every rank follows the same path, bit for bit."""
    atoms = copper()
    with RootstockCalculator("emt", device="cuda", **arguments) as calc:  # which EMT ignores
        atoms.calc = calc
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01)
        return {
            "energy": atoms.get_potential_energy().hex(), "forces": np.abs(atoms.get_forces()).max().hex(),
            "properties": calc.implemented_properties, "workers": children(),
            # Asked by rank 0 alone.
            "pid": calc.info()["pid"] if rank == 0 else None, "threads": calc.info()["threads"],
            "device": calc.device, "told": calc.info()["device"],
        }  # fmt: skip


def many():
    """Compute many structures on all ranks, of which one fails."""
    images = [copper(seed) for seed in range(5)]
    images[3].positions[0, 0] = np.nan
    with RootstockCalculator("emt", device="cpu", shared=True) as calc:  # which means nothing here
        done = calc.evaluate_many(images)
        return {
            "energies": [each.results and each.results["energy"].hex() for each in done],
            "failures": [each.failure for each in done], "workers": children(),
        }  # fmt: skip


def failing():
    """An element that the model does not know, and a wrong property, on every rank; then all goes on."""
    seen = []
    with RootstockCalculator("emt", device="cpu") as calc:
        for atoms in (bulk("Fe", cubic=True), molecule("H2O")):
            atoms.calc = calc
            try:
                seen.append(atoms.get_stress() if len(atoms) == 3 else atoms.get_potential_energy())
            except Exception as error:
                seen.append(type(error).__name__)
        atoms = copper()
        atoms.calc = calc
        return {"errors": seen, "energy": atoms.get_potential_energy(), "workers": children()}


def extras():
    """Extra results and a method, of a model of one's own, on every rank; and one rank that asks for something else."""
    atoms = copper()
    with RootstockCalculator("", environment=os.environ["EXTRA"], root="own-root", device="cpu") as calc:
        atoms.calc = calc
        atoms.get_forces()
        charges, found = calc.extra_results["partial_charges"], calc.get_descriptors(atoms, invariants_only=False)
        messages = []
        for wrong in ({"nonsense": 1}, {"num_layers": rank}):  # an error of the model, and one rank by itself
            try:
                calc.get_descriptors(atoms, **wrong)
            except RootstockError as error:
                messages.append(f"{type(error).__name__}: {error}")
        return {
            "charges": charges.tolist(), "descriptors": found.tolist(), "messages": messages, "workers": children(),
            "positions": atoms.positions.tolist(),
        }  # fmt: skip


def different():
    """Each rank asks about atoms of its own, which one worker cannot serve."""
    atoms = copper(seed=rank)
    atoms.calc = RootstockCalculator("emt", device="cpu")
    try:
        atoms.get_potential_energy()
    except RootstockError as error:
        message = str(error)
    atoms.calc = RootstockCalculator("emt", device="cpu", comm=MPI.COMM_SELF)
    return {"message": message, "energy": atoms.get_potential_energy(), "workers": children()}


def late():
    """Only rank 0 asks: it gives up, and says why."""
    calc = RootstockCalculator("emt", device="cpu", start_timeout=1.0, timeout=1.0)
    message = ""
    if rank == 0:
        try:
            calc.start()
        except RootstockError as error:
            message = str(error)
    answer(message=message)
    if rank == 0:  # it ends the others, which are to say first that they are there
        while not all(os.path.exists(f"{other}.json") for other in range(1, comm.size)):
            time.sleep(0.01)
        comm.Abort(0)
    time.sleep(1000)


def plain():
    """Nothing says that this is an MPI program: every process is on its own."""
    atoms = copper()
    atoms.calc = calc = RootstockCalculator("emt", device="cpu")
    return {"energy": atoms.get_potential_energy(), "workers": children(), "threads": calc.info()["threads"]}


answer(**globals()[sys.argv[1]]())
