"""Descriptors and a Hessian by janus-core, of a model whose environment file lists both methods."""

import json
import sys

import numpy as np
from ase.build import bulk
from ase.io import read
from janus_core.calculations.descriptors import Descriptors
from janus_core.calculations.single_point import SinglePoint

from rootstock import RootstockCalculator

environment, root = sys.argv[1:]
calc = RootstockCalculator("", environment=environment, root=root, device="cpu")
calc.parameters["arch"] = "extra"
atoms = bulk("NaCl", "rocksalt", a=5.63)
atoms.rattle(0.1, seed=1)
atoms.calc = calc
Descriptors(atoms, calc_per_element=True, calc_per_atom=True, write_results=True, file_prefix="all").run()
invariant = {"mean": atoms.info["extra_descriptor"], "Na": atoms.info["extra_Na_descriptor"]}
per_atom = atoms.arrays["extra_descriptors"].tolist()
Descriptors(atoms, invariants_only=False).run()
written = read("all-descriptors.extxyz")
point = SinglePoint(struct=atoms, properties=["energy", "hessian"], write_results=True, file_prefix="point")
results = point.run()
print(
    json.dumps(
        {
            **invariant,
            "per_atom": per_atom,
            "equivariant": atoms.info["extra_descriptor"],
            "written": written.info["extra_descriptor"],
            "hessian": np.asarray(results["hessian"]).tolist(),
            "energy": results["energy"],
            "positions": atoms.positions.tolist(),
            "charges": calc.extra_results["partial_charges"].tolist(),
            "file": np.asarray(read("point-results.extxyz").info["extra_hessian"]).tolist(),
        }
    )
)
