# /// script
# # 3.10: older ones are out of support.
# requires-python = ">=3.10"
# # 2026.8.11 computes with torch alone. Older releases need DGL, which has no wheels for today's torch; the lower bound
# # keeps a resolver from going back to them without a word.
# dependencies = ["alignn>=2026.8.11", "ase>=3.23", "torch>=2.2.1"]
#
# [tool.rootstock]
# description = "ALIGNN-FF: atomistic line graph network, universal force field for 89 elements. Energies, forces, stress."
# family = "ALIGNN"
# # Its own file of the licence; on PyPI it is labelled MIT.
# licence = { code = "NIST-PD-fallback", weights = "as stated at doi:10.6084/m9.figshare.23695695" }
# notes = [
#     "Atoms are always treated as periodic, whatever pbc says: put molecules and slabs into a large enough cell.",
#     "Single precision, with torch's defaults.",
# ]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress"]
# elements = ["H-Bi", "Ac-Pu"]
# training-set = "JARVIS-DFT"
# functional = "OptB88vdW"
# # That functional holds it.
# dispersion = "included"
# variants = [
#     { models = ["matpes_r2scan"], training-set = "MatPES-r2SCAN", functional = "r2SCAN", dispersion = "" },
#     { models = ["matpes_pbe"], training-set = "MatPES-PBE", functional = "PBE", dispersion = "" },
#     { models = ["*_mp_1.5mill"], training-set = "MPtrj", functional = "PBE+U", dispersion = "" },
#     { models = ["*_mp_187k", "*_mp_168k"], training-set = "MPtrj (part)", functional = "PBE+U", dispersion = "" },
#     { models = ["*_mpf"], training-set = "Materials Project", functional = "PBE+U", dispersion = "" },
# ]
#
# [[tool.rootstock.citation]]
# authors = "Choudhary, Kamal and DeCost, Brian and Major, Lily and Butler, Keith and Thiyagalingam, Jeyan and Tavazza, Francesca"
# title = "Unified graph neural network force-field for the periodic table: solid state applications"
# journal = "Digital Discovery"
# volume = "2"
# pages = "346--355"
# year = 2023
# doi = "10.1039/D2DD00096B"
#
# [[tool.rootstock.citation]]
# authors = "Choudhary, Kamal and DeCost, Brian"
# title = "Atomistic Line Graph Neural Network for improved materials property predictions"
# journal = "npj Computational Materials"
# volume = "7"
# pages = "185"
# year = 2021
# doi = "10.1038/s41524-021-00650-1"
#
# [[tool.rootstock.citation]]
# authors = "Kaplan, Aaron D. and Liu, Runze and Qi, Ji and Ko, Tsz Wai and Deng, Bowen and Riebesell, Janosh and Ceder, Gerbrand and Persson, Kristin A. and Ong, Shyue Ping"
# title = "A Foundational Potential Energy Surface Dataset for Materials"
# year = 2025
# arxiv = "2503.04070"
# models = ["matpes_*"]
#
# # The force fields among the package's models. The others predict single properties: their number is not an energy.
# [tool.rootstock.models]
# "" = "matpes_r2scan"
# "matpes_r2scan" = "the default of its authors"
# "matpes_pbe" = "without U"
# "v12.2.2024_dft_3d_307k" = "of December 2024"
# "v12.2.2024_mp_1.5mill" = "1.5 million structures"
# "v12.2.2024_mp_187k" = "187,000 structures"
# "v10.30.2024_dft_3d_307k" = "superseded"
# "v10.30.2024_mp_168k" = "superseded"
# "v8.29.2024_dft_3d" = "superseded"
# "v8.29.2024_mpf" = "superseded"
# "v5.27.2024" = "superseded"
# "/path/to/folder" = "a model of your own: the folder holds config.json and best_model.pt"
#
# [tool.rootstock.cache]
# ATOMGPTLAB_CACHE = "atomgptlab"
#
# # Single precision.
# [tool.rootstock.finite-differences]
# forces = 2e-3
# stress = 5e-4
#
# # Nobody has published numbers for these models: only the consistency of energy, forces and stress can be checked.
# [[tool.rootstock.references]]
# name = "NaCl, rock salt, a = 5.64 A"
# source = "none: finite differences only"
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
# ///
"""ALIGNN-FF."""

import os
from pathlib import Path

from alignn.ff.calculators import AlignnAtomwiseCalculator, get_figshare_model_ff
from ase.calculators.calculator import all_changes

_MODELS = (
    "matpes_r2scan", "matpes_pbe", "v12.2.2024_dft_3d_307k", "v12.2.2024_mp_1.5mill", "v12.2.2024_mp_187k",
    "v10.30.2024_dft_3d_307k", "v10.30.2024_mp_168k", "v8.29.2024_dft_3d", "v8.29.2024_mpf", "v5.27.2024",
)  # fmt: skip
_DEFAULT = "matpes_r2scan"
_CONFIG, _WEIGHTS = "config.json", "best_model.pt"


def setup(model: str, device: str = "cuda", **kwargs):
    """Return ALIGNN's calculator.

    Parameters
    ----------
    model : str
        One of the released force fields, a folder with a model, or empty for the default.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``.
    **kwargs
        Options of `AlignnAtomwiseCalculator`, such as ``intensive``, ``stress_wt``, ``model_filename``.
    """
    name = model or _DEFAULT
    if name in _MODELS:
        path = _released(name)
    elif (path := Path(name).expanduser()).is_dir():
        for file in (kwargs.get("config_filename", _CONFIG), kwargs.get("model_filename", _WEIGHTS)):
            if not (path / file).is_file():
                raise ValueError(f"{path} is no model of ALIGNN: it holds no {file}.")
    else:
        raise ValueError(f"Unknown model {model!r}: it is neither a folder nor one of {', '.join(_MODELS)}.")
    calculator = StrictCalculator(path=str(path), device=device, **kwargs)
    if not calculator.config["model"].get("calculate_gradient", True):
        raise ValueError(f"The model in {path} is no force field: it was trained without forces.")
    return calculator


def _released(name: str) -> Path:
    """Return the folder of a released model, fetched if it is missing and that is allowed."""
    path = Path(os.environ["ATOMGPTLAB_CACHE"], "alignn_ff", name)
    if all((path / file).is_file() for file in (_CONFIG, _WEIGHTS)):
        return path
    # Asked before the library is: it would create a folder in the root, and a download could hang.
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise FileNotFoundError(
            f"The weights of ALIGNN's model {name!r} are not in this root: there is no {path / _WEIGHTS}."
        )
    return Path(get_figshare_model_ff(name))


class StrictCalculator(AlignnAtomwiseCalculator):
    """ALIGNN's calculator, without the numbers that it makes up."""

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        if atoms.cell.rank < 3:
            raise ValueError("ALIGNN computes periodic structures only: give the atoms a cell of three vectors.")
        super().calculate(atoms, properties, system_changes)
        # Where a model computes no stress, the stock calculator returns 3x3 zeros; a stress that it did compute has
        # six components.
        if self.results["stress"].shape != (6,):
            del self.results["stress"]
