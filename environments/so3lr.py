# /// script
# requires-python = ">=3.10"
# # so3krates-torch is SO3LR in PyTorch, with its weights; SO3LR's own package is on no index.
# dependencies = ["so3krates-torch>=0.2.1", "ase>=3.26", "torch>=2.6"]
#
# [tool.rootstock]
# description = "SO3LR: molecules of biology and organic chemistry, with long-range electrostatics and dispersion; 8 elements. Energies, forces, stress, charges, dipole."
# family = "SO3LR"
# room = { megabytes = 1300, files = 32000, cuda = { megabytes = 6000 } }
# licence = { code = "MIT", weights = "MIT" }
# functional = "PBE0+MBD"
# notes = [
#     "It was trained on forces, not on energies: only differences of energies of the same atoms mean something.",
#     "atoms.info['charge'] is the charge of the molecule; without it, the molecule is neutral.",
#     "The long-range cutoff is 12 A; its authors suggest setup_kwargs={'r_max_lr': 1000} for molecules in a vacuum.",
#     "The weights come with the package: nothing is downloaded.",
# ]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress", "charges", "dipole"]
# # What its users know the charges by, and the ratios of volumes that dispersion is computed from.
# extra-properties = { partial_charges = "per-atom", hirshfeld_ratios = "per-atom" }
# methods = ["get_hessian", "get_descriptors"]
# elements = ["H", "C-F", "P-Cl"]
# dispersion = "included"
# bundled = ["so3lr"]
#
# [[tool.rootstock.citation]]
# authors = "Kabylda, Adil and Frank, J. Thorben and Suárez-Dou, Sergio and Khabibrakhmanov, Almaz and Medrano Sandonas, Leonardo and Unke, Oliver T. and Chmiela, Stefan and Müller, Klaus-Robert and Tkatchenko, Alexandre"
# title = "Molecular Simulations with a Pretrained Neural Network and Universal Pairwise Force Fields"
# journal = "Journal of the American Chemical Society"
# volume = "147"
# pages = "33723"
# year = 2025
# doi = "10.1021/jacs.5c09558"
#
# [[tool.rootstock.citation]]
# authors = "Frank, Thorben and Unke, Oliver and Müller, Klaus-Robert and Chmiela, Stefan"
# title = "A Euclidean transformer for fast and stable machine learned force fields"
# journal = "Nature Communications"
# volume = "15"
# pages = "6539"
# year = 2024
# doi = "10.1038/s41467-024-50620-6"
#
# [tool.rootstock.models]
# "" = "so3lr"
# "so3lr" = "the released model, in PyTorch"
# "/path/to/file.model" = "a model of your own; setup_kwargs={'model_type': 'so3krates'} without long range"
#
# # Single precision, and energies of thousands of eV.
# [tool.rootstock.finite-differences]
# forces = 5e-3
# stress = 1e-3
#
# [tool.rootstock.consistency]
# energy = 2e-4
# forces = 5e-3
#
# [tool.rootstock.batch]
# energy = 1e-4
#
# [[tool.rootstock.references]]
# name = "H2O of ase.build.molecule"
# source = "so3krates-torch, so3krates_torch/tests/test_model.py::test_so3lr_calculator_prediction (relative 1e-4)"
# versions = { so3krates-torch = ">=0.2,<0.3" }
# model = "so3lr"
# options = { default_dtype = "float64" }
# symbols = "OH2"
# positions = [[0.0, 0.0, 0.119262], [0.0, 0.763239, -0.477047], [0.0, -0.763239, -0.477047]]
# [tool.rootstock.references.expected]
# energy = -495.8705186908738
# forces = [
#     [0.0, -1.0547118733938987e-15, -0.14374645878607717],
#     [0.0, -0.2923033736335291, 0.071873229393038196],
#     [0.0, 0.29230337363353009, 0.071873229393039084],
# ]
# [tool.rootstock.references.tolerance]
# energy = 1e-4
# forces = 1e-5
#
# [[tool.rootstock.references]]
# name = "molecules of water in a box"
# source = "none: finite differences only"
# model = "so3lr"
# options = { default_dtype = "float64" }
# symbols = "OH2OH2"
# cell = [6.0, 5.6, 5.2]
# positions = [[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48], [2.8, 0.3, 1.6], [3.6, 0.7, 1.3], [2.5, -0.4, 1.0]]
# ///
"""SO3LR."""

import inspect
from glob import glob
from pathlib import Path

from ase.calculators.calculator import all_changes
from ase.data import atomic_numbers
from ase.stress import full_3x3_to_voigt_6_stress
from so3krates_torch.calculator.so3 import SO3LRCalculator, TorchkratesCalculator
from so3krates_torch.data.atomic_data import AtomicData
from so3krates_torch.data.utils import config_from_atoms
from so3krates_torch.tools.torch_geometric.dataloader import DataLoader

_ELEMENTS = {atomic_numbers[symbol]: symbol for symbol in ("H", "C", "N", "O", "F", "P", "S", "Cl")}

# The stock calculators take any option and ignore what they do not know.
_OPTIONS = inspect.signature(TorchkratesCalculator).parameters.keys() - {
    "model_paths", "models", "device", "compute_stress", "key_specification", "kwargs",
}  # fmt: skip


def setup(model: str, device: str = "cuda", **kwargs):
    """Return SO3LR's calculator.

    Parameters
    ----------
    model : str
        ``so3lr``, a path to a model, a pattern of paths for a committee, or empty for the default.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``.
    **kwargs
        Options of `SO3LRCalculator`: ``default_dtype`` (``float32``, ``float64``), ``r_max_lr``,
        ``dispersion_energy_cutoff_lr_damping``; of a model of one's own ``model_type``.
    """
    if unknown := sorted(set(kwargs) - _OPTIONS):
        raise TypeError(f"SO3LR takes no option {unknown[0]!r} here; it takes: {', '.join(sorted(_OPTIONS))}.")
    if (model or "so3lr") == "so3lr":
        if "model_type" in kwargs:
            raise TypeError("The option 'model_type' is for a model of your own.")
        return Released(device=device, **kwargs)
    path = str(Path(model).expanduser())
    if not glob(path):
        raise ValueError(f"Unknown model {model!r}: it is neither a file nor 'so3lr'.")
    return Own(path, device=device, **kwargs)


class _Frugal:
    """What the library's calculators get besides: ASE's names, stress where it is asked for, and batches."""

    known = None  # atomic numbers; None: any

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        charged = ["charges", "dipole"] if self.model_type == "so3lr" else []
        self.implemented_properties = ["energy", "free_energy", "forces", "stress", *charged]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        self._require_known_elements(atoms)
        self.compute_stress = "stress" in (properties or ())
        super().calculate(atoms, properties, system_changes)
        if "partial_charges" in self.results:
            self.results["charges"] = self.results["partial_charges"]

    def calculate_batch(self, images, properties):
        """Return the results of each of some structures, or what is wrong with it; they are computed together."""
        self._require_batches()
        found = [vars(atoms).pop("graph", None) or self._graph(atoms) for atoms in images]
        good = [i for i, graph in enumerate(found) if not isinstance(graph, Exception)]
        together = self._predict([found[i] for i in good], stress="stress" in properties) if good else []
        for i, results in zip(good, together, strict=True):
            found[i] = results
        return found

    def batch_cost(self, images):
        """Return for each structure the edges of its graphs, which memory follows.

        The graphs are kept with the structures for `calculate_batch`, so that none is made twice.
        """
        self._require_batches()
        costs = []
        for atoms in images:
            atoms.graph = graph = self._graph(atoms)
            found = [] if isinstance(graph, Exception) else [graph.edge_index, graph.edge_index_lr]
            costs.append(len(atoms) + sum(edges.shape[1] for edges in found if edges is not None))
        return costs

    def _require_batches(self) -> None:
        if self.num_models > 1:
            raise NotImplementedError("Committees have no batches.")

    def _require_known_elements(self, atoms) -> None:
        """Refuse what the model was not trained on: it would return numbers."""
        if self.known and (unknown := sorted({int(number) for number in atoms.numbers} - self.known.keys())):
            raise ValueError(f"SO3LR has no element of atomic number {unknown[0]}: {', '.join(self.known.values())}.")

    def _graph(self, atoms):
        """Return the graph of a structure, or the exception for which there is none."""
        try:
            self._require_known_elements(atoms)
            self.key_specification.update(arrays_keys={self.charges_key: "Qs"})  # as the stock calculator does
            config = config_from_atoms(atoms, key_specification=self.key_specification)
            return AtomicData.from_config(config, z_table=self.z_table, cutoff=self.r_max, cutoff_lr=self.r_max_lr)
        except Exception as error:  # noqa: BLE001  # it is this structure's, and no reason to compute no other
            return error

    def _predict(self, graphs, *, stress: bool) -> list[dict]:
        """Compute of each graph what the stock calculator does."""
        loader = DataLoader(dataset=graphs, batch_size=len(graphs), shuffle=False, drop_last=False)
        batch = next(iter(loader)).to(self.device)
        out = self.models[0](batch.to_dict(), compute_stress=stress)
        sizes = [len(graph.atomic_numbers) for graph in graphs]
        energy, length = self.energy_units_to_eV, self.length_units_to_A
        columns = {"energy": [each * energy for each in out["energy"].tolist()]}
        columns["free_energy"] = columns["energy"]
        columns["forces"] = [part * energy / length for part in _split(out["forces"], sizes)]
        if stress:
            stresses = out["stress"].detach().cpu().numpy() * energy / length**3
            columns["stress"] = [full_3x3_to_voigt_6_stress(each) for each in stresses]
        if self.model_type == "so3lr":
            columns["dipole"] = list(out["dipole"].detach().cpu().numpy())
            columns["charges"] = columns["partial_charges"] = _split(out["partial_charges"], sizes)
            columns["hirshfeld_ratios"] = _split(out["hirshfeld_ratios"], sizes)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class Released(_Frugal, SO3LRCalculator):
    """SO3LR as it was released."""

    known = _ELEMENTS


class Own(_Frugal, TorchkratesCalculator):
    """A model of one's own."""


def _split(tensor, sizes: list[int]) -> list:
    return [part.numpy() for part in tensor.detach().cpu().split(sizes)]
