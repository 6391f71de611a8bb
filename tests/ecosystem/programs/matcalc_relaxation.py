"""matcalc with an instance: one structure, and many in processes of joblib's, to which it pickles the calculator."""

import json
import sys

import matcalc
from ase.build import bulk

from rootstock import RootstockCalculator

calc = RootstockCalculator("emt", device="cpu")
assert matcalc.load_fp(calc) is calc
relax = matcalc.RelaxCalc(calc, fmax=0.02)
structures = [bulk("Cu", cubic=True), bulk("Au", cubic=True)]
here = [relax.calc(atoms)["energy"] for atoms in structures]
there = [result["energy"] for result in relax.calc_many(structures, n_jobs=2)]
print(json.dumps({"energies": here, "many": there, "torch": "torch" in sys.modules}))
