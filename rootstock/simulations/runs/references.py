"""Energies, forces and other results that the input carried: kept beside the new ones, never taken for them."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties

from rootstock.simulations.extxyz import OF_ATOMS
from rootstock.simulations.provenance import without_notes

_OURS = re.compile(rf"ref_({'|'.join(map(re.escape, all_properties))})(_\d+)?")


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
        free = _free_name(f"ref_{name}", atoms)
        if of_atoms:
            atoms.set_array(free, np.asarray(value))
        else:
            atoms.info[free] = value
    atoms.calc = None


def _free_name(name: str, atoms: Atoms) -> str:
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(each for each in names if each not in atoms.info and each not in atoms.arrays)


def for_model(atoms: Atoms) -> Atoms:
    """Return a copy without what the model is not to know: references, and where the structure comes from.

    Parameters
    ----------
    atoms : ase.Atoms
    """
    copy = without_notes(atoms)
    entries: tuple[dict[Any, Any], ...] = (copy.info, copy.arrays)
    for held in entries:
        for name in [name for name in held if isinstance(name, str) and _OURS.fullmatch(name)]:
            del held[name]
    return copy
