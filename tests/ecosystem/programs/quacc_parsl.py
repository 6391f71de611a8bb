"""100 relaxations of quacc's in two processes of Parsl's; QUACC_WORKFLOW_ENGINE=parsl is set."""

import json
import sys

import parsl
from ase.build import bulk
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.jobs.error_handlers import windowed_error_handler
from parsl.providers import LocalProvider
from quacc.recipes.mlip.core import relax_job


def rattled(seed):
    atoms = bulk("Cu", a=3.5 + 0.002 * seed, cubic=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


executor = HighThroughputExecutor(
    address="127.0.0.1",
    max_workers_per_node=2,
    block_error_handler=windowed_error_handler,
    provider=LocalProvider(init_blocks=1, max_blocks=1),
)
how = {"checkpoint": "emt", "device": "cpu", "opt_params": {"fmax": 0.02}, "write_files": False}
with parsl.load(Config(executors=[executor], retries=2, initialize_logging=False)):
    futures = [relax_job(rattled(seed), "rootstock", **how) for seed in range(int(sys.argv[1]))]
    energies = [future.result(timeout=300)["results"]["energy"] for future in futures]
print(json.dumps(energies))
