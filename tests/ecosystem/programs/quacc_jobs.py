"""quacc's recipes with ``library="rootstock"``, as its documentation shows them."""

import json
import sys

from ase.build import bulk
from quacc.recipes.mlip._base import pick_calculator
from quacc.recipes.mlip.core import relax_job, static_job

atoms = bulk("Cu", cubic=True)
atoms.rattle(0.1, seed=1)
how = {"checkpoint": "emt", "device": "cpu"}
static = static_job(atoms, "rootstock", **how)
relaxed = relax_job(atoms, "rootstock", relax_cell=True, opt_params={"fmax": 0.02}, **how)
calc = pick_calculator("rootstock", **how)  # the one that both jobs used: quacc keeps it
print(
    json.dumps(
        {
            "energy": static["results"]["energy"],
            "relaxed": relaxed["results"]["energy"],
            "stress": max(map(abs, relaxed["results"]["stress"])),
            "parameters": static["parameters"],
            "worker": calc.info()["pid"],
            "calls": calc.info()["calls"]["count"],
            "torch": "torch" in sys.modules,
        }
    )
)
