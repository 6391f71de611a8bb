# /// script
# requires-python = ">=3.10"
# dependencies = ["tblite>=0.8", "ase>=3.23"]
#
# [tool.rootstock]
# description = "xTB by tblite: semiempirical tight binding for molecules and crystals, elements to Rn. Energies, forces, stress, charges, dipole."
# family = "xTB"
# room = { megabytes = 360, files = 11000 }
# licence = { code = "LGPL-3.0-or-later", weights = "LGPL-3.0-or-later" }
# functional = "GFN2-xTB"
# notes = [
#     "The total charge and the number of unpaired electrons are the sums of the initial charges and moments of the atoms, or setup_kwargs={'charge': 1, 'multiplicity': 2}; atoms.info is not read.",
#     "It is self-consistent and goes on from its last density: another order of structures changes the last digits.",
#     "It computes on the processor, whatever the device.",
# ]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress", "energies", "charges", "dipole"]
# extra-properties = { bond-orders = "N,N,spins" }
# elements = ["H-Rn"]
# dispersion = "included"
# bundled = ["*"]
# variants = [
#     { models = ["GFN1-xTB"], functional = "GFN1-xTB" },
#     { models = ["IPEA1-xTB"], functional = "IPEA1-xTB" },
# ]
#
# [[tool.rootstock.citation]]
# authors = "Bannwarth, Christoph and Ehlert, Sebastian and Grimme, Stefan"
# title = "GFN2-xTB: An Accurate and Broadly Parametrized Self-Consistent Tight-Binding Quantum Chemical Method with Multipole Electrostatics and Density-Dependent Dispersion Contributions"
# journal = "Journal of Chemical Theory and Computation"
# volume = "15"
# pages = "1652--1671"
# year = 2019
# doi = "10.1021/acs.jctc.8b01176"
# models = ["GFN2-xTB"]
#
# [[tool.rootstock.citation]]
# authors = "Grimme, Stefan and Bannwarth, Christoph and Shushkov, Philip"
# title = "A Robust and Accurate Tight-Binding Quantum Chemical Method for Structures, Vibrational Frequencies, and Noncovalent Interactions of Large Molecular Systems Parametrized for All spd-Block Elements (Z = 1-86)"
# journal = "Journal of Chemical Theory and Computation"
# volume = "13"
# pages = "1989--2009"
# year = 2017
# doi = "10.1021/acs.jctc.7b00118"
# models = ["GFN1-xTB", "IPEA1-xTB"]
#
# [[tool.rootstock.citation]]
# authors = "Ásgeirsson, Vilhjálmur and Bauer, Christoph A. and Grimme, Stefan"
# title = "Quantum chemical calculation of electron ionization mass spectra for general organic and inorganic molecules"
# journal = "Chemical Science"
# volume = "8"
# pages = "4879--4895"
# year = 2017
# doi = "10.1039/C7SC00601B"
# models = ["IPEA1-xTB"]
#
# [tool.rootstock.models]
# "" = "GFN2-xTB"
# "GFN2-xTB" = "electrostatics with multipoles, and dispersion as in D4"
# "GFN1-xTB" = "dispersion as in D3: often the steadier one for crystals"
# "IPEA1-xTB" = "for ionisation potentials and electron affinities"
#
# [tool.rootstock.aliases]
# "gfn2-xtb" = "GFN2-xTB"
# "gfn1-xtb" = "GFN1-xTB"
# "ipea1-xtb" = "IPEA1-xTB"
#
# # Self-consistent to 1e-6 Hartree.
# [tool.rootstock.finite-differences]
# forces = 2e-2
# stress = 5e-3
#
# [tool.rootstock.consistency]
# energy = 1e-4
# forces = 1e-2
#
# [[tool.rootstock.references]]
# name = "C4H10O2, 16 atoms"
# source = "tblite, test_ase.py::test_gfn2_xtb_0d (in its wheel)"
# versions = { tblite = ">=0.6,<1" }
# model = "GFN2-xTB"
# symbols = "CHOCH2CH4CH2OH"
# positions = [
#     [1.578385, 0.147690, 0.343809],
#     [1.394750, 0.012968, 1.413545],
#     [1.359929, -1.086203, -0.359782],
#     [0.653845, 1.215099, -0.221322],
#     [1.057827, 2.180283, 0.093924],
#     [0.729693, 1.184864, -1.311438],
#     [-0.817334, 1.152127, 0.208156],
#     [-1.303525, 2.065738, -0.145828],
#     [-0.883765, 1.159762, 1.299260],
#     [1.984120, -1.734446, -0.021385],
#     [2.616286, 0.458948, 0.206544],
#     [-1.627725, -0.034052, -0.311301],
#     [-2.684229, 0.151015, -0.118566],
#     [-1.501868, -0.118146, -1.397506],
#     [-1.324262, -1.260154, 0.333377],
#     [-0.417651, -1.475314, 0.076637],
# ]
# [tool.rootstock.references.expected]
# energy = -592.6794369941175
# forces = [
#     [-0.28558498, -0.48585826, -0.28390033],
#     [-0.05526620, -0.07403747, 0.09666403],
#     [0.18833314, 0.39157781, 0.33884431],
#     [-0.01166354, 0.24654465, -0.16778319],
#     [-0.05367094, 0.03368292, 0.05115371],
#     [-0.09604838, -0.10000142, 0.01095776],
#     [0.09420591, 0.18570550, 0.17795826],
#     [0.02650866, -0.04070459, -0.03657808],
#     [0.07887087, -0.05806315, 0.00652968],
#     [-0.00788094, -0.07974101, -0.03181259],
#     [0.13328535, 0.03208946, -0.04638717],
#     [0.08200330, -0.39159844, 0.12110715],
#     [-0.11455446, -0.01484252, 0.09974720],
#     [0.09786376, -0.09130485, -0.05742438],
#     [-0.26640817, 0.47603781, -0.27857408],
#     [0.19000660, -0.02948645, -0.00050229],
# ]
# [tool.rootstock.references.tolerance]
# energy = 1e-5
# forces = 1e-5
#
# [[tool.rootstock.references]]
# name = "C4H10O2, 16 atoms, GFN1-xTB"
# source = "tblite, test_ase.py::test_gfn1_xtb_0d (in its wheel)"
# versions = { tblite = ">=0.6,<1" }
# model = "GFN1-xTB"
# symbols = "CHOCH2CH4CH2OH"
# positions = [
#     [1.578385, 0.147690, 0.343809],
#     [1.394750, 0.012968, 1.413545],
#     [1.359929, -1.086203, -0.359782],
#     [0.653845, 1.215099, -0.221322],
#     [1.057827, 2.180283, 0.093924],
#     [0.729693, 1.184864, -1.311438],
#     [-0.817334, 1.152127, 0.208156],
#     [-1.303525, 2.065738, -0.145828],
#     [-0.883765, 1.159762, 1.299260],
#     [1.984120, -1.734446, -0.021385],
#     [2.616286, 0.458948, 0.206544],
#     [-1.627725, -0.034052, -0.311301],
#     [-2.684229, 0.151015, -0.118566],
#     [-1.501868, -0.118146, -1.397506],
#     [-1.324262, -1.260154, 0.333377],
#     [-0.417651, -1.475314, 0.076637],
# ]
# [tool.rootstock.references.expected]
# energy = -632.7363734598027
# forces = [
#     [-0.37070590, -0.51067739, -0.27981764],
#     [-0.04339461, -0.09290876, 0.22940156],
#     [0.11141234, 0.46678720, 0.24552625],
#     [0.04255709, 0.19019316, -0.23531997],
#     [-0.01897377, 0.10810803, 0.05314982],
#     [-0.07150720, -0.05182148, -0.08413638],
#     [0.06631826, 0.10587709, 0.29833479],
#     [-0.01062355, 0.02301460, -0.04964730],
#     [0.06610108, -0.02724994, 0.09234280],
#     [0.06519070, -0.19311773, -0.01152205],
#     [0.23879786, 0.09871398, -0.04009526],
#     [-0.04381577, -0.49997745, 0.08672818],
#     [-0.23259608, 0.13735636, 0.06783414],
#     [0.08297636, -0.09566973, -0.20602954],
#     [-0.23686052, 0.57454371, -0.17194215],
#     [0.35512370, -0.23317164, 0.00519275],
# ]
# [tool.rootstock.references.tolerance]
# energy = 1e-5
# forces = 1e-5
#
# [[tool.rootstock.references]]
# name = "CO2, a crystal of 12 atoms, GFN1-xTB"
# source = "tblite, test_ase.py::test_gfn1_xtb_3d (in its wheel)"
# versions = { tblite = ">=0.8,<1" }
# model = "GFN1-xTB"
# options = { xtb_config = { smooth_cutoff = 0.0 } }
# symbols = "C4O8"
# cell = [5.68032, 5.68032, 5.68032]
# positions = [
#     [0.9441259872, 0.9437851680, 0.9543505632],
#     [3.7179966528, 0.9556570368, 3.7316862240],
#     [3.7159517376, 3.7149292800, 0.9692330016],
#     [0.9529872864, 3.7220864832, 3.7296981120],
#     [1.6213905408, 1.6190616096, 1.6313879040],
#     [0.2656685664, 0.2694175776, 0.2776540416],
#     [4.3914553920, 1.6346256864, 3.0545920000],
#     [3.0440834880, 0.2764611744, 4.4080419264],
#     [4.3910577696, 3.0416409504, 0.2881058304],
#     [3.0399936576, 4.3879335936, 1.6497353376],
#     [0.2741322432, 4.4003734944, 3.0573754368],
#     [1.6312174944, 3.0434586528, 4.4023048032],
# ]
# [tool.rootstock.references.expected]
# energy = -1256.958705929313
# forces = [
#     [-0.07360394, -0.05603834, -0.06036344],
#     [-0.03477627, -0.01348757, 0.02235460],
#     [0.02431805, -0.03804161, -0.01979895],
#     [-0.01671803, 0.02603332, -0.03047622],
#     [-1.91909901, -1.91825110, -1.92230737],
#     [1.96149552, 1.94281733, 1.95221612],
#     [-1.88931314, -1.94728822, 1.93914516],
#     [1.95149849, 1.92965228, -1.92636824],
#     [-1.92430552, 1.95342944, 1.93843526],
#     [1.93522480, -1.88626609, -1.95091505],
#     [1.92926171, -1.93403872, 1.94507551],
#     [-1.94398267, 1.94147930, -1.88699737],
# ]
# stress = [5.92641700e-02, 5.92616112e-02, 5.93210045e-02, -2.10564978e-06, -1.58598931e-05, 1.47754979e-05]
# [tool.rootstock.references.tolerance]
# energy = 1e-5
# forces = 1e-5
# stress = 5e-6
# ///
"""xTB by tblite."""

from typing import ClassVar

import numpy as np
from tblite.ase import TBLite

_MODELS = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")
_SOLVATION = tuple(f"{name}_solvation" for name in ("alpb", "gbsa", "cosmo", "cpcm", "pcm", "gbe", "gb"))
_OPTIONS = {*TBLite.default_parameters, *_SOLVATION} - {"method", "cache_api"}  # the library ignores any other


def setup(model: str, device: str = "cpu", **kwargs):
    """Return tblite's calculator, which runs on the processor, whatever `device` says.

    Parameters
    ----------
    model : str
        ``GFN2-xTB``, ``GFN1-xTB``, ``IPEA1-xTB``, or empty for the default.
    **kwargs
        Options of `tblite.ase.TBLite`, such as ``charge``, ``multiplicity``, ``accuracy``, ``electronic_temperature``,
        ``alpb_solvation``.
    """
    name = model or _MODELS[0]
    if name not in _MODELS:
        raise ValueError(f"Unknown model {model!r}; there are: {', '.join(_MODELS)}.")
    if unknown := sorted(set(kwargs) - _OPTIONS):
        raise TypeError(f"tblite takes no option {unknown[0]!r} here; it takes: {', '.join(sorted(_OPTIONS))}.")
    if kwargs.get("electric_field") is not None:
        kwargs["electric_field"] = np.array(kwargs["electric_field"], dtype=float)  # a list comes over the wire
    return Declared(method=name, **{"verbosity": 0, **kwargs})


class Declared(TBLite):
    """tblite's calculator, which computes the free energy without saying so."""

    implemented_properties: ClassVar = [*TBLite.implemented_properties, "free_energy"]
