"""Energies, forces and other results that the input carried: kept beside the new ones, never taken for them."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from rootstock.simulations.extra_results import REFERENCE, free_name
from rootstock.simulations.extxyz import OF_ATOMS


def keep_as_references(atoms: Atoms) -> None:
    """Move the results that atoms were read with into their info and arrays, as ``ref_energy``, ``ref_forces`` ...

    Parameters
    ----------
    atoms : ase.Atoms
        Changed in place. An entry of theirs that has such a name already stays, and ours is numbered: ``ref_energy_2``.
    """
    if atoms.calc is None:
        return
    for name, value in atoms.calc.results.items():
        if value is None:
            continue
        of_atoms = name in OF_ATOMS and np.shape(value)[:1] == (len(atoms),)
        free = free_name(f"{REFERENCE}{name}", atoms)
        if of_atoms:
            atoms.set_array(free, np.asarray(value))
        else:
            atoms.info[free] = value
    atoms.calc = None
