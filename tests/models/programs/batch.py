"""Compute structures one by one and together, by an environment's calculator: FILE MODEL OPTIONS STRUCTURES.

OPTIONS is a JSON table of arguments of ``setup()``. STRUCTURES is a JSON list of [properties, structures], each of them
[arguments of `ase.Atoms`, info, tags]. Prints for each the results one by one and together, an exception as its text,
and what ``batch_cost`` said of the structures before they were computed together.
"""

import json
import runpy
import sys

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties

file, model, options, structures = sys.argv[1:]
calc = runpy.run_path(file)["setup"](model, "cpu", **json.loads(options))


def made(arguments, info, tags):
    atoms = Atoms(**arguments)
    atoms.info.update(info)
    atoms.set_tags(tags)
    return atoms


def plain(results):
    if isinstance(results, Exception):
        return f"{type(results).__name__}: {results}"
    return {name: np.asarray(results[name], dtype=float).tolist() for name in all_properties if name in results}


def alone(atoms, properties):
    calc.reset()
    try:
        calc.calculate(atoms, properties)
    except Exception as error:
        return plain(error)
    return plain(calc.results)


answers = []
for properties, rows in json.loads(structures):
    one_by_one = [alone(made(*row), properties) for row in rows]
    images = [made(*row) for row in rows]
    before = [set(vars(atoms)) for atoms in images]
    costs = calc.batch_cost(images)
    together = list(map(plain, calc.calculate_batch(images, properties)))
    assert [set(vars(atoms)) for atoms in images] == before, "what batch_cost has kept is still there"
    assert together == list(map(plain, calc.calculate_batch(images, properties))), "without batch_cost, another result"
    answers.append([one_by_one, together, list(map(float, costs))])
print("RESULT", json.dumps(answers))
