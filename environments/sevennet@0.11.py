# /// script
# requires-python = ">=3.10,<3.13"
# # The release that janus-core's values were computed with. It is GPL, and 0.13 is MIT; the weights are the same files.
# dependencies = ["sevenn==0.11.2.post1", "ase>=3.25", "torch>=2.4"]
#
# [tool.rootstock]
# description = "SevenNet 0.11, to repeat results of that release. Energies, forces, stress, energies of atoms."
# family = "SevenNet"
# room = { megabytes = 1500, files = 45000, cuda = { megabytes = 6500 } }
# licence = { code = "GPL-3.0-only", weights = "GPL-3.0-only" }
# training-set = "MPtrj"
# functional = "PBE+U"
# notes = ["Single precision only.", "The weights come with the package: nothing is downloaded."]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress", "energies"]
# extra-properties = { num_edges = "scalar" }
# elements = ["H-Bi", "Ac-Pu"]
# bundled = ["*"]
#
# [[tool.rootstock.citation]]
# authors = "Park, Yutack and Kim, Jaesun and Hwang, Seungwoo and Han, Seungwu"
# title = "Scalable Parallel Algorithm for Graph Neural Network Interatomic Potentials in Molecular Dynamics Simulations"
# journal = "Journal of Chemical Theory and Computation"
# volume = "20"
# pages = "4857--4868"
# year = 2024
# doi = "10.1021/acs.jctc.4c00190"
#
# [tool.rootstock.models]
# "" = "0"
# "0" = "SevenNet-0 of 11 July 2024, the fastest"
# "l3i5" = "more accurate than 0, and four times as slow"
#
# [tool.rootstock.finite-differences]
# forces = 2e-3
# stress = 5e-4
#
# [[tool.rootstock.references]]
# name = "NaCl, rock salt, a = 5.64 A"
# source = "janus-core, tests/test_single_point.py (sevenn 0.11.2.post1)"
# versions = { sevenn = "==0.11.2.post1" }
# model = "0"
# symbols = "Na4Cl4"
# cell = [5.64, 5.64, 5.64]
# scaled_positions = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.0, 0.5], [0.0, 0.5, 0.0]]
# expected = { energy = -27.061979293823242 }
# tolerance = { energy = 1e-4 }
# ///
"""SevenNet 0.11."""

from ase.calculators.calculator import all_changes
from sevenn import _const
from sevenn.calculator import SevenNetCalculator

_MODELS = {"0": _const.SEVENNET_0_11Jul2024, "l3i5": _const.SEVENNET_l3i5}


def setup(model: str, device: str = "cuda", enable_cueq: bool = False):
    """Return SevenNet's calculator.

    Parameters
    ----------
    model : str
        ``0``, ``l3i5``, or empty for the default.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``.
    enable_cueq : bool
        Whether cuEquivariance computes on a GPU.
    """
    if (model or "0") not in _MODELS:
        raise ValueError(f"Unknown model {model!r}; there are: {', '.join(_MODELS)}.")
    return PlainCalculator(_MODELS[model or "0"], device=device, enable_cueq=enable_cueq)


class PlainCalculator(SevenNetCalculator):
    """SevenNet's calculator, which refuses unknown elements and promises no more than it computes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.implemented_properties = [each for each in self.implemented_properties if each != "stresses"]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        if unknown := sorted({int(number) for number in atoms.numbers} - self.type_map.keys()):
            raise ValueError(f"This model of SevenNet has no element of atomic number {unknown[0]}.")
        super().calculate(atoms, properties, system_changes)
