# /// script
# # 3.10: older ones are out of support.
# requires-python = ">=3.10"
# # 0.4.5 pads structures so that few sizes are compiled. The references hold below 0.5.
# dependencies = ["nequix>=0.4.5,<0.5", "ase>=3.24", "jax>=0.4.34"]
#
# [tool.rootstock]
# description = "Nequix: small equivariant networks in JAX for 89 elements. Energies, forces, stress; Hessians by automatic differentiation."
# family = "Nequix"
# room = { megabytes = 1000, files = 28000, cuda = { megabytes = 6000 } }
# licence = { code = "MIT", weights = "MIT" }
# notes = [
#     "Single precision. JAX compiles the model for each new size of structure: the first call takes a minute, later ones of the same size do not.",
#     "Crystals and molecules only: mixed periodic boundary conditions are refused, for the library would leave out what is across the boundary. Give a slab pbc=True and vacuum.",
#     "calc.get_hessian(atoms) returns an array (N, N, 3, 3) in eV/A^2, of crystals.",
# ]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress"]
# methods = ["get_hessian"]
# elements = ["H-Bi", "Ac-Pu"]
# training-set = "MPtrj"
# functional = "PBE+U"
# variants = [
#     { models = ["omat-1"], training-set = "OMat24" },
#     { models = ["oam-1", "oam-1-pft"], training-set = "OMat24 + sAlex + MPtrj" },
# ]
# # The library looks for weights below the home, and no variable changes that.
# home = [".cache/nequix"]
#
# [tool.rootstock.models]
# "" = "mp-1"
# "mp-1" = "Nequix MP"
# "mp-1-pft" = "Nequix MP, fine-tuned on phonons"
# "mp-1-pft-no-cotrain" = "Nequix MP, fine-tuned on phonons alone"
# "omat-1" = "Nequix OMat"
# "oam-1" = "Nequix OAM: the most accurate"
# "oam-1-pft" = "Nequix OAM, fine-tuned on phonons"
# "/path/to/file.nqx" = "a checkpoint of your own"
#
# # nequix asks for jax[cuda12] on Linux: gigabytes of NVIDIA's libraries, which only GPUs of NVIDIA need.
# [tool.rootstock.accelerators]
# cpu = { overrides = ["jax>=0.4.34"] }
#
# [[tool.rootstock.citation]]
# authors = "Koker, Teddy and Kotak, Mit and Smidt, Tess"
# title = "Training a foundation model for materials on a budget"
# year = 2025
# arxiv = "2508.16067"
#
# [[tool.rootstock.citation]]
# authors = "Koker, Teddy and Gangan, Abhijeet and Kotak, Mit and Marian, Jaime and Smidt, Tess"
# title = "PFT: Phonon Fine-tuning for Machine Learned Interatomic Potentials"
# year = 2026
# arxiv = "2601.07742"
# models = ["*-pft*"]
#
# # Single precision.
# [tool.rootstock.finite-differences]
# forces = 5e-3
# stress = 5e-4
#
# # That test allows 1e-5 of the value and 1e-5, on its own machine.
# [[tool.rootstock.references]]
# name = "Si, two atoms, one displaced"
# source = "nequix, tests/test_calculator.py, REFERENCE_DATA: perturbed"
# versions = { nequix = ">=0.4,<0.5" }
# model = "mp-1"
# needs_weights = true
# symbols = "Si2"
# cell = [[0.0, 2.715, 2.715], [2.715, 0.0, 2.715], [2.715, 2.715, 0.0]]
# positions = [[0.1, 0.05, -0.05], [1.3575, 1.3575, 1.3575]]
# [tool.rootstock.references.expected]
# energy = -10.753344
# forces = [[-1.1041114, -0.45131257, 0.45131272], [1.1041114, 0.45131263, -0.45131272]]
# stress = [-0.025367301, -0.0278149154, -0.0278149098, -0.0241314191, -0.0106064761, 0.0106064798]
# [tool.rootstock.references.tolerance]
# energy = 1e-4
# forces = 5e-5
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "Si, diamond, a = 5.43 A"
# source = "nequix, tests/test_calculator.py, REFERENCE_DATA: relaxed"
# versions = { nequix = ">=0.4,<0.5" }
# model = "mp-1"
# needs_weights = true
# symbols = "Si2"
# cell = [[0.0, 2.715, 2.715], [2.715, 0.0, 2.715], [2.715, 2.715, 0.0]]
# positions = [[0.0, 0.0, 0.0], [1.3575, 1.3575, 1.3575]]
# [tool.rootstock.references.expected]
# energy = -10.834069
# stress = [-0.026995424181, -0.026995424181, -0.026995424181, 0.0, 0.0, 0.0]
# [tool.rootstock.references.tolerance]
# energy = 1e-4
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "Si, two atoms, one displaced (OAM)"
# source = "nequix, tests/test_calculator.py, REFERENCE_DATA: perturbed"
# versions = { nequix = ">=0.4,<0.5" }
# model = "oam-1"
# needs_weights = true
# symbols = "Si2"
# cell = [[0.0, 2.715, 2.715], [2.715, 0.0, 2.715], [2.715, 2.715, 0.0]]
# positions = [[0.1, 0.05, -0.05], [1.3575, 1.3575, 1.3575]]
# [tool.rootstock.references.expected]
# energy = -10.765028
# forces = [[-0.930218, -0.36117458, 0.36117452], [0.930218, 0.36117464, -0.36117452]]
# stress = [-0.0198730454, -0.0213395804, -0.0213395748, -0.020636579, -0.0084719257, 0.0084719257]
# [tool.rootstock.references.tolerance]
# energy = 1e-4
# forces = 5e-5
# stress = 1e-5
#
# [[tool.rootstock.references]]
# name = "Si, diamond, a = 5.43 A (OAM)"
# source = "nequix, tests/test_calculator.py, REFERENCE_DATA: relaxed"
# versions = { nequix = ">=0.4,<0.5" }
# model = "oam-1"
# needs_weights = true
# symbols = "Si2"
# cell = [[0.0, 2.715, 2.715], [2.715, 0.0, 2.715], [2.715, 2.715, 0.0]]
# positions = [[0.0, 0.0, 0.0], [1.3575, 1.3575, 1.3575]]
# [tool.rootstock.references.expected]
# energy = -10.831113
# stress = [-0.018336197361, -0.018336204812, -0.018336208537, 0.0, 0.0, 0.0]
# [tool.rootstock.references.tolerance]
# energy = 1e-4
# stress = 1e-5
# ///
"""Nequix."""

import os
from pathlib import Path

# Without it, the first worker on a GPU takes three quarters of its memory, whatever it needs.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import equinox
import jax
import jraph
import numpy as np
from ase.calculators.calculator import all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from nequix.calculator import NequixCalculator
from nequix.data import dict_to_graphstuple, preprocess_graph

_DEFAULT = "mp-1"
_MODELS = {name.removeprefix("nequix-"): name for name in NequixCalculator.URLS}


def setup(model: str, device: str = "cuda", capacity_multiplier: float = 1.1, use_kernel: bool = False):
    """Return Nequix's calculator.

    Parameters
    ----------
    model : str
        One of the released models, a path to an ``.nqx`` file, or empty for the default.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``.
    capacity_multiplier : float
        How many more neighbours there may be before the model is compiled again.
    use_kernel : bool
        Whether to use OpenEquivariance, which must be in the environment.
    """
    kind, _, number = device.partition(":")
    jax.config.update("jax_default_device", jax.devices("gpu" if kind == "cuda" else kind)[int(number or 0)])
    name = model or _DEFAULT
    if name in _MODELS:
        weights = {"model_name": _MODELS[name]}
        _require(name, Path.home() / ".cache" / "nequix" / "models" / f"{_MODELS[name]}.nqx")
    elif (path := Path(name).expanduser()).is_file():
        weights = {"model_path": str(path)}
    else:
        raise ValueError(f"Unknown model {model!r}: it is neither a file nor one of {', '.join(_MODELS)}.")
    return StrictCalculator(**weights, capacity_multiplier=capacity_multiplier, use_kernel=use_kernel)


def _require(name: str, file: Path) -> None:
    """Refuse a model whose weights are missing where they may not be fetched: a download could hang for minutes."""
    if os.environ.get("HF_HUB_OFFLINE") == "1" and not file.is_file():
        raise FileNotFoundError(f"The weights of Nequix's model {name!r} are not in this root: there is no {file}.")


def _require_all_or_none(atoms) -> None:
    # The library finds neighbours across the boundary, and then takes their distances as if there were none.
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ValueError(
            f"Nequix computes crystals and molecules, not pbc={atoms.pbc.tolist()}: "
            "set pbc to True in all directions, with vacuum where there is a surface."
        )


def _padded(number: int) -> int:
    """Return the next of few sizes, each twice the one before: the model is compiled for each."""
    return 8 << ((max(number, 1) - 1) // 8).bit_length()


class StrictCalculator(NequixCalculator):
    """Nequix's calculator, without the numbers that it would get wrong; it also computes many structures together."""

    fixed_shapes = tuple(8 << power for power in range(6, 22))

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        _require_all_or_none(atoms)
        super().calculate(atoms, properties, system_changes)

    def get_hessian(self, atoms=None):
        atoms = self.atoms if atoms is None else atoms
        if atoms is not None and not atoms.pbc.all():
            raise ValueError(
                "Nequix computes Hessians of crystals: put the molecule into a large enough periodic cell."
            )
        return super().get_hessian(atoms)

    def calculate_batch(self, images, properties):  # noqa: ARG002  # the model always computes all
        """Return the results of each of some structures, or what is wrong with it; they are computed together."""
        found = [vars(atoms).pop("graph", None) or self._graph(atoms) for atoms in images]
        kinds = {}  # a graph without a cell is another kind
        for i, graph in enumerate(found):
            if not isinstance(graph, Exception):
                kinds.setdefault(graph.globals["cell"] is None, []).append(i)
        for part in kinds.values():
            for i, results in zip(part, self._predict([found[i] for i in part]), strict=True):
                found[i] = results
        return found

    def batch_cost(self, images):
        """Return for each structure the edges of its graph, which memory follows.

        The graphs are kept with the structures for `calculate_batch`, so that none is made twice.
        """
        costs = []
        for atoms in images:
            atoms.graph = graph = self._graph(atoms)
            costs.append(len(atoms) + (0 if isinstance(graph, Exception) else int(graph.n_edge[0])))
        return costs

    def _graph(self, atoms) -> jraph.GraphsTuple | Exception:
        """Return the graph of a structure as the stock calculator makes it, or the exception for which there is none."""
        try:
            _require_all_or_none(atoms)
            return dict_to_graphstuple(preprocess_graph(atoms, self.atom_indices, self.cutoff, False))
        except Exception as error:  # noqa: BLE001  # it is this structure's, and no reason to compute no other
            return error

    def _predict(self, graphs) -> list[dict]:
        """Compute of each graph what the stock calculator does."""
        sizes = [int(graph.n_node[0]) for graph in graphs]
        edges = sum(int(graph.n_edge[0]) for graph in graphs)
        together = jraph.pad_with_graphs(
            jraph.batch_np(graphs),
            n_node=_padded(sum(sizes) + 1),
            n_edge=_padded(edges),
            n_graph=_padded(len(graphs) + 1),
        )
        energies, forces, stresses = equinox.filter_jit(self.model)(together)
        energies, forces = np.asarray(energies), np.asarray(forces)
        columns = {"energy": energies[: len(graphs)].tolist()}
        columns["free_energy"] = columns["energy"]
        columns["forces"] = np.split(forces[: sum(sizes)], np.cumsum(sizes)[:-1])
        if stresses is not None:
            columns["stress"] = [full_3x3_to_voigt_6_stress(each) for each in np.asarray(stresses)[: len(graphs)]]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
