"""What a structure of a run has that its model must not see: notes of calculations before, and results of the input."""

from __future__ import annotations

from typing import Any

from ase import Atoms

from rootstock.simulations.extra_results import OF_START, REFERENCE, free_name
from rootstock.simulations.provenance import NOTES, SOURCE


def set_aside(atoms: Atoms) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take out of a structure what the model must not see; return what results are to have of it.

    A copy would cost more than all else that is done with a small structure.

    Parameters
    ----------
    atoms : ase.Atoms
    """
    info, arrays = (
        {name: entries.pop(name) for name in [*entries] if name in NOTES or str(name).startswith(REFERENCE)}
        for entries in (atoms.info, atoms.arrays)
    )
    # The other notes are about a calculation before.
    return {name: value for name, value in info.items() if name not in NOTES or name == SOURCE}, arrays


def put_back(atoms: Atoms, info: dict[str, Any], arrays: dict[str, Any], *, moved: bool = False) -> None:
    """Give a structure what was set aside.

    Parameters
    ----------
    atoms : ase.Atoms
    info, arrays
        As `set_aside` returned them.
    moved : bool
        Whether the atoms are elsewhere now: results that the input carried are named ``start_energy`` then, and so on;
        an entry of theirs that has such a name already stays, and ours is numbered.
    """
    for entries, kept in ((atoms.info, info), (atoms.arrays, arrays)):
        for name, value in kept.items():
            of_start = moved and name.startswith(REFERENCE)
            entries[free_name(OF_START + name.removeprefix(REFERENCE), atoms) if of_start else name] = value
