# /// script
# requires-python = ">=3.11"
# # 4.1.2 is the release that the checkpoints of September 2026 were published for. Older ones compute something else of
# # the same weights: see _refuse_old().
# dependencies = ["matgl>=4.1.2,<5", "ase>=3.25", "torch>=2.4"]
#
# [tool.rootstock]
# description = "MatGL: TensorNet, M3GNet, CHGNet and QET trained on MatPES, 89 elements. Energies, forces, stress."
# family = "MatGL"
# room = { megabytes = 1500, files = 45000, cuda = { megabytes = 6000 } }
# licence = { code = "BSD-3-Clause", weights = "as stated at https://huggingface.co/materialyze" }
# notes = [
#     "Single precision. MatGL's calculator gives stress in GPa unless told otherwise; here it is eV/A^3, as in ASE.",
#     "Crystals and molecules only: mixed periodic boundary conditions are refused, for the library would take such a slab as a molecule. Give it pbc=True and vacuum.",
#     "Weights of 2025.1 and before were trained with an error in the message passing that MatGL 3.0 corrected. With a newer MatGL they give wrong numbers without a warning, except for crystals whose atoms are all alike. They are refused here; matgl@2.1 computes them as they were published.",
#     "setup_kwargs={'hessian': True}: a Hessian with each result, in calc.extra_results['hessian']. It takes 3N times as long.",
#     "QET takes the total charge from the atoms' initial charges.",
# ]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress"]
# extra-properties = { hessian = "3N,3N" }
# elements = ["H-Bi", "Ac-Pu"]
# training-set = "MatPES-PBE"
# functional = "PBE"
# variants = [
#     { models = ["*-r2SCAN-*"], training-set = "MatPES-r2SCAN", functional = "r2SCAN" },
#     { models = ["CHGNet-*"], properties = ["energy", "free_energy", "forces", "stress", "magmoms"] },
#     { models = ["QET-*"], properties = ["energy", "free_energy", "forces", "stress", "charges"] },
# ]
# # The library looks for weights below the home, and makes that folder; no variable changes it.
# home = [".cache/matgl"]
#
# [tool.rootstock.models]
# "" = "TensorNet-PES-MatPES-PBE-2025.2"
# "TensorNet-PES-MatPES-PBE-2025.2" = "the most accurate without charges"
# "TensorNet-PES-MatPES-r2SCAN-2025.2" = "the most accurate without charges"
# "M3GNet-PES-MatPES-PBE-2025.2" = "small: 0.3 million parameters"
# "M3GNet-PES-MatPES-r2SCAN-2025.2" = "small: 0.3 million parameters"
# "CHGNet-PES-MatPES-PBE-1M-2026.9" = "magnetic moments; 1 million parameters"
# "CHGNet-PES-MatPES-r2SCAN-1M-2026.9" = "magnetic moments; 1 million parameters"
# "QET-PES-MatPES-PBE-2025.2" = "TensorNet with charge equilibration"
# "QET-PES-MatPES-r2SCAN-2025.2" = "TensorNet with charge equilibration"
# "/path/to/folder" = "a model of your own, as MatGL's save() writes it"
#
# [tool.rootstock.aliases]
# tensornet-matpes-pbe = "TensorNet-PES-MatPES-PBE-2025.2"
# tensornet-matpes-r2scan = "TensorNet-PES-MatPES-r2SCAN-2025.2"
# m3gnet-matpes-pbe = "M3GNet-PES-MatPES-PBE-2025.2"
# m3gnet-matpes-r2scan = "M3GNet-PES-MatPES-r2SCAN-2025.2"
# chgnet-matpes-pbe = "CHGNet-PES-MatPES-PBE-1M-2026.9"
# chgnet-matpes-r2scan = "CHGNet-PES-MatPES-r2SCAN-1M-2026.9"
# qet-matpes-pbe = "QET-PES-MatPES-PBE-2025.2"
# qet-matpes-r2scan = "QET-PES-MatPES-r2SCAN-2025.2"
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
# [[tool.rootstock.citation]]
# authors = "Chen, Chi and Ong, Shyue Ping"
# title = "A universal graph deep learning interatomic potential for the periodic table"
# journal = "Nature Computational Science"
# volume = "2"
# pages = "718--728"
# year = 2022
# doi = "10.1038/s43588-022-00349-3"
# models = ["M3GNet-*"]
#
# [[tool.rootstock.citation]]
# authors = "Deng, Bowen and Zhong, Peichen and Jun, KyuJung and Riebesell, Janosh and Han, Kevin and Bartel, Christopher J. and Ceder, Gerbrand"
# title = "CHGNet as a pretrained universal neural network potential for charge-informed atomistic modelling"
# journal = "Nature Machine Intelligence"
# volume = "5"
# pages = "1031--1041"
# year = 2023
# doi = "10.1038/s42256-023-00716-3"
# models = ["CHGNet-*"]
#
# [[tool.rootstock.citation]]
# authors = "Ko, Tsz Wai and Liu, Runze and Mishra, Adesh Rohan and Yu, Zihan and Qi, Ji and Ong, Shyue Ping"
# title = "A Fast, Accurate, and Reactive Equivariant Foundation Potential"
# year = 2025
# arxiv = "2511.07249"
# models = ["QET-*"]
#
# # Single precision.
# [tool.rootstock.finite-differences]
# forces = 5e-3
# stress = 1e-3
#
# [[tool.rootstock.references]]
# name = "MoS, CsCl structure, a = 4 A"
# source = "MatGL, tests/ext/test_ase.py::test_PESCalculator_and_M3GNetCalculator (4.x)"
# versions = { matgl = ">=3,<5" }
# model = "TensorNet-PES-MatPES-PBE-2025.2"
# needs_weights = true
# symbols = "MoS"
# cell = [4.0, 4.0, 4.0]
# scaled_positions = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
# expected = { energy = -10.452658 }
# # That test: 1e-5 and 1e-6 of the value.
# tolerance = { energy = 1e-4 }
#
# [[tool.rootstock.references]]
# name = "Ac-Ala3-NHMe"
# source = "MatGL, tests/ext/test_ase.py::test_PESCalculator_mol (4.x)"
# versions = { matgl = ">=3,<5" }
# model = "TensorNet-PES-MatPES-PBE-2025.2"
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
# expected = { energy = -249.194916 }
# tolerance = { energy = 1e-3 }
#
# [[tool.rootstock.references]]
# name = "Cu, fcc, primitive cell of ase.build.bulk"
# source = "quacc, tests/core/recipes/mlip_recipes/test_core_recipes.py (by MatCalc)"
# versions = { matgl = ">=3,<5" }
# model = "TensorNet-PES-MatPES-PBE-2025.2"
# needs_weights = true
# symbols = "Cu"
# cell = [[0.0, 1.805, 1.805], [1.805, 0.0, 1.805], [1.805, 1.805, 0.0]]
# positions = [[0.0, 0.0, 0.0]]
# expected = { energy = -3.7303245067596436 }
# # That test: 1e-4 of the value.
# tolerance = { energy = 4e-4 }
# ///
"""MatGL."""

import json
import os
from pathlib import Path

import matgl
import matgl.models
import numpy as np
import torch
from ase.calculators.calculator import all_changes
from huggingface_hub import try_to_load_from_cache
from matgl.config import MATGL_CACHE
from matgl.ext.ase import PESCalculator
from torch_geometric.data import Batch

_MODELS = (
    "TensorNet-PES-MatPES-PBE-2025.2", "TensorNet-PES-MatPES-r2SCAN-2025.2",
    "M3GNet-PES-MatPES-PBE-2025.2", "M3GNet-PES-MatPES-r2SCAN-2025.2",
    "CHGNet-PES-MatPES-PBE-1M-2026.9", "CHGNet-PES-MatPES-r2SCAN-1M-2026.9",
    "QET-PES-MatPES-PBE-2025.2", "QET-PES-MatPES-r2SCAN-2025.2",
)  # fmt: skip
_DEFAULT = _MODELS[0]
_FILES = ("model.json", "model.pt", "state.pt")


def setup(model: str, device: str = "cuda", hessian: bool = False, **kwargs):
    """Return MatGL's calculator.

    Parameters
    ----------
    model : str
        One of the released models, a folder with a model, or empty for the default.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``, ``mps``.
    hessian : bool
        Whether to compute the Hessian with every result.
    **kwargs
        Options of `PESCalculator`: ``state_attr``, ``total_charge``, ``ext_pot``.
    """
    if unknown := sorted(set(kwargs) - {"state_attr", "total_charge", "ext_pot"}):
        raise TypeError(
            f"MatGL takes no option {unknown[0]!r} here; it takes: ext_pot, hessian, state_attr, total_charge."
        )
    name = model or _DEFAULT
    if name in _MODELS:
        _require(name)
    elif (folder := Path(name).expanduser()).is_dir():
        for file in _FILES:
            if not (folder / file).is_file():
                raise ValueError(f"{folder} is no model of MatGL: it holds no {file}.")
        _refuse_old(folder)
        name = str(folder)
    else:
        raise ValueError(f"Unknown model {model!r}: it is neither a folder nor one of {', '.join(_MODELS)}.")
    potential = matgl.load_model(name).to(device)
    potential.calc_hessian = hessian
    return StrictCalculator(potential, stress_unit="eV/A3", **kwargs)


def _require(name: str) -> None:
    """Refuse a model whose weights are missing where they may not be fetched: a download could hang for minutes."""
    repository = f"materialyze/{name}"
    if os.environ.get("HF_HUB_OFFLINE") == "1" and not all(
        isinstance(try_to_load_from_cache(repository, file, cache_dir=MATGL_CACHE), str) for file in _FILES
    ):
        folder = MATGL_CACHE / f"models--{repository.replace('/', '--')}"
        raise FileNotFoundError(f"The weights of MatGL's model {name!r} are not in this root: there is no {folder}.")


def _refuse_old(folder: Path) -> None:
    """Refuse weights that this MatGL computes wrongly.

    MatGL 3.0 (2.2 for TensorNet) corrected to which atom a message goes; weights from before are "no longer numerically
    valid", say its notes, but load with a warning at most. Ac-Ala3-NHMe by TensorNet-MatPES-PBE-v2025.1: -247.2868 eV
    by MatGL 2.1.2, as published, and -160.3071 eV by 4.1.2. Crystals whose atoms are all alike, as Cu, give the same.
    Versions tell of TensorNet; those of M3GNet have no other version, only another name.
    """
    kept = json.loads((folder / "model.json").read_text())
    network = kept.get("kwargs", {}).get("model")
    if not isinstance(network, dict):
        return
    known = getattr(getattr(matgl.models, network.get("@class", ""), None), "__version__", 0)
    if network.get("@model_version", 0) < known or "-v2025.1" in folder.name:
        raise ValueError(
            f"The model in {folder} was trained with an older MatGL, and this one ({matgl.__version__}) computes wrong "
            "numbers with its weights. Use environment matgl@2.1 for TensorNet, or a newer model."
        )


def _require_all_or_none(atoms) -> None:
    # The library takes what is not periodic in all directions as a molecule.
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ValueError(
            f"MatGL computes crystals and molecules, not pbc={atoms.pbc.tolist()}: "
            "set pbc to True in all directions, with vacuum where there is a surface."
        )


class StrictCalculator(PESCalculator):
    """MatGL's calculator, without the numbers that it would get wrong; it also computes many structures together."""

    def __init__(self, potential, **kwargs):
        super().__init__(potential, **kwargs)
        # The stock calculator names all that any model could compute.
        optional = {"hessian": self.compute_hessian, "magmoms": self.compute_magmom, "charges": self.compute_charge}
        self.implemented_properties = ["energy", "free_energy", "forces"]
        self.implemented_properties += ["stress"] * self.compute_stress + [each for each in optional if optional[each]]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        _require_all_or_none(atoms)
        super().calculate(atoms, properties, system_changes)
        for name in {"magmoms", "charges"} & self.results.keys():  # of the former, the library keeps a column
            self.results[name] = self.results[name].reshape(-1)

    def calculate_batch(self, images, properties):  # noqa: ARG002  # the model always computes all
        """Return the results of each of some structures, or what is wrong with it; they are computed together."""
        if self.compute_hessian or self.compute_charge or self.state_attr is not None:
            raise NotImplementedError("Hessians, charges, and states of whole structures have no batches.")
        found = [vars(atoms).pop("graph", None) or self._graph(atoms) for atoms in images]
        good = [i for i, graph in enumerate(found) if not isinstance(graph, Exception)]
        for i, results in zip(good, self._predict([found[i] for i in good]) if good else (), strict=True):
            found[i] = results
        return found

    def batch_cost(self, images):
        """Return for each structure the edges of its graph, which memory follows.

        The graphs are kept with the structures for `calculate_batch`, so that none is made twice.
        """
        costs = []
        for atoms in images:
            atoms.graph = graph = self._graph(atoms)
            costs.append(len(atoms) + (0 if isinstance(graph, Exception) else graph[0].edge_index.shape[1]))
        return costs

    def _graph(self, atoms) -> tuple | Exception:
        """Return graph, lattice and state as the stock calculator makes them, or the exception for which it cannot."""
        try:
            _require_all_or_none(atoms)
            return self._atoms2graph.get_graph(atoms)
        except Exception as error:  # noqa: BLE001  # it is this structure's, and no reason to compute no other
            return error

    def _predict(self, graphs) -> list[dict]:
        """Compute of each graph what the stock calculator does."""
        sizes = [graph.num_nodes for graph, _, _ in graphs]
        lattices = torch.cat([lattice.reshape(1, 3, 3) for _, lattice, _ in graphs])
        states = torch.as_tensor(np.stack([state for _, _, state in graphs]), dtype=lattices.dtype)
        out = self.potential(Batch.from_data_list([graph for graph, _, _ in graphs]), lattices, states)
        columns = {"energy": out[0].detach().cpu().reshape(-1).tolist()}
        columns["free_energy"] = columns["energy"]
        columns["forces"] = [part.numpy() for part in out[1].detach().cpu().split(sizes)]
        if self.compute_stress:
            columns["stress"] = list(out[2].detach().cpu().numpy().reshape(-1, 3, 3) * self.conversion_factor)
        if self.compute_magmom:
            columns["magmoms"] = [part.numpy() for part in out[4].detach().cpu().reshape(-1).split(sizes)]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
