"""What a structure of a run has that its model must not see: notes of calculations before, and results of the input."""

from __future__ import annotations

from typing import Any

from ase import Atoms

from rootstock.simulations.provenance import NOTES, SOURCE

_REFERENCE = "ref_"  # begins the names of what the input carried as results


def set_aside(atoms: Atoms) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take out of a structure what the model must not see; return what results are to have of it.

    A copy would cost more than all else that is done with a small structure.

    Parameters
    ----------
    atoms : ase.Atoms
    """
    info, arrays = (
        {name: entries.pop(name) for name in [*entries] if name in NOTES or str(name).startswith(_REFERENCE)}
        for entries in (atoms.info, atoms.arrays)
    )
    # The other notes are about a calculation before.
    return {name: value for name, value in info.items() if name not in NOTES or name == SOURCE}, arrays


def put_back(atoms: Atoms, info: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Give a structure what was set aside.

    Parameters
    ----------
    atoms : ase.Atoms
    info, arrays
        As `set_aside` returned them.
    """
    atoms.info.update(info)
    atoms.arrays.update(arrays)
