# /// script
# # The last release for Python 3.11. dm-tree 0.1.8, which it pins, has no wheel for 3.13 and does not compile.
# requires-python = ">=3.10,<3.13"
# dependencies = [
#     "orb-models==0.5.5",
#     "ase>=3.25",
#     "torch>=2.6,<3",
#     # find_latest_cached(): weights are found without asking the network whether they are the newest.
#     "cached-path>=1.7.1",
#     # For dispersion=True.
#     "torch-dftd>=0.5.2",
# ]
#
# [tool.rootstock]
# description = "ORB 0.5.5, for Python 3.10 and 3.11: fast universal potentials for materials and molecules, conservative and direct. Energies, forces, stress."
# licence = { code = "Apache-2.0", weights = "Apache-2.0" }
# family = "ORB"
# room = { megabytes = 1400, files = 30000, cuda = { megabytes = 6000 } }
# notes = [
#     "conservative: forces are derivatives of the energy. direct: forces are predicted by themselves, faster, and do not conserve energy.",
#     "20 and inf are the largest numbers of neighbours.",
#     "omol models read atoms.info['charge'] and ['spin'], and refuse atoms without them.",
#     "On a GPU the model is compiled, as the library does by itself: the first call takes a minute. On a CPU it is not, unless setup_kwargs={'compile': True}: that needs a C++ compiler.",
#     "Mixed periodic boundary conditions are refused by the library.",
#     "calc.extra_results['confidence'] of a v3 model: 50 logits for each atom, one for each range of the error of its force, smallest first.",
# ]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress"]
# extra-properties = { confidence = "N,bins" }
# elements = ["H-Bi", "Ac-Pu"]
# dispersion = "offered"
# training-set = "MPtrj + Alexandria"
# functional = "PBE+U"
# variants = [
#     { models = ["*-omol"], elements = ["H-Bi"], needs = ["charge", "spin"] },
#     { models = ["*-omat"], training-set = "OMat24" },
#     { models = ["*-omol"], training-set = "OMol25", functional = "wB97M-V" },
#     { models = ["orb-d3-*"], functional = "PBE+U-D3" },
#     # wB97M-V holds dispersion as well.
#     { models = ["orb-d3-*", "*-omol"], dispersion = "included" },
#     { models = ["*-direct-*", "orb-v2", "orb-d3-*", "orb-mptraj-only-v2"], conservative = false },
#     { models = ["orb-mptraj-only-v2"], training-set = "MPtrj" },
# ]
#
# [[tool.rootstock.citation]]
# authors = "Rhodes, Benjamin and Vandenhaute, Sander and Šimkus, Vaidotas and Gin, James and Godwin, Jonathan and Duignan, Tim and Neumann, Mark"
# title = "Orb-v3: atomistic simulation at scale"
# year = 2025
# arxiv = "2504.06231"
# models = ["orb-v3-*"]
#
# [[tool.rootstock.citation]]
# authors = "Neumann, Mark and Gin, James and Rhodes, Benjamin and Bennett, Steven and Li, Zhiyi and Choubisa, Hitarth and Hussey, Arthur and Godwin, Jonathan"
# title = "Orb: A Fast, Scalable Neural Network Potential"
# year = 2024
# arxiv = "2410.22570"
# models = ["orb-v2", "orb-d3-*", "orb-mptraj-only-v2"]
#
# [[tool.rootstock.citation]]
# authors = "Barroso-Luque, Luis and Shuaibi, Muhammed and Fu, Xiang and Wood, Brandon M. and Dzamba, Misko and Gao, Meng and Rizvi, Ammar and Zitnick, C. Lawrence and Ulissi, Zachary W."
# title = "Open Materials 2024 (OMat24) Inorganic Materials Dataset and Models"
# year = 2024
# arxiv = "2410.12771"
# models = ["*-omat"]
#
# [[tool.rootstock.citation]]
# authors = "Levine, Daniel S. and Shuaibi, Muhammed and Spotte-Smith, Evan Walter Clark and Taylor, Michael G. and others"
# title = "The Open Molecules 2025 (OMol25) Dataset, Evaluations, and Models"
# year = 2025
# arxiv = "2505.08762"
# models = ["*-omol"]
#
# [tool.rootstock.models]
# "" = "orb-v3-conservative-inf-omat"
# "orb-v3-conservative-inf-omat" = "conservative, all neighbours: the most accurate for materials"
# "orb-v3-conservative-20-omat" = "conservative, 20 neighbours"
# "orb-v3-direct-inf-omat" = "direct, all neighbours"
# "orb-v3-direct-20-omat" = "direct, 20 neighbours: the fastest"
# "orb-v3-conservative-inf-mpa" = "conservative, all neighbours"
# "orb-v3-conservative-20-mpa" = "conservative, 20 neighbours"
# "orb-v3-direct-inf-mpa" = "direct, all neighbours"
# "orb-v3-direct-20-mpa" = "direct, 20 neighbours"
# "orb-v3-conservative-omol" = "conservative: molecules with charge and spin"
# "orb-v3-direct-omol" = "direct: molecules with charge and spin"
# "orb-v2" = "direct"
# "orb-d3-v2" = "orb-v2 with D3 dispersion"
# "orb-d3-sm-v2" = "orb-v2 with D3 dispersion, 10 layers"
# "orb-d3-xs-v2" = "orb-v2 with D3 dispersion, 5 layers"
# "orb-mptraj-only-v2" = "direct"
# "/path/to/file.ckpt" = "a checkpoint of your own; setup_kwargs={'architecture': NAME} says which of the above it was made from"
#
# [tool.rootstock.cache]
# CACHED_PATH_CACHE_ROOT = "cached_path"
#
# # Single precision.
# [tool.rootstock.finite-differences]
# forces = 2e-3
# stress = 5e-4
#
# # ORB learns from data that directions in space are alike; it holds nearly, not to rounding.
# [tool.rootstock.consistency]
# rotation = false
#
# # On a GPU, products have fewer digits (float32-high), and others for other sizes.
# [tool.rootstock.batch]
# energy = 2e-4
# forces = 2e-3
# stress = 1e-4
#
# [[tool.rootstock.references]]
# name = "Cu, fcc, a = 3.58 A"
# source = "ORB, tests/test_model_backward_compatibility.py::test_orb_v3_con_omat_predictions"
# versions = { orb-models = "==0.5.5" }
# model = "orb-v3-conservative-inf-omat"
# needs_weights = true
# symbols = "Cu4"
# cell = [3.58, 3.58, 3.58]
# scaled_positions = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
# expected = { energy = -14.9525, stress = [-2.5326e-02, -2.5321e-02, -2.5328e-02, 1.2287e-06, 1.1870e-06, 6.1788e-06] }
# # That test: energy 1e-4, stress 1e-5, on a CPU. A GPU rounds its products to fewer digits (float32-high).
# tolerance = { energy = 1e-2, stress = 1e-4 }
#
# [[tool.rootstock.references]]
# name = "Cu, four atoms, rattled"
# source = "ORB, tests/test_model_backward_compatibility.py::test_orbv3_con_omat_optimization"
# versions = { orb-models = "==0.5.5" }
# model = "orb-v3-conservative-inf-omat"
# needs_weights = true
# symbols = "Cu4"
# cell = [3.58, 3.58, 3.58]
# positions = [
#     [0.24835707650561634, -0.06913215058559233, 0.32384426905034625],
#     [0.7615149282040127, 1.672923312638332, 1.6729315215254097],
#     [2.5796064077536958, 0.3837173645764544, 1.555262807032524],
#     [2.0612800217929825, 1.558291153593769, -0.23286487678512843],
# ]
# expected = { energy = -10.517223358154297 }
# tolerance = { energy = 1e-2 }
#
# [[tool.rootstock.references]]
# name = "NaCl, rock salt, a = 5.64 A"
# source = "janus-core, tests/test_single_point.py (orb-models 0.5.5)"
# versions = { orb-models = ">=0.5,<0.8" }
# model = "orb-v3-conservative-20-omat"
# needs_weights = true
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
# expected = { energy = -27.08186149597168 }
# # That test: 1e-3 of the value.
# tolerance = { energy = 2.7e-2 }
#
# [[tool.rootstock.references]]
# name = "C6H6+"
# source = "ORB, tests/test_model_backward_compatibility.py::test_orb_v3_con_omol_predictions"
# versions = { orb-models = "==0.5.5" }
# model = "orb-v3-conservative-omol"
# needs_weights = true
# symbols = "C6H6"
# pbc = false
# positions = [
#     [0.0, 1.395248, 0.0],
#     [1.20832, 0.697624, 0.0],
#     [1.20832, -0.697624, 0.0],
#     [0.0, -1.395248, 0.0],
#     [-1.20832, -0.697624, 0.0],
#     [-1.20832, 0.697624, 0.0],
#     [0.0, 2.48236, 0.0],
#     [2.149787, 1.24118, 0.0],
#     [2.149787, -1.24118, 0.0],
#     [0.0, -2.48236, 0.0],
#     [-2.149787, -1.24118, 0.0],
#     [-2.149787, 1.24118, 0.0],
# ]
# info = { charge = 1, spin = 0 }
# expected = { energy = -6316.6646 }
# tolerance = { energy = 1e-2 }
#
# [[tool.rootstock.references]]
# name = "C6H6+, rattled"
# source = "ORB, tests/test_model_backward_compatibility.py::test_orbv3_con_omol_optimization"
# versions = { orb-models = "==0.5.5" }
# model = "orb-v3-conservative-omol"
# needs_weights = true
# symbols = "C6H6"
# pbc = false
# positions = [
#     [0.24835707650561634, 1.3261158494144076, 0.32384426905034625],
#     [1.9698349282040128, 0.580547312638332, -0.11706847847459027],
#     [1.9979264077536958, -0.31390663542354563, -0.23473719296747605],
#     [0.27128002179298233, -1.6269568464062312, -0.23286487678512843],
#     [-1.087338864216983, -1.654264122328899, -0.8624589162565164],
#     [-1.4894637646204865, 0.19120843983278812, 0.15712366629763694],
#     [-0.45401203776060545, 1.776208149332354, 0.732824384460777],
#     [2.036898849756732, 1.2749441023439618, -0.7123740931067284],
#     [1.8775956377374086, -1.1857187051450668, -0.5754967887111514],
#     [0.18784900917283598, -2.7826793449594023, -0.1458468748966384],
#     [-2.4506403061146984, -0.31504090774553106, -0.0067486123689669605],
#     [-2.6786424644779503, 1.6524524560515945, -0.6104218249855111],
# ]
# info = { charge = 1, spin = 0 }
# expected = { energy = -6280.37646484375 }
# tolerance = { energy = 1e-2 }
#
# [[tool.rootstock.references]]
# name = "Cu, fcc, a = 3.58 A (direct)"
# source = "ORB, tests/test_model_backward_compatibility.py::test_orb_v3_direct_omat_predictions"
# versions = { orb-models = "==0.5.5" }
# model = "orb-v3-direct-inf-omat"
# needs_weights = true
# symbols = "Cu4"
# cell = [3.58, 3.58, 3.58]
# scaled_positions = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
# expected = { energy = -14.9910, stress = [-2.5220e-02, -2.5239e-02, -2.5593e-02, 6.7905e-05, 3.3452e-04, 1.5985e-04] }
# tolerance = { energy = 1e-2, stress = 1e-3 }
#
# [[tool.rootstock.references]]
# name = "Cu, four atoms, rattled (direct)"
# source = "ORB, tests/test_model_backward_compatibility.py::test_orbv3_direct_omat_optimization"
# versions = { orb-models = "==0.5.5" }
# model = "orb-v3-direct-inf-omat"
# needs_weights = true
# symbols = "Cu4"
# cell = [3.58, 3.58, 3.58]
# positions = [
#     [0.24835707650561634, -0.06913215058559233, 0.32384426905034625],
#     [0.7615149282040127, 1.672923312638332, 1.6729315215254097],
#     [2.5796064077536958, 0.3837173645764544, 1.555262807032524],
#     [2.0612800217929825, 1.558291153593769, -0.23286487678512843],
# ]
# expected = { energy = -10.578043937683105 }
# tolerance = { energy = 1e-2 }
#
# [[tool.rootstock.references]]
# name = "Cu, fcc, a = 3.58 A (v2)"
# source = "ORB, tests/test_model_backward_compatibility.py::test_orb_v2_predictions"
# versions = { orb-models = "==0.5.5" }
# model = "orb-v2"
# needs_weights = true
# symbols = "Cu4"
# cell = [3.58, 3.58, 3.58]
# scaled_positions = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
# expected = { energy = -16.3510, stress = [-3.4152e-02, -3.3998e-02, -3.3992e-02, -2.7855e-07, -1.6083e-06, -1.1105e-06] }
# tolerance = { energy = 1e-2, stress = 1e-3 }
#
# [[tool.rootstock.references]]
# name = "Cu, four atoms, rattled (v2)"
# source = "ORB, tests/test_model_backward_compatibility.py::test_orbv2_optimization"
# versions = { orb-models = "==0.5.5" }
# model = "orb-v2"
# needs_weights = true
# symbols = "Cu4"
# cell = [3.58, 3.58, 3.58]
# positions = [
#     [0.24835707650561634, -0.06913215058559233, 0.32384426905034625],
#     [0.7615149282040127, 1.672923312638332, 1.6729315215254097],
#     [2.5796064077536958, 0.3837173645764544, 1.555262807032524],
#     [2.0612800217929825, 1.558291153593769, -0.23286487678512843],
# ]
# expected = { energy = -11.975013 }
# tolerance = { energy = 1e-2 }
#
# [[tool.rootstock.references]]
# name = "NaCl, rock salt, a = 5.64 A (v2)"
# source = "janus-core, tests/test_single_point.py"
# versions = { orb-models = "==0.5.5" }
# model = "orb-v2"
# needs_weights = true
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
# expected = { energy = -27.089094161987305 }
# tolerance = { energy = 2.7e-2 }
#
# [[tool.rootstock.references]]
# name = "Cu, fcc, primitive cell of ase.build.bulk (v2)"
# source = "quacc, tests/core/recipes/mlp_recipes/test_core_recipes.py (2025)"
# versions = { orb-models = "==0.5.5" }
# model = "orb-v2"
# needs_weights = true
# symbols = "Cu"
# cell = [[0.0, 1.805, 1.805], [1.805, 0.0, 1.805], [1.805, 1.805, 0.0]]
# positions = [[0.0, 0.0, 0.0]]
# expected = { energy = -4.093477725982666 }
# tolerance = { energy = 1e-2 }
# ///
"""ORB 0.5."""

import functools
import inspect
import os
import tempfile
from pathlib import Path

import torch
from ase import units
from ase.calculators.calculator import all_changes
from ase.calculators.mixing import SumCalculator
from cached_path import find_latest_cached, get_cache_dir, set_cache_dir
from orb_models.forcefield.atomic_system import ase_atoms_to_atom_graphs
from orb_models.forcefield.base import AtomGraphs, batch_graphs
from orb_models.forcefield.calculator import ORBCalculator
from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS

_MODELS = (
    "orb-v3-conservative-inf-omat", "orb-v3-conservative-20-omat", "orb-v3-direct-inf-omat", "orb-v3-direct-20-omat",
    "orb-v3-conservative-inf-mpa", "orb-v3-conservative-20-mpa", "orb-v3-direct-inf-mpa", "orb-v3-direct-20-mpa",
    "orb-v3-conservative-omol", "orb-v3-direct-omol",
    "orb-v2", "orb-d3-v2", "orb-d3-sm-v2", "orb-d3-xs-v2", "orb-mptraj-only-v2",
)  # fmt: skip
_DEFAULT = "orb-v3-conservative-inf-omat"


def setup(
    model: str,
    device: str = "cuda",
    precision: str = "float32-high",
    compile: bool | None = None,  # noqa: A002  (the library's name)
    architecture: str = _DEFAULT,
    dispersion: bool = False,
    dispersion_kwargs: dict | None = None,
    **kwargs,
):
    """Return ORB's calculator.

    Parameters
    ----------
    model : str
        One of the released models, a path to a checkpoint, or empty for the default.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``, ``mps``.
    precision : {'float32-high', 'float32-highest', 'float64'}
        ``float32-high`` lets a GPU use TF32.
    compile : bool, optional
        Whether to compile the model. By default as the library does, except on a CPU.
    architecture : str
        For a checkpoint of one's own: the released model whose architecture it has.
    dispersion : bool
        Whether to add D3 by torch-dftd.
    dispersion_kwargs : dict, optional
        Options of `TorchDFTD3Calculator`; by default ``damping="bj"``, ``xc="pbe"`` and a ``cutoff`` of 40 Bohr, given
        in Angstrom.
    **kwargs
        Options of `ORBCalculator`: ``edge_method``, ``max_num_neighbors``, ``half_supercell``.
    """
    name = model or _DEFAULT
    if name in _MODELS:
        architecture, weights = name, _released(name)
    elif (path := Path(name).expanduser()).is_file():
        weights = str(path)
    else:
        raise ValueError(f"Unknown model {model!r}: it is neither a file nor one of {', '.join(_MODELS)}.")
    if architecture not in _MODELS:
        raise ValueError(f"Unknown architecture {architecture!r}: it is none of {', '.join(_MODELS)}.")
    if compile is None and device == "cpu":
        compile = False  # noqa: A001
    d3 = _dispersion(architecture, device, dispersion_kwargs) if dispersion else None
    cache = get_cache_dir()
    if os.path.isfile(weights):  # the library would make the cache's folder all the same, and that is the root's
        set_cache_dir(tempfile.gettempdir())
    try:
        network = ORB_PRETRAINED_MODELS[architecture](
            weights_path=weights, device=device, precision=precision, compile=compile
        )
    finally:
        set_cache_dir(cache)
    calculator = BatchCalculator(network, device=device, **kwargs)
    if d3 is None:
        return calculator
    dtype = torch.float64 if precision == "float64" else torch.float32
    return Dispersed([calculator, d3(dtype=dtype)])


def _dispersion(name: str, device: str, given: dict | None):
    """Return what makes D3 for a model; all to which it can be added were trained on PBE+U."""
    from torch_dftd.torch_dftd3_calculator import TorchDFTD3Calculator  # importing it takes half a second

    if name.startswith("orb-d3-") or name.endswith("-omol"):
        raise ValueError(f"D3 cannot be added to model {name!r}: it holds dispersion.")
    options = {"damping": "bj", "cutoff": 40.0 * units.Bohr, "xc": "pbe", **(given or {})}
    known = inspect.signature(TorchDFTD3Calculator).parameters.keys() - {"dft", "atoms", "device", "dtype", "kwargs"}
    if unknown := sorted(set(options) - known):
        raise TypeError(f"dispersion_kwargs takes no {unknown[0]!r}; it takes: {', '.join(sorted(known))}.")
    return functools.partial(TorchDFTD3Calculator, device=device, **options)


def _released(name: str) -> str:
    """Return the weights of a released model: the file where there is one, else the address to fetch it from.

    The library would ask the network for a newer file at every start, and without network wait for half a minute.
    """
    url = inspect.signature(ORB_PRETRAINED_MODELS[name]).parameters["weights_path"].default
    if file := find_latest_cached(url):
        return str(file)
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise FileNotFoundError(
            f"The weights of ORB's model {name!r} are not in this root: nothing in "
            f"{os.environ.get('CACHED_PATH_CACHE_ROOT')} is from {url}."
        )
    return url


class Dispersed(SumCalculator):
    """A model and D3. ASE's sum asks its parts for one property after the other; here each computes all of them once."""

    def calculate(self, atoms, properties, system_changes):
        for part in self.mixer.calcs:
            part.reset()
            part.calculate(atoms, properties, all_changes)
        super().calculate(atoms, properties, system_changes)


class BatchCalculator(ORBCalculator):
    """ORB's calculator, which also computes many structures together."""

    def calculate_batch(self, images, properties):  # noqa: ARG002  # the model always computes all
        """Return the results of each of some structures, or what is wrong with it; they are computed together."""
        found = [vars(atoms).pop("graph", None) or self._graph(atoms) for atoms in images]
        # The library joins graphs that have the same features, and computes either crystals or molecules.
        kinds = {}
        for i, (atoms, graph) in enumerate(zip(images, found, strict=True)):
            if not isinstance(graph, Exception):
                kinds.setdefault((bool(atoms.pbc.any()), *sorted(graph.system_features)), []).append(i)
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
            costs.append(len(atoms) + (0 if isinstance(graph, Exception) else int(graph.n_edge.sum())))
        return costs

    def _graph(self, atoms) -> AtomGraphs | Exception:
        """Return the graph of a structure as the stock calculator makes it, or the exception for which there is none.

        The library makes graphs of many structures faster at once, but not the same ones: of neighbours that are
        equally far, those that are left out (beyond the largest number) are others. In a crystal, forces then differ.
        """
        try:
            if self.expects_charge_and_spin and not {"charge", "spin"} <= atoms.info.keys():
                raise ValueError("atoms.info must contain both 'charge' and 'spin'")
            return ase_atoms_to_atom_graphs(
                atoms,
                system_config=self.system_config,
                max_num_neighbors=self.max_num_neighbors,
                edge_method=self.edge_method,
                half_supercell=self.half_supercell,
                device=self.device,
            )
        except Exception as error:  # noqa: BLE001  # it is this structure's, and no reason to compute no other
            return error

    def _predict(self, graphs) -> list[dict]:
        """Compute of each graph what the stock calculator does."""
        out = self.model.predict(batch_graphs(graphs).to(self.device))
        forces, stress = "forces", "stress"
        if self.conservative:
            forces, stress = self.model.grad_forces_name, self.model.grad_stress_name
        columns = {"energy": out["energy"].tolist()}
        columns["free_energy"] = columns["energy"]
        sizes = [int(graph.n_node.sum()) for graph in graphs]
        if forces in out:
            columns["forces"] = [part.numpy() for part in out[forces].detach().cpu().split(sizes)]
        if stress in out:
            columns["stress"] = list(out[stress].detach().cpu().numpy())
        if "confidence" in out:
            columns["confidence"] = [part.numpy() for part in out["confidence"].detach().cpu().split(sizes)]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
