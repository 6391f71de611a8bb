# /// script
# requires-python = ">=3.10"
# dependencies = ["ase>=3.23"]
#
# [tool.rootstock]
# description = "Effective medium theory, ASE's own: eight metals and H, C, N, O. Fast, no weights, no GPU: for trying things out."
# room = { megabytes = 350, files = 10500 }
# family = "EMT"
# licence = { code = "LGPL-2.1-or-later", weights = "" }
# elements = ["H", "C", "N", "O", "Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress", "energies"]
#
# [[tool.rootstock.citation]]
# authors = "Jacobsen, K. W. and Stoltze, P. and Nørskov, J. K."
# title = "A semi-empirical effective medium theory for metals and alloys"
# journal = "Surface Science"
# volume = "366"
# pages = "394--402"
# year = 1996
# doi = "10.1016/0039-6028(96)00816-3"
#
# [tool.rootstock.models]
# "" = "ASE's parameters"
#
# [[tool.rootstock.references]]
# name = "N atom"
# source = "ASE tutorial 'Atomization energy'"
# versions = { ase = ">=3.23" }
# symbols = "N"
# positions = [[0.0, 0.0, 0.0]]
# expected = { energy = 5.10 }
# tolerance = { energy = 0.005 }
#
# [[tool.rootstock.references]]
# name = "N2, d = 1.1 A"
# source = "ASE tutorial 'Atomization energy'"
# versions = { ase = ">=3.23" }
# symbols = "N2"
# positions = [[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]]
# expected = { energy = 0.44 }
# tolerance = { energy = 0.005 }
#
# [[tool.rootstock.references]]
# name = "Cu3Au, one atom displaced"
# source = "none: finite differences only"
# symbols = "AuCu3"
# cell = [[3.75, 0.0, 0.0], [0.0, 3.75, 0.0], [0.0, 0.0, 3.75]]
# scaled_positions = [[0.02, 0.01, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
# ///
"""ASE's effective medium theory potential."""

from ase.calculators.emt import EMT


def setup(model: str, device: str = "cpu", asap_cutoff: bool = False):
    """Return ASE's EMT. There is one model and it runs on the CPU, whatever `device` says.

    Parameters
    ----------
    model : str
        Must be empty.
    asap_cutoff : bool
        See `ase.calculators.emt.EMT`.
    """
    if model:
        raise ValueError(f"EMT has one model, without a name; got {model!r}.")
    return EMT(asap_cutoff=asap_cutoff)
