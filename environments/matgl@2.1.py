# /// script
# requires-python = ">=3.11"
# # The last release with the message passing that the weights of 2025.1 were trained with: 2.2 and newer compute wrong
# # numbers with them, but for crystals whose atoms are all alike. See matgl.py, _refuse_old().
# dependencies = ["matgl==2.1.2", "ase>=3.25", "torch>=2.4"]
#
# [tool.rootstock]
# description = "MatGL 2.1, for TensorNet-MatPES-PBE of 2025.1, as published. Energies, forces, stress."
# family = "MatGL"
# room = { megabytes = 1500, files = 45000, cuda = { megabytes = 6000 } }
# licence = { code = "BSD-3-Clause", weights = "BSD-3-Clause" }
# notes = [
#     "For results of before MatGL 3. Environment matgl has newer models.",
#     "Single precision. MatGL's calculator gives stress in GPa unless told otherwise; here it is eV/A^3, as in ASE.",
#     "Crystals and molecules only: mixed periodic boundary conditions are refused, for the library would take such a slab as a molecule. Give it pbc=True and vacuum.",
#     "A checkpoint is a pickle: loading one runs the code in it. Load only those that you trust.",
# ]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress"]
# elements = ["H-Bi", "Ac-Pu"]
# training-set = "MatPES-PBE"
# functional = "PBE"
# # The library looks for weights below the home, and makes that folder; no variable changes it.
# home = [".cache/matgl"]
#
# [tool.rootstock.models]
# "" = "TensorNet-MatPES-PBE-v2025.1-PES"
# "TensorNet-MatPES-PBE-v2025.1-PES" = "TensorNet, MatPES 2025.1"
# "/path/to/folder" = "a TensorNet of your own, as MatGL's save() writes it"
#
# [[tool.rootstock.citation]]
# authors = "Ko, Tsz Wai and Deng, Bowen and Nassar, Marcel and Barroso-Luque, Luis and Liu, Runze and Qi, Ji and Thakur, Atul C. and Mishra, Adesh Rohan and Liu, Elliott and Ceder, Gerbrand and Miret, Santiago and Ong, Shyue Ping"
# title = "Materials Graph Library (MatGL), an open-source graph deep learning library for materials science and chemistry"
# journal = "npj Computational Materials"
# volume = "11"
# pages = "253"
# year = 2025
# doi = "10.1038/s41524-025-01742-y"
#
# [[tool.rootstock.citation]]
# authors = "Kaplan, Aaron D. and Liu, Runze and Qi, Ji and Ko, Tsz Wai and Deng, Bowen and Riebesell, Janosh and Ceder, Gerbrand and Persson, Kristin A. and Ong, Shyue Ping"
# title = "A Foundational Potential Energy Surface Dataset for Materials"
# year = 2025
# arxiv = "2503.04070"
#
# [[tool.rootstock.citation]]
# authors = "Simeon, Guillem and De Fabritiis, Gianni"
# title = "TensorNet: Cartesian Tensor Representations for Efficient Learning of Molecular Potentials"
# year = 2023
# arxiv = "2306.06482"
# models = ["TensorNet-*"]
#
# # Single precision.
# [tool.rootstock.finite-differences]
# forces = 5e-3
# stress = 1e-3
#
# [[tool.rootstock.references]]
# name = "MoS, CsCl structure, a = 4 A"
# source = "MatGL, tests/ext/test_ase_pyg.py::test_PESCalculator_and_M3GNetCalculator (2.x)"
# versions = { matgl = ">=2,<2.2" }
# model = "TensorNet-MatPES-PBE-v2025.1-PES"
# needs_weights = true
# symbols = "MoS"
# cell = [4.0, 4.0, 4.0]
# scaled_positions = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
# expected = { energy = -10.4884214 }
# # That test: 1e-5 and 1e-6 of the value.
# tolerance = { energy = 1e-4 }
#
# [[tool.rootstock.references]]
# name = "Ac-Ala3-NHMe"
# source = "MatGL, tests/ext/test_ase_pyg.py::test_PESCalculator_mol (2.x)"
# versions = { matgl = ">=2,<2.2" }
# model = "TensorNet-MatPES-PBE-v2025.1-PES"
# needs_weights = true
# symbols = "H3COCNHCHC2OH3NHCHC2OH3NHCHC2OH3NHCH3"
# pbc = false
# positions = [
#     [2.04866, 3.0397, -1.90538],
#     [2.57508, 1.72268, -0.856315],
#     [2.17184, 3.30896, -0.152382],
#     [1.90655, 2.58401, -0.92348],
#     [0.037714, 1.25465, -1.59488],
#     [0.483967, 2.10062, -0.827513],
#     [-0.289728, 2.66225, 0.136071],
#     [0.161037, 3.23064, 0.832326],
#     [-1.66536, 2.24227, 0.388567],
#     [-1.9808, 2.78577, 1.282],
#     [-2.60093, 2.60713, -0.760946],
#     [-1.65737, 0.769353, 0.840767],
#     [-1.07671, 0.464849, 1.87157],
#     [-3.62795, 2.3159, -0.527314],
#     [-2.58345, 3.68786, -0.912033],
#     [-2.28934, 2.13627, -1.69468],
#     [-2.28796, -0.137832, 0.065975],
#     [-2.61433, 0.150844, -0.842711],
#     [-2.21633, -1.56248, 0.355258],
#     [-2.49106, -1.71026, 1.40128],
#     [-3.17539, -2.32986, -0.547194],
#     [-0.796612, -2.1518, 0.244173],
#     [-0.545385, -3.20721, 0.795462],
#     [-3.09773, -3.39555, -0.33182],
#     [-4.20586, -2.01059, -0.375903],
#     [-2.92852, -2.17659, -1.60274],
#     [0.085186, -1.43854, -0.489616],
#     [-0.203936, -0.57022, -0.92587],
#     [1.4937, -1.76346, -0.597477],
#     [1.62352, -2.74612, -0.134396],
#     [1.93595, -1.80971, -2.05523],
#     [2.37375, -0.79291, 0.212842],
#     [3.55545, -0.639111, -0.056601],
#     [3.00626, -2.00417, -2.11517],
#     [1.39238, -2.59759, -2.5804],
#     [1.73079, -0.853384, -2.54426],
#     [1.77244, -0.143217, 1.23186],
#     [0.795387, -0.298277, 1.437],
#     [2.52442, 0.707989, 2.12658],
#     [3.17617, 0.124743, 2.7838],
#     [3.1563, 1.39339, 1.55717],
#     [1.81944, 1.27508, 2.73527],
# ]
# expected = { energy = -247.286789 }
# tolerance = { energy = 1e-3 }
#
# [[tool.rootstock.references]]
# name = "Cu, fcc, primitive cell of ase.build.bulk"
# source = "quacc, tests/core/recipes/mlp_recipes/test_core_recipes.py (2025)"
# versions = { matgl = ">=2,<2.2" }
# model = "TensorNet-MatPES-PBE-v2025.1-PES"
# needs_weights = true
# symbols = "Cu"
# cell = [[0.0, 1.805, 1.805], [1.805, 0.0, 1.805], [1.805, 1.805, 0.0]]
# positions = [[0.0, 0.0, 0.0]]
# expected = { energy = -3.7593491077423096 }
# # That test: 1e-4 of the value.
# tolerance = { energy = 4e-4 }
# ///
"""MatGL 2.1."""

import os
from hashlib import sha256
from pathlib import Path

import matgl
from ase.calculators.calculator import all_changes
from huggingface_hub import try_to_load_from_cache
from matgl.config import MATGL_CACHE
from matgl.ext.ase import PESCalculator
from matgl.utils.io import HF_MATGL_ORG

_MODEL = "TensorNet-MatPES-PBE-v2025.1-PES"
# Of state.pt. Weights trained anew for MatGL 3 were published under old names, too.
_SHA256 = "d2dfa51a65d23a47fd935eb0628177d2a1088584562091ef3350ce3a002fce6a"
_FILES = ("model.json", "model.pt", "state.pt")


def setup(model: str, device: str = "cuda"):
    """Return MatGL's calculator: of the released model, also for an empty name, or of a folder with one."""
    if model in ("", _MODEL):
        folder = _released()
    elif (folder := Path(model).expanduser()).is_dir():
        for file in _FILES:
            if not (folder / file).is_file():
                raise ValueError(f"{folder} is no model of MatGL: it holds no {file}.")
    else:
        raise ValueError(f"Unknown model {model!r}: it is neither a folder nor {_MODEL}.")
    return StrictCalculator(matgl.load_model(folder).to(device), stress_unit="eV/A3")


def _released() -> Path:
    """Return the folder of the released model, fetched if it is missing and that is allowed."""
    for folder in _folders():
        if all((folder / file).is_file() for file in _FILES):
            break
    else:
        # Asked before the library is: a download could hang.
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            raise FileNotFoundError(
                f"The weights of MatGL's model {_MODEL!r} are not in this root: there is no {MATGL_CACHE / _MODEL}."
            )
        matgl.load_model(_MODEL)
        folder = next(folder for folder in _folders() if (folder / _FILES[-1]).is_file())
    if (found := sha256((folder / "state.pt").read_bytes()).hexdigest()) != _SHA256:
        raise ValueError(
            f"{folder / 'state.pt'} is not the file that was published for MatGL 2.1: its SHA-256 is {found}."
        )
    return folder


def _folders() -> list[Path]:
    """Return where the library keeps a model: what came from Hugging Face, and what came from GitHub."""
    state = try_to_load_from_cache(f"{HF_MATGL_ORG}/{_MODEL}", "state.pt", cache_dir=MATGL_CACHE)
    return [*([Path(state).parent] if isinstance(state, str) else []), MATGL_CACHE / _MODEL]


class StrictCalculator(PESCalculator):
    """MatGL's calculator, without the numbers that it would get wrong."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  # of this model

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        # The library takes what is not periodic in all directions as a molecule.
        if atoms.pbc.any() and not atoms.pbc.all():
            raise ValueError(
                f"MatGL computes crystals and molecules, not pbc={atoms.pbc.tolist()}: "
                "set pbc to True in all directions, with vacuum where there is a surface."
            )
        super().calculate(atoms, properties, system_changes)
