"""100 relaxations of quacc's in two processes of Dask's, two threads each; QUACC_WORKFLOW_ENGINE=dask is set."""

import json
import sys

from ase.build import bulk
from dask.distributed import Client
from quacc.recipes.mlip.core import relax_job


def rattled(seed):
    atoms = bulk("Cu", a=3.5 + 0.002 * seed, cubic=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


if __name__ == "__main__":
    how = {"checkpoint": "emt", "device": "cpu", "shared": True, "opt_params": {"fmax": 0.02}, "write_files": False}
    with Client(n_workers=2, threads_per_worker=2, dashboard_address=None) as client:
        jobs = [relax_job(rattled(seed), "rootstock", **how) for seed in range(int(sys.argv[1]))]
        energies = [done["results"]["energy"] for done in client.gather(client.compute(jobs))]
    print(json.dumps(energies))
