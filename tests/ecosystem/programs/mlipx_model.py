"""A model in mlipx's ``models.py``."""

import json
import sys

import mlipx
from ase.build import bulk

model = mlipx.GenericASECalculator(
    module="rootstock", class_name="RootstockCalculator", device="cpu", kwargs={"model": "emt"}
)
atoms = bulk("Cu", cubic=True)
atoms.rattle(0.1, seed=1)
atoms.calc = model.get_calculator()
print(json.dumps({"energy": atoms.get_potential_energy(), "torch": "torch" in sys.modules}))
