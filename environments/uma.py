# /// script
# requires-python = ">=3.11,<3.15"
# # 2.24 has uma-s-1p2p1; 1.x is another library.
# dependencies = ["fairchem-core>=2.24,<3", "ase>=3.26", "torch>=2.8"]
#
# [tool.rootstock]
# description = "UMA and eSEN by FAIR Chemistry: materials, catalysts, molecules, MOFs, molecular crystals, by task. Energies, forces, stress."
# family = "UMA"
# gated = "https://huggingface.co/facebook/UMA"
# room = { megabytes = 2200, files = 50000, cuda = { megabytes = 8000 } }
# licence = { code = "MIT", weights = "FAIR-Chemistry-1.0" }
# notes = [
#     "Weights are gated. Accept the terms at https://huggingface.co/facebook/UMA (eSEN: facebook/OMol25), make a token of kind Read at https://huggingface.co/settings/tokens, give it to 'hf auth login' or HF_TOKEN, then run rootstock-site warm.",
#     "A UMA model is named with its task behind a slash: uma-s-1p2/omat. Energies of different tasks are not comparable.",
#     "omol reads atoms.info['charge'] and ['spin'], the multiplicity: 1 for a closed shell.",
#     "setup_kwargs={'inference_settings': 'batch'} for structures of changing composition; 'default' merges the experts for one composition, and compiles; 'high-precision' computes without TF32.",
# ]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces"]
# optional-properties = ["stress"]
# elements = ["H-Bi", "Ac-Pu"]
# warm = ["s-1p2/omat"]
# variants = [
#     { models = ["*/omat"], properties = ["energy", "free_energy", "forces", "stress"], training-set = "OMat24", functional = "PBE+U" },
#     { models = ["*/omol", "*-omol"], needs = ["charge", "spin"], training-set = "OMol25", functional = "wB97M-V", dispersion = "included", elements = ["H-Bi"] },
#     { models = ["*/oc20"], training-set = "OC20", functional = "RPBE" },
#     { models = ["s-1p2*/omol"], training-set = "OMol25 + OPoly26" },
#     { models = ["*/oc22"], training-set = "OC22", functional = "PBE+U" },
#     { models = ["*/oc25"], training-set = "OC25", functional = "RPBE-D3", dispersion = "included" },
#     { models = ["*/odac"], training-set = "ODAC23", functional = "PBE-D3", dispersion = "included" },
#     { models = ["*/omc"], properties = ["energy", "free_energy", "forces", "stress"], training-set = "OMC25", functional = "PBE-D3", dispersion = "included" },
#     { models = ["*-omol"], gated = "https://huggingface.co/facebook/OMol25" },
#     { models = ["*-direct-*"], conservative = false },
# ]
#
# [tool.rootstock.models]
# "" = "s-1p2/omat"
# "s-1p2/omat" = "UMA-S 1.2, inorganic materials"
# "s-1p2/omol" = "UMA-S 1.2, molecules"
# "s-1p2/oc20" = "UMA-S 1.2, adsorption"
# "s-1p2/oc22" = "UMA-S 1.2, oxide catalysts"
# "s-1p2/oc25" = "UMA-S 1.2, interfaces with electrolytes"
# "s-1p2/odac" = "UMA-S 1.2, metal-organic frameworks"
# "s-1p2/omc" = "UMA-S 1.2, molecular crystals"
# "s-1p2p1/omat" = "UMA-S 1.2.1, inorganic materials: the fastest on a GPU"
# "s-1p2p1/omol" = "UMA-S 1.2.1, molecules: the fastest on a GPU"
# "s-1p2p1/oc20" = "UMA-S 1.2.1, adsorption: the fastest on a GPU"
# "s-1p2p1/oc22" = "UMA-S 1.2.1, oxide catalysts: the fastest on a GPU"
# "s-1p2p1/oc25" = "UMA-S 1.2.1, interfaces with electrolytes: the fastest on a GPU"
# "s-1p2p1/odac" = "UMA-S 1.2.1, metal-organic frameworks: the fastest on a GPU"
# "s-1p2p1/omc" = "UMA-S 1.2.1, molecular crystals: the fastest on a GPU"
# "s-1p1/omat" = "UMA-S 1.1, inorganic materials"
# "s-1p1/omol" = "UMA-S 1.1, molecules"
# "s-1p1/oc20" = "UMA-S 1.1, adsorption"
# "s-1p1/odac" = "UMA-S 1.1, metal-organic frameworks"
# "s-1p1/omc" = "UMA-S 1.1, molecular crystals"
# "m-1p1/omat" = "UMA-M 1.1, the large one, inorganic materials"
# "m-1p1/omol" = "UMA-M 1.1, the large one, molecules"
# "m-1p1/oc20" = "UMA-M 1.1, the large one, adsorption"
# "m-1p1/odac" = "UMA-M 1.1, the large one, metal-organic frameworks"
# "m-1p1/omc" = "UMA-M 1.1, the large one, molecular crystals"
# "esen-sm-conserving-all-omol" = "eSEN, small: molecules"
# "esen-sm-direct-all-omol" = "eSEN, small, direct: molecules"
# "esen-md-direct-all-omol" = "eSEN, medium, direct: molecules"
# "/path/to/file.pt" = "a checkpoint of your own; of several tasks, setup_kwargs={'task_name': NAME} names one"
#
# # uma-s-1p2/omat is a model string as it is; without a task, the one for materials is meant.
# [tool.rootstock.aliases]
# uma-s-1p2 = "s-1p2/omat"
# uma-s-1p2p1 = "s-1p2p1/omat"
# uma-s-1p1 = "s-1p1/omat"
# uma-m-1p1 = "m-1p1/omat"
# esen-sm-conserving-all-omol = "esen-sm-conserving-all-omol"
# esen-sm-direct-all-omol = "esen-sm-direct-all-omol"
# esen-md-direct-all-omol = "esen-md-direct-all-omol"
#
# [tool.rootstock.cache]
# FAIRCHEM_CACHE_DIR = "fairchem"
#
# # fairchem-core asks for NVIDIA's compilers on every Linux. They are used on GPUs only.
# [tool.rootstock.accelerators.cpu]
# overrides = ["cuda-python>=12.8; sys_platform == 'never'", "nvidia-cutlass-dsl==4.7.1; sys_platform == 'never'"]
#
# [[tool.rootstock.citation]]
# authors = "Wood, Brandon M. and Dzamba, Misko and Fu, Xiang and Gao, Meng and Shuaibi, Muhammed and Barroso-Luque, Luis and others"
# title = "UMA: A Family of Universal Models for Atoms"
# year = 2025
# arxiv = "2506.23971"
# models = ["s-*", "m-*"]
#
# [[tool.rootstock.citation]]
# authors = "Barroso-Luque, Luis and Shuaibi, Muhammed and Fu, Xiang and Wood, Brandon M. and Dzamba, Misko and Gao, Meng and Rizvi, Ammar and Zitnick, C. Lawrence and Ulissi, Zachary W."
# title = "Open Materials 2024 (OMat24) Inorganic Materials Dataset and Models"
# year = 2024
# arxiv = "2410.12771"
# models = ["*/omat"]
#
# [[tool.rootstock.citation]]
# authors = "Levine, Daniel S. and Shuaibi, Muhammed and Spotte-Smith, Evan Walter Clark and Taylor, Michael G. and others"
# title = "The Open Molecules 2025 (OMol25) Dataset, Evaluations, and Models"
# year = 2025
# arxiv = "2505.08762"
# models = ["*/omol", "*-omol"]
#
# [[tool.rootstock.references]]
# name = "Cu, fcc, primitive cell of ase.build.bulk"
# source = "quacc, tests/core/recipes/mlip_recipes/test_core_recipes.py"
# versions = { fairchem-core = ">=2,<3" }
# model = "s-1p1/omat"
# needs_weights = true
# symbols = "Cu"
# cell = [[0.0, 1.805, 1.805], [1.805, 0.0, 1.805], [1.805, 1.805, 0.0]]
# positions = [[0.0, 0.0, 0.0]]
# expected = { energy = -3.7501682869643735 }
# # That test: 1e-4 of the value.
# tolerance = { energy = 1e-3 }
#
# [[tool.rootstock.references]]
# name = "NaCl, rock salt, a = 5.64 A"
# source = "janus-core, tests/test_single_point.py"
# versions = { fairchem-core = ">=2,<3" }
# model = "s-1p1/omat"
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
# expected = { energy = -27.10070295 }
# # That test: 1e-3 of the value.
# tolerance = { energy = 2.7e-2 }
# ///
"""UMA and eSEN."""

import os
from pathlib import Path

import torch
from fairchem.core import FAIRChemCalculator
from fairchem.core._config import CACHE_DIR
from fairchem.core.calculate import pretrained_mlip
from huggingface_hub import try_to_load_from_cache

_DEFAULT = "s-1p2/omat"
_TASKS = ("omat", "omol", "oc20", "odac", "omc")
_LATER = ("oc22", "oc25")  # tasks of 1.2 and newer
# Argument -> the library's name and the task.
_MODELS = {
    **{f"{name}/{task}": (f"uma-{name}", task) for name in ("s-1p2", "s-1p2p1", "s-1p1", "m-1p1") for task in _TASKS},
    **{f"{name}/{task}": (f"uma-{name}", task) for name in ("s-1p2", "s-1p2p1") for task in _LATER},
    **{
        name: (name, None)
        for name in ("esen-sm-conserving-all-omol", "esen-sm-direct-all-omol", "esen-md-direct-all-omol")
    },
}


def setup(model: str, device: str = "cuda", **kwargs):
    """Return FAIR Chemistry's calculator.

    Parameters
    ----------
    model : str
        One of the released models with its task, such as ``s-1p2/omat``; a path to a checkpoint; or empty for the
        default.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``.
    **kwargs
        Options of `FAIRChemCalculator.from_model_checkpoint`: ``inference_settings``, ``overrides``, and for a
        checkpoint of one's own ``task_name``.
    """
    if unknown := sorted(set(kwargs) - {"inference_settings", "overrides", "task_name"}):
        raise TypeError(f"UMA takes no option {unknown[0]!r} here; it takes: inference_settings, overrides, task_name.")
    name = model or _DEFAULT
    if name in _MODELS:
        published, task = _MODELS[name]
        if kwargs.get("task_name") not in (None, task):
            raise ValueError(f"Model {name!r} has a task already. Name another one as {name.partition('/')[0]}/TASK.")
        _require(name, published)
        kwargs = {**kwargs, "task_name": task}
    elif (path := Path(name).expanduser()).is_file():
        published = str(path)
    else:
        raise ValueError(f"Unknown model {model!r}: it is neither a file nor one of {', '.join(_MODELS)}.")
    kind, _, number = device.partition(":")
    if number:  # the library computes on the GPU that is current
        torch.cuda.set_device(int(number))
    return FAIRChemCalculator.from_model_checkpoint(published, device=kind, **kwargs)


def _require(name: str, published: str) -> None:
    """Refuse a model whose weights are missing where they may not be fetched: a download could hang for minutes."""
    if os.environ.get("HF_HUB_OFFLINE") != "1":
        return
    file = pretrained_mlip._MODEL_CKPTS.checkpoints[published]
    path = f"{file.subfolder}/{file.filename}"
    if not isinstance(try_to_load_from_cache(file.repo_id, path, cache_dir=CACHE_DIR), str):
        folder = Path(CACHE_DIR, f"models--{file.repo_id.replace('/', '--')}")
        raise FileNotFoundError(
            f"The weights of model {name!r} are not in this root: there is no {path} in {folder}. They are gated: accept "
            f"the terms at https://huggingface.co/{file.repo_id} and log in with 'hf auth login' to fetch them."
        )
