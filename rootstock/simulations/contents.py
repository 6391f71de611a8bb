"""Whether what was read from a file is one structure that can be computed."""

from __future__ import annotations

import math
from typing import Any

from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from rootstock.errors import ConfigurationError
from rootstock.simulations.provenance import SOURCE


def check_atoms(atoms: Atoms) -> None:
    """Refuse atoms that are no structure.

    Parameters
    ----------
    atoms : ase.Atoms
        Whose info says which frame of which file they are.

    Raises
    ------
    ConfigurationError
        If there are no atoms, an atomic number is of no element, or a site is occupied in part.
    """
    if not len(atoms):
        raise ConfigurationError(f"{atoms.info[SOURCE]} holds no atoms.")
    if not ((atoms.numbers >= 0) & (atoms.numbers < len(chemical_symbols))).all():
        raise ConfigurationError(f"{atoms.info[SOURCE]} holds atomic numbers that no element has.")
    _check_occupancy(atoms)


def _check_occupancy(atoms: Atoms) -> None:
    """Refuse a structure of sites that are shared or empty in part, as ASE reads them from CIF files."""
    table = atoms.info.get("occupancy")
    if not isinstance(table, dict) or not all(_is_site(key, site) for key, site in table.items()):
        return  # an entry of somebody else's
    for site in table.values():
        shares = [_share(value) for value in site.values()]
        if any(map(math.isnan, shares)):
            raise ConfigurationError(
                f"{atoms.info[SOURCE]} does not say how much of each site is occupied: {site}.",
                "If all sites are full, write 1.0 for each occupancy in the file.",
            )
        if len(shares) > 1 or shares[0] < 1 - 1e-6:
            raise ConfigurationError(
                f"{atoms.info[SOURCE]} has sites that are occupied in part: it is not one structure.",
                "Make an ordered structure of it first.",
            )


def _is_site(key: Any, site: Any) -> bool:
    return str(key).isdigit() and isinstance(site, dict) and bool(site) and all(name in atomic_numbers for name in site)


def _share(value: Any) -> float:
    """Return how much of a site an element occupies; NaN if the file does not say so."""
    try:
        return 1.0 if value == "." else float(value)  # in a CIF file, a dot stands for the default
    except (TypeError, ValueError, OverflowError):
        return math.nan
