"""Extra results with the atoms that they are of: in ``atoms.info`` and ``atoms.arrays``, which files hold."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Mapping
from typing import Any

from ase import Atoms
from ase.calculators.calculator import all_properties

from rootstock.config.extra_properties import extra_property_fault
from rootstock.worker.channel.shapes import parse_shape

logger = logging.getLogger("rootstock")

LEFT_OUT = "rootstock_left_out"  # the entry of atoms.info that names those that are too large
_THERE = "rootstock_extra"  # and those that are there: to the next model, they are somebody else's
MOST = 10_000  # numbers in an entry of atoms.info: in text files it is one line
_OF_ASE = "extra_"  # begins the names of those that are called as one of ASE's properties is
REFERENCE = "ref_"  # and of what the structure came with under that name, or as results
OF_START = "start_"  # the same, where atoms have moved since


def extra_results(calculator: Any) -> Mapping[str, Any]:
    """Return what a calculator knows beside ASE's properties; nothing of one of another kind than ours."""
    return calculator.extra_results if getattr(calculator, "name", "") == "rootstock" else {}


def add_extra_results(atoms: Atoms, extra: Mapping[str, Any], calculator: Any, *, moved: bool = False) -> None:
    """Give atoms the extra results that were computed of them.

    Those of each atom, with two dimensions at most, become arrays, all others entries of info.

    Parameters
    ----------
    atoms : ase.Atoms
        Changed in place. What they have under such a name already is kept, named ``ref_NAME``, and so are all extra
        results that were computed before, perhaps by another model.
    extra : Mapping of str to Any
    calculator : ase.calculators.calculator.Calculator
        Which says what is per atom.
    moved : bool
        Whether the atoms are elsewhere than they came: what they have already is named ``start_NAME`` then.
    """
    atoms.info.pop(LEFT_OUT, None)
    prefix = OF_START if moved else REFERENCE
    for key in str(atoms.info.pop(_THERE, "")).split():
        if not extra_property_fault(key.removeprefix(_OF_ASE), "scalar"):  # what else somebody has written there
            set_free(key, atoms, prefix)
    shapes = calculator.extra_properties if extra else {}
    there, left_out = [], []
    for name, value in extra.items():
        key = f"{_OF_ASE}{name}" if name in all_properties else name
        set_free(key, atoms, prefix)
        size = getattr(value, "size", 1)
        if parse_shape(shapes[name]).per_atom and value.ndim <= 2 and 0 not in value.shape[1:]:
            atoms.arrays[key] = value
        elif size <= MOST:
            atoms.info[key] = value
        else:
            left_out.append(name)
            continue
        there.append(key)
    if there:
        atoms.info[_THERE] = " ".join(there)
    if left_out:
        atoms.info[LEFT_OUT] = " ".join(left_out)
        _warn(" ".join(left_out))


def set_free(name: str, atoms: Atoms, prefix: str) -> None:
    """Give what atoms have under a name another one, so that the name is free.

    Parameters
    ----------
    name : str
    atoms : ase.Atoms
        Changed in place.
    prefix : str
        Begins the other name.
    """
    for entries in (atoms.info, atoms.arrays):
        if name in entries:
            entries[free_name(f"{prefix}{name}", atoms)] = entries.pop(name)


def free_name(name: str, atoms: Atoms) -> str:
    """Return a name that no entry of some atoms has: this one, or with a number behind it.

    Parameters
    ----------
    name : str
    atoms : ase.Atoms
    """
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(each for each in names if each not in atoms.info and each not in atoms.arrays)


@functools.cache  # it is said once
def _warn(names: str) -> None:
    logger.warning(
        "Files of structures hold extra results of up to %d numbers: left out are %s, as info[%r] says in each "
        "structure. In Python, calc.extra_results has them.", MOST, names, LEFT_OUT,
    )  # fmt: skip
