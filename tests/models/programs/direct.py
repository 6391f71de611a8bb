"""Compute structures with a calculator made in this process, without Rootstock: CODE STRUCTURES.

CODE defines ``calc``; STRUCTURES is a JSON list of arguments of `ase.Atoms`. Prints energy, forces and stress exactly.
"""

import json
import sys

import numpy as np
from ase import Atoms

scope: dict = {}
exec(sys.argv[1], scope)
atoms = Atoms()
found = []
for structure in json.loads(sys.argv[2]):
    atoms = Atoms(**structure)
    atoms.calc = scope["calc"]
    values = (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())
    found.append([[float(number).hex() for number in np.ravel(value)] for value in values])
print("RESULT", json.dumps(found))
