"""quacc's jobs in threads: all use the one calculator that quacc keeps for their arguments."""

import json
from concurrent.futures import ThreadPoolExecutor

from ase.build import bulk
from quacc.recipes.mlip._base import pick_calculator
from quacc.recipes.mlip.core import relax_job, static_job

HOW = {"checkpoint": "emt", "device": "cpu"}


def rattled(seed):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def static(seed):
    done = static_job(rattled(seed), "rootstock", **HOW)
    return done["results"]["energy"], pick_calculator("rootstock", **HOW).info()["pid"]


def relaxed(seed):
    done = relax_job(rattled(seed), "rootstock", opt_params={"fmax": 0.02}, **HOW)
    return done["results"]["energy"], done["trajectory_results"][0]["energy"]


with ThreadPoolExecutor(4) as pool:
    statics = pool.map(static, range(40))
    relaxations = pool.map(relaxed, range(8))
    energies, workers = zip(*statics, strict=True)
    found, before = zip(*relaxations, strict=True)
print(json.dumps({"static": energies, "relaxed": found, "before": before, "workers": len(set(workers))}))
