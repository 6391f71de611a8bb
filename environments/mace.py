# /// script
# # 3.10: older ones are out of support.
# requires-python = ">=3.10"
# dependencies = [
#     # The release that the references were published for, with the models mh-0 and mh-1. The lower bound keeps a
#     # resolver from going back to one without them.
#     # 0.4 is announced with other names.
#     "mace-torch>=0.3.16,<0.4",
#     "ase>=3.23",
#     # mace-torch itself would take torch 1.12; its authors do not support 2.4.1.
#     "torch>=2.4,!=2.4.1",
#     # For dispersion=True, as in MACE's own functions.
#     "torch-dftd>=0.5.2",
# ]
#
# [tool.rootstock]
# description = "MACE: higher-order equivariant message passing. Foundation models for materials (89 elements) and organic molecules. Energies, forces, stress."
# family = "MACE"
# notes = [
#     "default_dtype: float32 for materials and float64 for molecules, as in MACE's own functions; use float64 to relax or to compute phonons.",
#     "MACE-MH needs setup_kwargs={'head': NAME}; without it, the error lists the names. MACE-OMOL reads atoms.info['charge'] and ['spin'].",
#     "A checkpoint is a pickle: loading one runs the code in it. Load only those that you trust.",
#     "A committee gives the mean, and as extra results what each model says and how far they are apart.",
#     "MACE-POLAR is an environment of its own: it needs graph-longrange.",
# ]
#
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress"]
# optional-properties = ["energies", "stresses"]
# # The energies of atoms without those of free atoms; of a committee those of each model, and their variances.
# extra-properties = { node_energy = "per-atom", energy_comm = "models", energy_var = "scalar", forces_comm = "models,N,3", forces_var = "N,3", stress_comm = "models,3,3", stress_var = "3,3" }
# methods = ["get_hessian", "get_descriptors"]
# elements = ["H-Bi", "Ac-Pu"]
# dispersion = "offered"
# training-set = "MPtrj"
# functional = "PBE+U"
# variants = [
#     { models = ["small", "medium", "large", "*-0b*", "medium-mpa-0"], licence = "MIT" },
#     { models = ["*-omat-0", "mace-matpes-*", "mh-*", "off-*", "omol-*"], licence = "ASL" },
#     { models = ["medium-mpa-0"], training-set = "MPtrj + sAlex" },
#     { models = ["*-omat-0"], training-set = "OMat24" },
#     { models = ["mace-matpes-pbe-*"], training-set = "OMat24 + MatPES-PBE", functional = "PBE" },
#     { models = ["mace-matpes-r2scan-*"], training-set = "OMat24 + MatPES-r2SCAN", functional = "r2SCAN" },
#     { models = ["mh-*"], training-set = "OMat24 + OMol25 + OC20 + SPICE 1 + MPtrj + MatPES-r2SCAN", functional = "PBE+U, PBE, r2SCAN, wB97M-V, wB97M-D3(BJ)" },
#     { models = ["off-*"], training-set = "SPICE 1", functional = "wB97M-D3(BJ)" },
#     { models = ["omol-*"], training-set = "OMol25", functional = "wB97M-V" },
#     { models = ["off-*"], elements = ["H", "C-F", "P-Cl", "Br", "I"] },
#     { models = ["mh-*"], needs = ["head"] },
#     { models = ["omol-*"], elements = ["H-Bi"], needs = ["charge", "spin"] },
#     { models = ["off-*", "omol-*"], dispersion = "included" },
# ]
#
# # ASL: academic use only. Whoever uses such a model accepts its terms; the library prints a notice and does not ask.
# [tool.rootstock.licence]
# code = "MIT"
# weights = "as stated at https://github.com/ACEsuit/mace-foundations"
#
# [[tool.rootstock.citation]]
# authors = "Batatia, Ilyes and Kovács, Dávid Péter and Simm, Gregor N. C. and Ortner, Christoph and Csányi, Gábor"
# title = "MACE: Higher Order Equivariant Message Passing Neural Networks for Fast and Accurate Force Fields"
# journal = "Advances in Neural Information Processing Systems"
# volume = "35"
# pages = "11423--11436"
# year = 2022
# arxiv = "2206.07697"
#
# [[tool.rootstock.citation]]
# authors = "Batatia, Ilyes and Benner, Philipp and Chiang, Yuan and Elena, Alin M. and Kovács, Dávid P. and Riebesell, Janosh and others"
# title = "A foundation model for atomistic materials chemistry"
# journal = "The Journal of Chemical Physics"
# volume = "163"
# pages = "184110"
# year = 2025
# doi = "10.1063/5.0297006"
# arxiv = "2401.00096"
# models = ["small*", "medium*", "large*", "mace-matpes-*"]
#
# [[tool.rootstock.citation]]
# authors = "Barroso-Luque, Luis and Shuaibi, Muhammed and Fu, Xiang and Wood, Brandon M. and Dzamba, Misko and Gao, Meng and Rizvi, Ammar and Zitnick, C. Lawrence and Ulissi, Zachary W."
# title = "Open Materials 2024 (OMat24) Inorganic Materials Dataset and Models"
# year = 2024
# arxiv = "2410.12771"
# models = ["*-omat-0", "mace-matpes-*"]
#
# [[tool.rootstock.citation]]
# authors = "Kaplan, Aaron D. and Liu, Runze and Qi, Ji and Ko, Tsz Wai and Deng, Bowen and Riebesell, Janosh and Ceder, Gerbrand and Persson, Kristin A. and Ong, Shyue Ping"
# title = "A Foundational Potential Energy Surface Dataset for Materials"
# year = 2025
# arxiv = "2503.04070"
# models = ["mace-matpes-*"]
#
# [[tool.rootstock.citation]]
# authors = "Batatia, Ilyes and Lin, Chen and Hart, Joseph and Kasoar, Elliott and Elena, Alin M. and Norwood, Sam Walton and Wolf, Thomas and Csányi, Gábor"
# title = "Cross Learning between Electronic Structure Theories for Unifying Molecular, Surface, and Inorganic Crystal Foundation Force Fields"
# year = 2025
# arxiv = "2510.25380"
# models = ["mh-*"]
#
# [[tool.rootstock.citation]]
# authors = "Kovács, Dávid Péter and Moore, J. Harry and Browning, Nicholas J. and Batatia, Ilyes and others"
# title = "MACE-OFF: Short-Range Transferable Machine Learning Force Fields for Organic Molecules"
# journal = "Journal of the American Chemical Society"
# volume = "147"
# pages = "17598--17611"
# year = 2025
# doi = "10.1021/jacs.4c07099"
# arxiv = "2312.15211"
# models = ["off-*"]
#
# [[tool.rootstock.citation]]
# authors = "Levine, Daniel S. and Shuaibi, Muhammed and Spotte-Smith, Evan Walter Clark and Taylor, Michael G. and others"
# title = "The Open Molecules 2025 (OMol25) Dataset, Evaluations, and Models"
# year = 2025
# arxiv = "2505.08762"
# models = ["omol-*"]
#
# [tool.rootstock.models]
# "" = "medium-mpa-0"
# "small" = "MACE-MP-0a"
# "medium" = "MACE-MP-0a"
# "large" = "MACE-MP-0a"
# "small-0b" = "MACE-MP-0b: more stable molecular dynamics"
# "medium-0b" = "MACE-MP-0b: more stable molecular dynamics"
# "small-0b2" = "MACE-MP-0b2: more stable at high pressure"
# "medium-0b2" = "MACE-MP-0b2: more stable at high pressure"
# "large-0b2" = "MACE-MP-0b2: more stable at high pressure"
# "medium-0b3" = "MACE-MP-0b3: high pressure, better reference energies"
# "medium-mpa-0" = "MACE-MPA-0: the most accurate for materials under an open licence"
# "small-omat-0" = "MACE-OMAT-0"
# "medium-omat-0" = "MACE-OMAT-0"
# "mace-matpes-pbe-0" = "MACE-MATPES-PBE-0, without U"
# "mace-matpes-r2scan-0" = "MACE-MATPES-r2SCAN-0"
# "mh-0" = "MACE-MH-0, several heads: crystals, molecules, surfaces"
# "mh-1" = "MACE-MH-1, several heads: crystals, molecules, surfaces"
# "off-small" = "MACE-OFF23, organic molecules of 10 elements"
# "off-medium" = "MACE-OFF23, organic molecules of 10 elements"
# "off-large" = "MACE-OFF23, organic molecules of 10 elements"
# "omol-extra-large" = "MACE-OMOL-0, molecules and complexes with charge and spin"
# "/path/to/file.model" = "a checkpoint of your own; a pattern such as /path/to/*.model is a committee"
#
# [tool.rootstock.aliases]
# "mace-mp-0-small" = "small"
# "mace-mp-0-medium" = "medium"
# "mace-mp-0-large" = "large"
# "mace-mp-0a-small" = "small"
# "mace-mp-0a-medium" = "medium"
# "mace-mp-0a-large" = "large"
# "mace-mp-0b-small" = "small-0b"
# "mace-mp-0b-medium" = "medium-0b"
# "mace-mp-0b2-small" = "small-0b2"
# "mace-mp-0b2-medium" = "medium-0b2"
# "mace-mp-0b2-large" = "large-0b2"
# "mace-mp-0b3-medium" = "medium-0b3"
# "mace-mpa-0" = "medium-mpa-0"
# "mace-mpa-0-medium" = "medium-mpa-0"
# "mace-omat-0-small" = "small-omat-0"
# "mace-omat-0-medium" = "medium-omat-0"
# "mace-matpes-pbe-0" = "mace-matpes-pbe-0"
# "mace-matpes-r2scan-0" = "mace-matpes-r2scan-0"
# "mace-off23-small" = "off-small"
# "mace-off23-medium" = "off-medium"
# "mace-off23-large" = "off-large"
# "mace-omol-0" = "omol-extra-large"
#
# # The library looks in $XDG_CACHE_HOME/mace. Others (fontconfig, torch) write below that variable, so it is not set for
# # the whole process: see _cache_of_the_root().
# [tool.rootstock.cache]
# ROOTSTOCK_XDG_CACHE_HOME = "xdg"
#
# [[tool.rootstock.references]]
# name = "NaCl, rock salt, a = 5.64 A"
# source = "janus-core, tests/test_single_point.py"
# versions = { mace-torch = ">=0.3.16,<0.4" }
# model = "small"
# needs_weights = true
# options = { default_dtype = "float64" }
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
# expected = { energy = -27.035127799332745, stress = [-0.0047832760, -0.0047832760, -0.0047832760, 0.0, 0.0, 0.0] }
# # That test allows 1e-3 of the value for other machines; double precision is far closer.
# tolerance = { energy = 1e-4, stress = 5e-6 }
#
# [[tool.rootstock.references]]
# name = "H2O"
# source = "MACE, tests/test_calculator.py (mace_off, small)"
# versions = { mace-torch = ">=0.3.16,<0.4" }
# model = "off-small"
# needs_weights = true
# symbols = "OH2"
# positions = [[0.0, 0.0, 0.119262], [0.0, 0.763239, -0.477047], [0.0, -0.763239, -0.477047]]
# expected = { energy = -2081.116128586803 }
# tolerance = { energy = 1e-6 }
#
# [[tool.rootstock.references]]
# name = "H2O, not quite symmetric"
# source = "janus-core, tests/test_single_point.py (relative 1e-3)"
# versions = { mace-torch = ">=0.3.16,<0.4" }
# model = "off-small"
# needs_weights = true
# symbols = "H2O"
# positions = [[0.9575, 0.0, 0.0], [-0.2399, 0.92696, 0.0], [0.0, 0.0, 0.0]]
# expected = { energy = -2081.1209264240006 }
# tolerance = { energy = 1e-4 }
#
# [[tool.rootstock.references]]
# name = "Cu, fcc, primitive cell of ase.build.bulk"
# source = "quacc, tests/core/recipes/mlp_recipes/test_core_recipes.py (relative 1e-4)"
# versions = { mace-torch = ">=0.3.16,<0.4" }
# model = "medium"
# needs_weights = true
# options = { default_dtype = "float64" }
# symbols = "Cu"
# cell = [[0.0, 1.805, 1.805], [1.805, 0.0, 1.805], [1.805, 1.805, 0.0]]
# positions = [[0.0, 0.0, 0.0]]
# expected = { energy = -4.097862720291976 }
# tolerance = { energy = 1e-4 }
#
# [[tool.rootstock.references]]
# name = "H2O, MACE-OMOL"
# source = "MACE, tests/test_calculator.py (mace_omol, extra_large, with cuEquivariance to 1e-9)"
# versions = { mace-torch = ">=0.3.16,<0.4" }
# model = "omol-extra-large"
# needs_weights = true
# info = { charge = 0, spin = 1 }
# symbols = "OH2"
# positions = [[0.0, 0.0, 0.119262], [0.0, 0.763239, -0.477047], [0.0, -0.763239, -0.477047]]
# expected = { energy = -2079.863496758961 }
# tolerance = { energy = 1e-6 }
#
# [[tool.rootstock.references]]
# name = "H2O, not quite symmetric, MACE-OMOL"
# source = "janus-core, tests/test_single_point.py (relative 1e-3)"
# versions = { mace-torch = ">=0.3.16,<0.4" }
# model = "omol-extra-large"
# needs_weights = true
# info = { charge = 0, spin = 1 }
# symbols = "H2O"
# positions = [[0.9575, 0.0, 0.0], [-0.2399, 0.92696, 0.0], [0.0, 0.0, 0.0]]
# expected = { energy = -2079.8650795528843 }
# tolerance = { energy = 1e-4 }
# ///
"""MACE."""

import contextlib
import functools
import inspect
import os
from glob import glob
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.calculators.calculator import all_changes
from ase.calculators.mixing import SumCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from mace import data
from mace.calculators import MACECalculator, mace_mp, mace_off, mace_omol
from mace.calculators.foundations_models import mace_mp_urls, mace_off_urls
from mace.modules import MACE, ScaleShiftMACE
from mace.tools import torch_tools
from mace.tools.utils import atomic_numbers_to_indices, get_cache_dir

_DEFAULT = "medium-mpa-0"

# Name -> the library's function, its name for the model, the precision it would choose, and the file that it keeps
# the weights in.
_MODELS = {
    **{
        name: (mace_mp, name, "float32", "".join(c for c in os.path.basename(url) if c.isalnum() or c == "_"))
        for name, url in mace_mp_urls.items()
    },
    **{f"off-{name}": (mace_off, name, "float64", os.path.basename(url)) for name, url in mace_off_urls.items()},
    "omol-extra-large": (mace_omol, "extra_large", "float64", "MACE-omol-0-extra-large-1024.model"),
}

# The stock calculator takes any option and ignores what it does not know.
_OPTIONS = {*inspect.signature(MACECalculator).parameters, "head", "compute_atomic_stresses"} - {
    "model_paths", "models", "device", "kwargs",
}  # fmt: skip


# What torch-dftd calls the functional of a model; empty where D3 cannot be added. All others were trained on PBE+U.
_FUNCTIONALS = {
    "mace-matpes-r2scan-0": "r2scan",
    "mh-0": None, "mh-1": None,  # a head each
    "off-small": "", "off-medium": "", "off-large": "", "omol-extra-large": "",
}  # fmt: skip
_HOLDING = ("omol", "spice_wB97M")  # heads of MACE-MH that hold dispersion


def setup(model: str, device: str = "cuda", dispersion: bool = False, dispersion_kwargs: dict | None = None, **kwargs):
    """Return MACE's calculator.

    Parameters
    ----------
    model : str
        One of the released models, a path to a checkpoint, a pattern of paths for a committee, or empty for the
        default.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``, ``xpu``.
    dispersion : bool
        Whether to add D3 by torch-dftd, as `mace_mp` does.
    dispersion_kwargs : dict, optional
        Options of `TorchDFTD3Calculator`; by default ``damping="bj"``, ``xc`` of the model, and a ``cutoff`` of 40
        Bohr, given in Angstrom.
    **kwargs
        Options of `MACECalculator`, such as ``default_dtype`` (``float32``, ``float64``), ``head``, ``enable_cueq``.
    """
    if unknown := sorted(set(kwargs) - _OPTIONS):
        raise TypeError(f"MACE takes no option {unknown[0]!r} here; it takes: {', '.join(sorted(_OPTIONS))}.")
    name = model or _DEFAULT
    if dispersion and kwargs.get("head") in _HOLDING:
        raise ValueError(f"D3 cannot be added to head {kwargs['head']!r}: it holds dispersion.")
    d3 = _dispersion(name, device, dispersion_kwargs) if dispersion else None
    if name in _MODELS:
        load, published, dtype, file = _MODELS[name]
        with _cache_of_the_root():
            _require(name, get_cache_dir() / file)
            weights = {"models": load(published, device=device, return_raw_model=True)}
        if load is mace_omol:
            kwargs = {"head": "omol", **kwargs}
        kwargs = {"default_dtype": dtype, **kwargs}
    elif paths := _checkpoints(name):
        weights = {"model_paths": paths}
    else:
        raise ValueError(f"Unknown model {model!r}: it is neither a file nor one of {', '.join(_MODELS)}.")
    calculator = FrugalCalculator(**weights, device=device, **kwargs)
    if kwargs.get("head") not in (None, calculator.head):  # the stock calculator takes another one and logs it
        raise ValueError(f"Model {name!r} has no head {kwargs['head']!r}; it has: {calculator.available_heads}.")
    if d3 is None:
        return calculator
    dtype = torch.float32 if calculator.default_dtype == "float32" else torch.float64
    return Dispersed([calculator, d3(dtype=dtype)])


def _dispersion(name: str, device: str, given: dict | None):
    """Return what makes D3 for a model, with the parameters of its functional."""
    from torch_dftd.torch_dftd3_calculator import TorchDFTD3Calculator  # importing it takes half a second

    xc = _FUNCTIONALS.get(name, "pbe") if name in _MODELS else None
    if xc == "":
        raise ValueError(f"D3 cannot be added to model {name!r}: it holds dispersion.")
    options = {"damping": "bj", "cutoff": 40.0 * units.Bohr, **({"xc": xc} if xc else {}), **(given or {})}
    known = inspect.signature(TorchDFTD3Calculator).parameters.keys() - {"dft", "atoms", "device", "dtype", "kwargs"}
    if unknown := sorted(set(options) - known):
        raise TypeError(f"dispersion_kwargs takes no {unknown[0]!r}; it takes: {', '.join(sorted(known))}.")
    if "xc" not in options:
        raise ValueError(f"Name the functional of model {name!r}, such as dispersion_kwargs={{'xc': 'pbe'}}.")
    return functools.partial(TorchDFTD3Calculator, device=device, **options)


def _checkpoints(pattern: str) -> list[str]:
    path = os.path.expanduser(pattern)
    return [path] if os.path.isfile(path) else sorted(glob(path))


@contextlib.contextmanager
def _cache_of_the_root():
    """Let the library look for weights in the root's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = os.environ["ROOTSTOCK_XDG_CACHE_HOME"]
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def _require(name: str, file: Path) -> None:
    """Refuse a model whose weights are missing where they may not be fetched: a download could hang for minutes."""
    if os.environ.get("HF_HUB_OFFLINE") == "1" and not file.is_file():
        raise FileNotFoundError(f"The weights of MACE's model {name!r} are not in this root: there is no {file}.")


class Dispersed(SumCalculator):
    """A model and D3. ASE's sum asks its parts for one property after the other; here each computes all of them once."""

    def calculate(self, atoms, properties, system_changes):
        for part in self.mixer.calcs:
            part.reset()
            part.calculate(atoms, properties, all_changes)
        super().calculate(atoms, properties, system_changes)


class FrugalCalculator(MACECalculator):
    """MACE's calculator, computing no more than it is asked for.

    The stock calculator always computes energy, forces and stress; the energy alone takes half the time. What is
    computed is the same, bit for bit.
    """

    def __init__(self, *args, **kwargs):
        self.implemented_properties = []  # the stock calculator extends this list, which all of ASE's classes share
        super().__init__(*args, **kwargs)
        self._asked = frozenset(self.implemented_properties)
        # Models of dipoles take no such flags. A compiled model would be compiled again for each combination.
        if self.model_type == "MACE" and not self.use_compile and not self.compute_atomic_stresses:
            for model in self.models:
                model.register_forward_pre_hook(self._set_flags, with_kwargs=True)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        self._asked = frozenset(properties or self.implemented_properties)
        super().calculate(atoms, properties, system_changes)

    def calculate_batch(self, images, properties):
        """Return the results of each of some structures, or what is wrong with it; they are computed together."""
        self._require_batches()
        self._asked = frozenset(properties)
        found = [vars(atoms).pop("graph", None) or self._graph(atoms) for atoms in images]
        good = [i for i, graph in enumerate(found) if not isinstance(graph, Exception)]
        for i, results in zip(good, self._predict([found[i] for i in good]) if good else (), strict=True):
            found[i] = results
        return found

    def batch_cost(self, images):
        """Return for each structure the edges of its graph, which memory follows.

        The graphs are kept with the structures for `calculate_batch`, so that none is made twice.
        """
        self._require_batches()
        costs = []
        for atoms in images:
            atoms.graph = graph = self._graph(atoms)
            costs.append(len(atoms) + (0 if isinstance(graph, Exception) else graph["edge_index"].shape[1]))
        return costs

    def _require_batches(self) -> None:
        known = self.num_models == 1 and type(self.models[0]) in (MACE, ScaleShiftMACE)  # others may read more
        if not known or self.compute_atomic_stresses or self.use_compile:
            raise NotImplementedError("Committees, other models than of energies, and compiled ones have no batches.")

    def _graph(self, atoms) -> dict | Exception:
        """Return what the model reads of a structure, or the exception for which it cannot.

        The library's `AtomicData` holds the same and thirty labels for training, and takes five times as long.
        """
        try:
            elements = atomic_numbers_to_indices(atoms.numbers, self.z_table)
            edges, shifts, unit_shifts, cell = data.get_neighborhood(
                atoms.positions, self.r_max, tuple(atoms.pbc), atoms.cell.array.copy()
            )
            graph = {"edge_index": edges, "shifts": shifts, "unit_shifts": unit_shifts.astype(float), "cell": cell}
            return {**graph, "positions": atoms.positions, "node_attrs": elements, **self._embedded(atoms)}
        except Exception as error:  # noqa: BLE001  # it is this structure's, and no reason to compute no other
            return error

    def _embedded(self, atoms) -> dict:
        """Return what some models read besides, such as the charge: as the library does, with its defaults."""
        names = getattr(self.models[0], "embedding_specs", None)
        if not names:
            return {}
        self.arrays_keys.update({self.charges_key: "charges"})  # as the stock calculator does
        keys = data.KeySpecification(info_keys=self.info_keys, arrays_keys=self.arrays_keys)
        config = data.config_from_atoms(atoms, key_specification=keys, head_name=self.head)
        with torch_tools.default_dtype(self.default_dtype):
            everything = data.AtomicData.from_config(
                config, z_table=self.z_table, cutoff=self.r_max, heads=self.available_heads
            )
        return {name: np.atleast_1d(everything[name].numpy()) for name in names}

    def _predict(self, graphs) -> list[dict]:
        """Compute of each graph what the stock calculator does."""
        dtype = next(self.models[0].parameters()).dtype

        def tensor(array):
            return torch.tensor(array, dtype=dtype if array.dtype.kind == "f" else torch.long, device=self.device)

        sizes = [len(graph["positions"]) for graph in graphs]
        ends = [0, *np.cumsum(sizes).tolist()]
        edges = np.concatenate(
            [graph["edge_index"] + begin for graph, begin in zip(graphs, ends, strict=False)], axis=1
        )
        names = graphs[0].keys() - {"edge_index"}
        inputs = {name: tensor(np.concatenate([graph[name] for graph in graphs])) for name in names}
        elements = torch.nn.functional.one_hot(inputs["node_attrs"], len(self.z_table)).to(dtype)
        head = self.available_heads.index(self.head)
        out = self.models[0](
            {
                **inputs,
                "node_attrs": elements,
                "edge_index": tensor(edges),
                "batch": tensor(np.repeat(np.arange(len(graphs)), sizes)),
                "ptr": tensor(np.array(ends)),
                "head": tensor(np.full(len(graphs), head)),
            },
            compute_stress=True,
        )
        energy, length = self.energy_units_to_eV, self.length_units_to_A
        columns = {"energy": [each * energy for each in out["energy"].tolist()]}
        columns["free_energy"] = columns["energy"]
        for name, key, unit in (("energies", "node_energy", energy), ("forces", "forces", energy / length)):
            if out.get(key) is not None:
                columns[name] = [part.numpy() * unit for part in out[key].detach().cpu().split(sizes)]
        if "energies" in columns:
            free = self.models[0].atomic_energies_fn(elements)[:, head].detach().cpu().split(sizes)
            columns["node_energy"] = [all_ - part.numpy() for all_, part in zip(columns["energies"], free, strict=True)]
        if out.get("stress") is not None:
            stresses = out["stress"].detach().cpu().numpy() * (energy / length**3)
            columns["stress"] = [full_3x3_to_voigt_6_stress(stress) for stress in stresses]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _set_flags(self, _model, args, flags):
        if "stress" not in self._asked:
            # With the displacement, of which stress is the derivative, edges are rounded as if it were computed.
            flags |= {"compute_stress": False, "compute_displacement": True, "compute_force": "forces" in self._asked}
        return args, flags
