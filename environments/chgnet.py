# /// script
# requires-python = ">=3.10"
# # 0.4.2 is the first release whose wheel holds all three models and that runs with numpy 2. The lower bound keeps a
# # resolver from falling back to 0.1.4, which has another interface.
# dependencies = [
#     "chgnet>=0.4.2",
#     "ase>=3.23",
#     "torch>=2.4.1",
#     # For dispersion=True.
#     "torch-dftd>=0.5.2",
# ]
#
# [tool.rootstock]
# description = "CHGNet: charge-informed graph network for 89 elements. Energies, forces, stress and magnetic moments."
# room = { megabytes = 1400, files = 39000, cuda = { megabytes = 6000 } }
# licence = { code = "BSD-3-Clause", weights = "BSD-3-Clause" }
# family = "CHGNet"
# training-set = "MPtrj"
# functional = "PBE+U"
# variants = [{ models = ["r2scan"], training-set = "MPtrj + MP-r2SCAN", functional = "r2SCAN" }]
# notes = ["Single precision only.", "The weights come with the package: nothing is downloaded."]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress", "magmoms"]
# optional-properties = ["energies"]
# dispersion = "offered"
# bundled = ["*"]
# elements = ["H-Bi", "Ac-Pu"]
#
# [[tool.rootstock.citation]]
# authors = "Deng, Bowen and Zhong, Peichen and Jun, KyuJung and Riebesell, Janosh and Han, Kevin and Bartel, Christopher J. and Ceder, Gerbrand"
# title = "CHGNet as a pretrained universal neural network potential for charge-informed atomistic modelling"
# journal = "Nature Machine Intelligence"
# volume = "5"
# pages = "1031--1041"
# year = 2023
# doi = "10.1038/s42256-023-00716-3"
#
# [[tool.rootstock.citation]]
# authors = "Huang, Xu and Deng, Bowen and Zhong, Peichen and Kaplan, Aaron D. and Persson, Kristin A. and Ceder, Gerbrand"
# title = "Cross-functional transferability in universal machine learning interatomic potentials"
# year = 2025
# arxiv = "2504.05565"
# models = ["r2scan"]
#
# [tool.rootstock.models]
# "" = "0.3.0"
# "0.3.0" = "the default of its authors since October 2023"
# "0.2.0" = "deprecated by its authors, for old results"
# "r2scan" = "0.3.0 transferred to MP-r2SCAN"
# "/path/to/checkpoint" = "a checkpoint of your own, as CHGNet's trainer writes them"
#
# # Single precision: an energy of 60 eV is known to 4e-6 eV.
# [tool.rootstock.finite-differences]
# forces = 2e-3
# stress = 5e-4
#
# [[tool.rootstock.references]]
# name = "LiMnO2, mp-18767"
# source = "CHGNet repository, tests/test_model.py::test_predict_structure (energy per atom, forces, stress, magmoms)"
# versions = { chgnet = ">=0.4,<0.5" }
# model = "0.3.0"
# symbols = "Li2Mn2O4"
# cell = [2.86877900, 4.63447500, 5.83250700]
# scaled_positions = [
#     [0.5, 0.5, 0.37975050],
#     [0.0, 0.0, 0.62024950],
#     [0.5, 0.5, 0.86325250],
#     [0.0, 0.0, 0.13674750],
#     [0.5, 0.0, 0.36082450],
#     [0.0, 0.5, 0.09851350],
#     [0.5, 0.0, 0.90148650],
#     [0.0, 0.5, 0.63917550],
# ]
# [tool.rootstock.references.expected]
# energy = -58.94152 # 8 atoms, -7.36769 eV each
# forces = [
#     [0.0, 0.0, 2.38135569e-02],
#     [0.0, 0.0, -2.38130391e-02],
#     [0.0, 0.0, 9.25870836e-02],
#     [0.0, 0.0, -9.25877392e-02],
#     [0.0, 0.0, -2.43449211e-03],
#     [0.0, 0.0, -1.30698681e-02],
#     [0.0, 0.0, 1.30702555e-02],
#     [0.0, 0.0, 2.43446976e-03],
# ]
# # -0.30366361, 0.22305478 and -0.10736181 GPa
# stress = [-0.0018953192, 0.0013921985, -0.00067009976, 0.0, 0.0, 0.0]
# magmoms = [0.00305, 0.00305, 3.8694179, 3.8694181, 0.0441362, 0.0386222, 0.0386221, 0.0441362]
# # As in that test: energy 1e-4 eV/atom, forces 1e-4, stress 5e-3 relative, magmoms 1e-3 relative + 1e-4.
# [tool.rootstock.references.tolerance]
# energy = 8e-4
# forces = 2e-4
# stress = 1e-5
# magmoms = 4e-3
#
# [[tool.rootstock.references]]
# name = "NaCl, rock salt, a = 5.64 A"
# source = "janus-core, tests/test_single_point.py"
# versions = { chgnet = ">=0.4,<0.5" }
# model = "0.3.0"
# symbols = "Na4Cl4"
# cell = [5.64, 5.64, 5.64]
# scaled_positions = [
#     [0.0, 0.0, 0.0],
#     [0.0, 0.5, 0.5],
#     [0.5, 0.0, 0.5],
#     [0.5, 0.5, 0.0],
#     [0.5, 0.0, 0.0],
#     [0.5, 0.5, 0.5],
#     [0.0, 0.0, 0.5],
#     [0.0, 0.5, 0.0],
# ]
# expected = { energy = -29.331436157226562 }
# tolerance = { energy = 1e-4 }
#
# [[tool.rootstock.references]]
# name = "Cu, fcc, primitive cell of ase.build.bulk"
# source = "quacc, tests/core/recipes/mlp_recipes/test_core_recipes.py (2024; relative 1e-4)"
# versions = { chgnet = ">=0.4,<0.5" }
# model = "0.3.0"
# symbols = "Cu"
# cell = [[0.0, 1.805, 1.805], [1.805, 0.0, 1.805], [1.805, 1.805, 0.0]]
# positions = [[0.0, 0.0, 0.0]]
# expected = { energy = -4.083308219909668 }
# tolerance = { energy = 1e-4 }
# ///
"""CHGNet."""

import inspect
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.calculators.calculator import all_changes
from ase.calculators.mixing import SumCalculator
from chgnet.model import CHGNet, CHGNetCalculator
from chgnet.model.model import BatchedGraph
from pymatgen.io.ase import AseAtomsAdaptor

_MODELS = {"0.3.0": "pbe", "0.2.0": "pbe", "r2scan": "r2scan"}  # and their functionals, by torch-dftd's names
_DEFAULT = "0.3.0"
_OPTIONS = ("on_isolated_atoms", "return_site_energies")  # the library takes any other, and ignores it


def setup(model: str, device: str = "cuda", dispersion: bool = False, dispersion_kwargs: dict | None = None, **kwargs):
    """Return CHGNet's calculator.

    Parameters
    ----------
    model : str
        One of the released models, a path to a checkpoint, or empty for the default.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``, ``mps``.
    dispersion : bool
        Whether to add D3 by torch-dftd.
    dispersion_kwargs : dict, optional
        Options of `TorchDFTD3Calculator`; by default ``damping="bj"``, ``xc`` of the model, and a ``cutoff`` of 40
        Bohr, given in Angstrom.
    **kwargs
        Options of `CHGNetCalculator`: ``on_isolated_atoms``, ``return_site_energies``.
    """
    if unknown := sorted(set(kwargs) - {*_OPTIONS}):
        raise TypeError(f"CHGNet takes no option {unknown[0]!r} here; it takes: dispersion, {', '.join(_OPTIONS)}.")
    name = model or _DEFAULT
    d3 = _dispersion(_MODELS.get(name), device, dispersion_kwargs) if dispersion else None
    if name in _MODELS:
        network = CHGNet.load(model_name=name, use_device=device, verbose=False)
    elif Path(name).expanduser().is_file():
        network = CHGNet.from_file(str(Path(name).expanduser()))
    else:
        raise ValueError(f"Unknown model {model!r}: it is neither a file nor one of {', '.join(_MODELS)}.")
    calculator = FrugalCalculator(network, use_device=device, **kwargs)
    return Dispersed([calculator, d3]) if d3 else calculator


def _dispersion(xc: str | None, device: str, given: dict | None):
    """Return D3 with the parameters of a functional."""
    from torch_dftd.torch_dftd3_calculator import TorchDFTD3Calculator  # most have no use for it

    options = {"damping": "bj", "cutoff": 40.0 * units.Bohr, **({"xc": xc} if xc else {}), **(given or {})}
    known = inspect.signature(TorchDFTD3Calculator).parameters.keys() - {"dft", "atoms", "device", "dtype", "kwargs"}
    if unknown := sorted(set(options) - known):
        raise TypeError(f"dispersion_kwargs takes no {unknown[0]!r}; it takes: {', '.join(sorted(known))}.")
    if "xc" not in options:
        raise ValueError("Name the functional of your checkpoint, such as dispersion_kwargs={'xc': 'pbe'}.")
    return TorchDFTD3Calculator(device=device, **options)


class Dispersed(SumCalculator):
    """A model and D3. ASE's sum asks its parts for one property after the other; here each computes all of them once."""

    def calculate(self, atoms, properties, system_changes):
        for part in self.mixer.calcs:
            part.reset()
            part.calculate(atoms, properties, all_changes)
        super().calculate(atoms, properties, system_changes)


class FrugalCalculator(CHGNetCalculator):
    """CHGNet's calculator, computing no more than it is asked for.

    The stock calculator always computes energy, forces, stress and magnetic moments; the stress alone costs a quarter
    to a half of the forces. What is computed is the same, bit for bit.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # The stock calculator lists site energies whether it returns them or not.
        self.implemented_properties = ["energy", "forces", "stress", "magmoms"]
        if self.return_site_energies:
            self.implemented_properties.append("energies")

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        self._require_known_elements(atoms)
        super().calculate(atoms, properties, system_changes, task=self._task(properties))

    def calculate_batch(self, images, properties):
        """Return the results of each of some structures, or what is wrong with it; they are computed together."""
        task, found = self._task(properties), [vars(atoms).pop("graph", None) or self._graph(atoms) for atoms in images]
        graphs = {i: graph.to(self.device) for i, graph in enumerate(found) if not isinstance(graph, Exception)}
        # Bonds go through the layers of angles as soon as anything in their batch has angles, and so would those of a
        # structure without: its energy would depend on its company.
        parts = [[i] for i, graph in graphs.items() if not len(graph.bond_graph)]
        parts.append([i for i, graph in graphs.items() if len(graph.bond_graph)])
        for part in filter(None, parts):
            for i, results in zip(part, self._predict([graphs[i] for i in part], task), strict=True):
                found[i] = results
        return found

    def batch_cost(self, images):
        """Return for each structure the edges and angles of its graph: each takes 50 kB while forces are computed.

        The graphs are kept with the structures for `calculate_batch`: beside a GPU, making them takes most of the time.
        """
        costs = []
        for atoms in images:
            atoms.graph = graph = self._graph(atoms)
            bonds = 0 if isinstance(graph, Exception) else len(graph.atom_graph) + len(graph.bond_graph)
            costs.append(len(atoms) + bonds)
        return costs

    def _graph(self, atoms):
        """Return the graph of a structure, or the exception for which there is none."""
        try:
            self._require_known_elements(atoms)
            return self.model.graph_converter(AseAtomsAdaptor.get_structure(atoms))
        except Exception as error:  # noqa: BLE001  # it is this structure's, and no reason to compute no other
            return error

    def _task(self, properties) -> str:
        asked = set(properties or self.implemented_properties)
        if "stress" in asked:
            return "efsm" if "magmoms" in asked else "efs"
        if "forces" in asked:
            return "efsm" if "magmoms" in asked else "ef"  # the model knows no task "efm"
        return "em" if "magmoms" in asked else "e"

    def _require_known_elements(self, atoms) -> None:
        """Refuse elements that the model has no entry for: looking one up makes a GPU useless for all that follows."""
        known = self.model.atom_embedding.embedding.num_embeddings
        if unknown := sorted({int(number) for number in atoms.numbers if not 1 <= number <= known}):
            raise ValueError(f"CHGNet has no element of atomic number {unknown[0]}: it has 1 to {known}.")

    def _predict(self, graphs, task: str) -> list[dict]:
        """Compute of each graph what the stock calculator does, together and on a CPU bit for bit the same.

        The library's `predict_graph` differentiates once for forces and again for stress; here once gives both, in
        half the time.
        """
        model = self.model.eval()
        batch = BatchedGraph.from_graphs(
            graphs, model.bond_basis_expansion, model.angle_basis_expansion, compute_stress="s" in task
        )
        out = model._compute(batch, compute_magmom="m" in task, return_site_energies=self.return_site_energies)
        energies, sites = out["e"], out["site_energies"] if self.return_site_energies else None
        sizes = [len(graph.atomic_number) if model.is_intensive else 1 for graph in graphs]
        # As in the library, through operations that could be differentiated again: others round differently. On a GPU,
        # which repeats nothing to the last bit, they would only take twice the memory.
        again = energies.device.type == "cpu"
        variables = [*(batch.atom_positions if "f" in task else ()), *(batch.strains if "s" in task else ())]
        slopes = ()
        if variables:
            slopes = torch.autograd.grad(energies, variables, energies.new_tensor(sizes), create_graph=again)
        if model.composition_model is not None:
            energies = energies + model.composition_model(graphs)
            if sites:
                shifts = model.composition_model.get_site_energies(graphs)
                sites = [energy + shift for energy, shift in zip(sites, shifts, strict=True)]
        ends = np.cumsum([len(graph.atomic_number) for graph in graphs])[:-1]
        columns = {"energy": list(_plain(energies) * np.array(sizes, dtype=np.float32))}
        columns["free_energy"] = columns["energy"]
        if "f" in task:
            columns["forces"] = np.split(-_plain(torch.cat(slopes[: len(graphs)])), ends)
        if "s" in task:
            scales = 1 / batch.volumes * 160.21766208  # to GPa, which the stock calculator makes eV/A^3 again
            stresses = torch.stack(slopes[-len(graphs) :]) * scales[:, None, None]
            columns["stress"] = list(_plain(stresses) * self.stress_weight)
        if "m" in task:
            columns["magmoms"] = np.split(_plain(torch.cat(out["m"])), ends)
        if sites:
            columns["energies"] = np.split(_plain(torch.cat(list(sites))), ends)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(tensor):
    return tensor.detach().cpu().numpy()
