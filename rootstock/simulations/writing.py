"""Structures are written, in any format of ASE: whole files in one step, or added to the end of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms
from ase.db import connect
from ase.io import Trajectory, write

from rootstock.errors import ConfigurationError, RootstockError
from rootstock.simulations.extxyz import frame, write_extxyz
from rootstock.simulations.output import naming, replacing, target_of, unwritten
from rootstock.simulations.provenance import OWN_ARRAYS, database_data, database_keys
from rootstock.simulations.structures import DATABASES, output_format


def check_structures(path: Path, images: Sequence[Atoms], properties: Sequence[str] = ()) -> None:
    """Refuse, before anything is computed, what a file cannot hold.

    Parameters
    ----------
    path : Path
        The file that structures and their results are to be written to.
    images : sequence of ase.Atoms
    properties : sequence of str
        What is to be computed.

    Raises
    ------
    ConfigurationError
        If the file is in extended XYZ, which has no words for it.
    """
    if output_format(path) == "extxyz":
        if "born_effective_charges" in properties:
            raise ConfigurationError(f"{path} cannot hold born_effective_charges, in extended XYZ.", "Use .traj.")
        for atoms in images:
            frame(atoms.copy())  # without results of before


def write_structures(path: Path, images: Sequence[Atoms]) -> None:
    """Write a file in one step: a reader sees the old one or the new one.

    Parameters
    ----------
    path : Path
        Its ending says which format. If it is a symbolic link, the file that it leads to is written.
    images : sequence of ase.Atoms

    Raises
    ------
    ConfigurationError
        If the format cannot hold them.
    OutputError
        If the file cannot be written. Nothing is changed in either case.
    """
    kind = output_format(path)
    try:
        with replacing(path) as fresh:
            if kind == "extxyz":
                write_extxyz(fresh, images)
            elif kind in DATABASES:
                with connect(fresh, type=kind) as database:
                    for atoms in images:
                        database.write(atoms, key_value_pairs=database_keys(atoms), data=database_data(atoms))
            else:
                kept = [*map(_for_trajectory, images)] if kind == "traj" else list(images)
                write(fresh, kept if len(kept) > 1 else kept[0], format=kind)
    except RootstockError:
        raise
    except Exception as error:  # every format has errors of its own
        if type(error).__module__ == "sqlite3":  # which some Pythons lack
            raise unwritten(path, OSError(str(error))) from error
        raise ConfigurationError(
            f"Cannot write {path}: {type(error).__name__}: {error}.", "Use .extxyz or .traj, which hold everything."
        ) from error


def _for_trajectory(atoms: Atoms) -> Atoms:
    """Return atoms as ASE's trajectories hold them: arrays of numbers without a place there are entries of info."""
    others = [name for name, array in atoms.arrays.items() if name not in OWN_ARRAYS and array.dtype.kind in "biuf"]
    if not others:
        return atoms
    copy: Atoms = atoms.copy()
    copy.calc = atoms.calc
    copy.info |= {name: copy.arrays.pop(name) for name in others}
    return copy


def add_structure(path: Path, atoms: Atoms) -> None:
    """Add a structure to the end of a file, which may not be there yet.

    Parameters
    ----------
    path : Path
        Of a format that can grow, as `check_output` says.
    atoms : ase.Atoms

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    with naming(path):
        if output_format(path) == "traj":
            with Trajectory(target_of(path), "a", _for_trajectory(atoms)) as trajectory:
                trajectory.write()
        else:
            write_extxyz(path, [atoms], append=True)
