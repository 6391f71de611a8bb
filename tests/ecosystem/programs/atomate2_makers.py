"""atomate2's force fields, by a dictionary and by a dotted name, run as jobflow does."""

import json
import tempfile

from atomate2.forcefields.jobs import ForceFieldRelaxMaker, ForceFieldStaticMaker
from jobflow import run_locally
from pymatgen.core import Lattice, Structure

cubic = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.7), ["Cu"], [[0, 0, 0]])
by_dict = {"@module": "rootstock", "@callable": "RootstockCalculator"}
jobs = [
    ForceFieldStaticMaker(
        force_field_name=by_dict, calculator_kwargs={"model": "emt", "device": "cpu"}
    ).make(cubic),
    ForceFieldRelaxMaker(
        calculator_meta="rootstock.RootstockCalculator", calculator_kwargs={"checkpoint": "emt", "device": "cpu"},
        relax_cell=True, relax_kwargs={"fmax": 0.02}, steps=50,
    ).make(cubic),
]  # fmt: skip
found = []
for job in jobs:
    with tempfile.TemporaryDirectory() as folder:
        [response] = run_locally(job, root_dir=folder, ensure_success=True)[job.uuid].values()
    document = response.output
    found.append({"energy": document.output.energy, "version": document.forcefield_version})
print(json.dumps(found))
