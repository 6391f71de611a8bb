# /// script
# requires-python = ">=3.10"
# dependencies = ["ase>=3.23"]
#
# [tool.rootstock]
# description = "Lennard-Jones 12-6, ASE's own, for any element: no weights, no GPU. The numbers are exact, so it tests a machine, not a material."
# room = { megabytes = 350, files = 10500 }
# family = "Lennard-Jones"
# licence = { code = "LGPL-2.1-or-later", weights = "" }
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "stress", "energies", "stresses"]
# variants = [{ models = ["argon"], elements = ["Ar"] }]
#
# [[tool.rootstock.citation]]
# authors = "Jones, J. E."
# title = "On the determination of molecular fields. II. From the equation of state of a gas"
# journal = "Proceedings of the Royal Society of London. Series A"
# volume = "106"
# pages = "463--477"
# year = 1924
# doi = "10.1098/rspa.1924.0082"
#
# [tool.rootstock.models]
# "" = "reduced units: sigma = 1 A, epsilon = 1 eV"
# "argon" = "sigma = 3.405 A, epsilon = 0.010323 eV (119.8 K)"
#
# [[tool.rootstock.references]]
# name = "dimer at its minimum, r = 2^(1/6) sigma"
# source = "12-6 potential: E = -epsilon, F = 0 at its minimum"
# symbols = "Ar2"
# positions = [[0.0, 0.0, 0.0], [0.0, 0.0, 1.122462048309373]]
# expected = { energy = -1.0, forces = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]] }
# tolerance = { energy = 1e-5, forces = 1e-8 }
#
# [[tool.rootstock.references]]
# name = "argon, fcc, a = 5.3 A, four atoms"
# source = "none: finite differences only"
# model = "argon"
# symbols = "Ar4"
# cell = [[5.3, 0.0, 0.0], [0.0, 5.3, 0.0], [0.0, 0.0, 5.3]]
# scaled_positions = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
# ///
"""ASE's Lennard-Jones potential."""

from ase.calculators.lj import LennardJones

# The cutoff is so far out that what it cuts off is below 1e-5 epsilon for a dimer.
_MODELS = {
    "": {"sigma": 1.0, "epsilon": 1.0, "rc": 10.0},
    "argon": {"sigma": 3.405, "epsilon": 0.010323, "rc": 10.0},
}


def setup(model: str, device: str = "cpu", **kwargs):
    """Return ASE's Lennard-Jones potential; it runs on the CPU, whatever `device` says.

    Parameters
    ----------
    model : str
        Empty or ``argon``.
    **kwargs
        Options of `ase.calculators.lj.LennardJones` (``sigma``, ``epsilon``, ``rc``, ``ro``, ``smooth``) that replace
        the model's.
    """
    if model not in _MODELS:
        raise ValueError(f"Unknown model {model!r}; valid are: (empty), argon.")
    if unknown := sorted(kwargs.keys() - LennardJones.default_parameters.keys()):
        known = ", ".join(LennardJones.default_parameters)
        raise TypeError(f"Lennard-Jones takes no option {unknown[0]!r}; it takes: {known}.")
    return LennardJones(**{**_MODELS[model], **kwargs})
