# /// script
# # 3.10: older ones are out of support.
# requires-python = ">=3.10"
# dependencies = [
#     # The first release with mace_polar(), and its long-range interactions. mace-torch names no version of the latter:
#     # with graph-longrange 0.4.3 and newer, 0.3.16 loads a model and fails at its first call. The next release of
#     # mace-torch needs a newer one (mace, pull request 1718).
#     "mace-torch>=0.3.16,<0.3.17",
#     "graph-longrange>=0.4.0,<0.4.3",
#     "ase>=3.23",
#     # mace-torch itself would take torch 1.12; its authors do not support 2.4.1.
#     "torch>=2.4,!=2.4.1",
# ]
#
# [tool.rootstock]
# description = "MACE-POLAR-1: molecules with charge and spin, polarisable long-range electrostatics. Energies, forces, charges, dipoles."
# family = "MACE"
# room = { megabytes = 1400, files = 40000, cuda = { megabytes = 6000 } }
# # ASL: academic use only. Whoever uses such a model accepts its terms; the library prints a notice and does not ask.
# licence = { code = "MIT", weights = "ASL" }
# notes = [
#     "atoms.info['charge'] is the total charge, and ['spin'] the multiplicity: 1 for a closed shell. ['external_field'], three numbers in V/A, is optional.",
#     "default_dtype: float64 by default; float32 is enough for molecular dynamics.",
#     "The dipole of a periodic structure means nothing.",
#     "No stress: that of mace-torch 0.3.16 lacks a part of the long-range energy (github.com/ACEsuit/mace/issues/1642), so cells cannot be relaxed.",
#     "Dispersion is in the data (wB97M-V), so D3 is not offered.",
#     "A checkpoint is a pickle: loading one runs the code in it. Load only those that you trust.",
# ]
# all-models-listed = true
# properties = ["energy", "free_energy", "forces", "charges", "dipole"]
# extra-properties = { node_energy = "per-atom", spins = "per-atom", interaction_energy = "scalar", electrostatic_energy = "scalar", electron_energy = "scalar", density_coefficients = "N,multipoles", spin_charge_density = "N,2,multipoles" }
# methods = ["get_hessian", "get_descriptors"]
# elements = ["H-Bi"]
# needs = ["charge", "spin"]
# dispersion = "included"
# training-set = "OMol25"
# functional = "wB97M-V"
#
# [tool.rootstock.models]
# "" = "1-m"
# "1-s" = "MACE-POLAR-1-S: small"
# "1-m" = "MACE-POLAR-1-M: medium, receptive field of 12 A"
# "1-l" = "MACE-POLAR-1-L: large, receptive field of 18 A"
# "/path/to/file.model" = "a checkpoint of your own, of the same kind"
#
# # The library looks in $XDG_CACHE_HOME/mace. Others (fontconfig, torch) write below that variable, so it is not set for
# # the whole process: see _cache_of_the_root().
# [tool.rootstock.cache]
# ROOTSTOCK_XDG_CACHE_HOME = "xdg"
#
# [[tool.rootstock.citation]]
# authors = "Batatia, Ilyes and Baldwin, William J. and Kuryla, Domantas and Hart, Joseph and Kasoar, Elliott and Elena, Alin M. and Moore, Harry and Gawkowski, Mikołaj J. and Shi, Benjamin X. and Kapil, Venkat and Kourtis, Panagiotis and Magdău, Ioan-Bogdan and Csányi, Gábor"
# title = "MACE-POLAR-1: A Polarisable Electrostatic Foundation Model for Molecular Chemistry"
# year = 2026
# arxiv = "2602.19411"
#
# [[tool.rootstock.citation]]
# authors = "Levine, Daniel S. and Shuaibi, Muhammed and Spotte-Smith, Evan Walter Clark and Taylor, Michael G. and others"
# title = "The Open Molecules 2025 (OMol25) Dataset, Evaluations, and Models"
# year = 2025
# arxiv = "2505.08762"
#
# [[tool.rootstock.references]]
# name = "H2O"
# source = "janus-core, tests/test_single_point.py"
# versions = { mace-torch = ">=0.3.16,<0.4" }
# model = "1-s"
# needs_weights = true
# symbols = "H2O"
# pbc = false
# positions = [[0.9575, 0.0, 0.0], [-0.2399, 0.92696, 0.0], [0.0, 0.0, 0.0]]
# info = { charge = 0, spin = 1 }
# expected = { energy = -2079.863982582351 }
# # That test: 1e-3 of the value, for other machines; double precision is far closer.
# tolerance = { energy = 1e-2 }
#
# [[tool.rootstock.references]]
# name = "acetic acid, of X23, in a box"
# source = "MACE, tests/references/polar_regression_reference.json: 02_acetic_acid/POSCAR_molecule, float64"
# versions = { mace-torch = ">=0.3.16,<0.4" }
# model = "1-m"
# needs_weights = true
# symbols = "C2O2H4"
# cell = [22.0, 22.0, 22.0]
# positions = [
#     [5.45447, 7.04797, 6.99946],
#     [6.95724, 7.03547, 7.00044],
#     [7.68192, 8.00569, 7.00005],
#     [7.44465, 5.75721, 7.00273],
#     [5.0978, 8.07821, 6.99918],
#     [5.07748, 6.51867, 6.11701],
#     [5.07685, 6.51847, 7.88131],
#     [8.41843, 5.83687, 6.99996],
# ]
# info = { charge = 0, spin = 1 }
# [tool.rootstock.references.expected]
# energy = -6234.290783382438
# forces = [
#     [-0.09166276926598661, -0.003169024897822076, -0.0037642171864779627],
#     [0.5336092357772542, 0.1296494211815839, 0.00503716637386566],
#     [-0.5449403614191718, -0.8103449835333062, -0.0031447206714436677],
#     [0.21809568636074655, 0.6730569464772882, -0.008781915366038555],
#     [0.07166066822530762, -0.16706735339358228, 0.0010716256861428891],
#     [0.11093390930763067, 0.10211334218392355, 0.15935497120791176],
#     [0.10690187201370525, 0.10081257674714832, -0.15512450410990933],
#     [-0.4045982409994859, -0.025050924765233285, 0.00535159406594918],
# ]
# # That test: 1e-9, with today's graph-longrange.
# [tool.rootstock.references.tolerance]
# energy = 1e-4
# forces = 1e-4
# ///
"""MACE-POLAR."""

import contextlib
import inspect
import os
from pathlib import Path

from mace.calculators import MACECalculator, mace_polar
from mace.calculators.foundations_models import polar_model_urls
from mace.tools.utils import get_cache_dir

_DEFAULT = "1-m"
_MODELS = {name.removeprefix("polar-"): name for name in polar_model_urls}

# The stock calculator takes any option and ignores what it does not know.
_OPTIONS = {*inspect.signature(MACECalculator).parameters, "head"} - {
    "model_paths", "models", "model_type", "device", "kwargs",
}  # fmt: skip


def setup(model: str, device: str = "cuda", default_dtype: str = "float64", **kwargs):
    """Return MACE's calculator.

    Parameters
    ----------
    model : str
        One of the released models, a path to a checkpoint, or empty for the default.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``, ``xpu``.
    default_dtype : {'float64', 'float32'}
    **kwargs
        Options of `MACECalculator`, such as ``enable_cueq``.
    """
    if unknown := sorted(set(kwargs) - _OPTIONS):
        raise TypeError(f"MACE takes no option {unknown[0]!r} here; it takes: {', '.join(sorted(_OPTIONS))}.")
    name = model or _DEFAULT
    if name in _MODELS:
        with _cache_of_the_root():
            file = Path(
                get_cache_dir(),
                "".join(c for c in os.path.basename(polar_model_urls[_MODELS[name]]) if c.isalnum() or c == "_"),
            )
            _require(name, file)
            if not file.is_file():
                mace_polar(_MODELS[name], device="cpu", return_raw_model=True)  # which fetches it
    elif not (file := Path(name).expanduser()).is_file():
        raise ValueError(f"Unknown model {model!r}: it is neither a file nor one of {', '.join(_MODELS)}.")
    return PolarCalculator(
        model_paths=str(file), model_type="PolarMACE", device=device, default_dtype=default_dtype, **kwargs
    )


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
        raise FileNotFoundError(f"The weights of MACE-POLAR's model {name!r} are not in this root: there is no {file}.")


class PolarCalculator(MACECalculator):
    """MACE's calculator, which says what it computes rightly."""

    def __init__(self, *args, **kwargs):
        self.implemented_properties = []  # the stock calculator extends this list, which all of ASE's classes share
        super().__init__(*args, **kwargs)
        for name in ("stress", "energies"):  # of the latter, the long-range part is missing
            self.implemented_properties.remove(name)
        self.implemented_properties += [
            "charges", "dipole", "spins", "interaction_energy", "electrostatic_energy", "electron_energy",
            "density_coefficients", "spin_charge_density",
        ]  # fmt: skip
