# /// script
# # 3.10: older ones are out of support.
# requires-python = ">=3.10"
# # 2026.8.11 computes with torch alone. Older releases need DGL, which has no wheels for today's torch; the lower bound
# # keeps a resolver from going back to them without a word.
# dependencies = ["alignn>=2026.8.11", "ase>=3.23", "torch>=2.2.1"]
#
# [tool.rootstock]
# description = "ALIGNN-FF: atomistic line graph network, universal force field for 89 elements. Energies, forces, stress."
# licence = { code = "MIT", weights = "as stated at doi:10.6084/m9.figshare.23695695" }
# citation = "K. Choudhary et al., Digital Discovery 2, 346 (2023), doi:10.1039/D2DD00096B"
# notes = [
#     "Atoms are always treated as periodic, whatever pbc says: put molecules and slabs into a large enough cell.",
#     "Single precision, with torch's defaults.",
# ]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress"]
# elements = ["H-Bi", "Ac-Pu"]
#
# # The force fields among the package's models. The others predict single properties: their number is not an energy.
# [tool.rootstock.models]
# "" = "matpes_r2scan"
# "matpes_r2scan" = "MatPES, r2SCAN"
# "matpes_pbe" = "MatPES, PBE"
# "v12.2.2024_dft_3d_307k" = "JARVIS-DFT, OptB88vdW"
# "v12.2.2024_mp_1.5mill" = "MPtrj, PBE/PBE+U"
# "v12.2.2024_mp_187k" = "part of MPtrj, PBE/PBE+U"
# "v10.30.2024_dft_3d_307k" = "JARVIS-DFT, OptB88vdW; superseded"
# "v10.30.2024_mp_168k" = "part of MPtrj, PBE/PBE+U; superseded"
# "v8.29.2024_dft_3d" = "JARVIS-DFT, OptB88vdW; superseded"
# "v8.29.2024_mpf" = "Materials Project, PBE/PBE+U; superseded"
# "v5.27.2024" = "JARVIS-DFT, OptB88vdW; superseded"
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
