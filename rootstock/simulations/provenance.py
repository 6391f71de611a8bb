"""What results say of where they come from, in ``atoms.info`` and as keys of ASE's databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ase import Atoms

from rootstock.errors import ConfigurationError, NotConvergedError, WorkerError, WorkerStartError
from rootstock.simulations.extra_results import LEFT_OUT

SOURCE = "rootstock_source"  # file and frame, as ASE reads that one structure again: run.traj@30
# Of ASE: databases and trajectories have a place for these.
OWN_ARRAYS = {"numbers", "positions", "tags", "momenta", "masses", "initial_charges", "initial_magmoms"}
_OF_CALCULATOR = tuple(f"rootstock_{name}" for name in ("model", "build", "device"))
NOTES = (*_OF_CALCULATOR, SOURCE, "converged", LEFT_OUT)


def note_calculator(atoms: Atoms, calculator: Any) -> None:
    """Write down in ``atoms.info`` what computed.

    Parameters
    ----------
    atoms : ase.Atoms
    calculator : ase.calculators.calculator.Calculator
        One of another kind than ours leaves no notes.
    """
    ours = calculator.name == "rootstock"
    said = {**calculator.parameters, "model": calculator.model_name, "device": calculator.device} if ours else {}
    for key in _OF_CALCULATOR:
        atoms.info.pop(key, None)  # of a calculation before
        if (value := said.get(key.removeprefix("rootstock_"))) is not None:
            atoms.info[key] = value


def database_keys(atoms: Atoms) -> dict[str, Any]:
    """Return the notes in ``atoms.info`` as what a row of a database can be selected by."""
    return {key: atoms.info[key] for key in NOTES if key in atoms.info}


def database_data(atoms: Atoms) -> dict[str, Any]:
    """Return what no column of a database is for: entries of ``atoms.info`` that are no notes, and other arrays.

    Entries that are something else than numbers, text, and lists, dicts and arrays of them are left out.
    """
    keys = database_keys(atoms)
    info = {name: _plain(value) for name, value in atoms.info.items() if name not in keys and _is_held(value)}
    arrays = {name: _plain(array) for name, array in atoms.arrays.items() if name not in OWN_ARRAYS}
    return {name: held for name, held in (("info", info), ("arrays", arrays)) if held}


def _is_held(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_held, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_held, value.values()))
    array = isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufU"
    return value is None or array or isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    """Return what a database can hold of a value: no numbers of numpy's, nor its texts."""
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "fiu"
    return value if numbers or not isinstance(value, np.ndarray | np.generic) else value.tolist()


def without_notes(atoms: Atoms) -> Atoms:
    """Return a copy for a calculator: to a model, another frame of a file would be atoms with other info.

    Parameters
    ----------
    atoms : ase.Atoms
    """
    copy: Atoms = atoms.copy()
    for key in NOTES:
        copy.info.pop(key, None)
    return copy


@contextmanager
def naming_source(atoms: Atoms) -> Iterator[None]:
    """Let an error about a structure say which frame of which file it is.

    Parameters
    ----------
    atoms : ase.Atoms
        As `rootstock.simulations.structures.read_structures` returned it; otherwise nothing is said.
    """
    try:
        yield
    except WorkerStartError:  # whatever the structure
        raise
    except (ConfigurationError, NotConvergedError, WorkerError) as error:
        if SOURCE in atoms.info:
            error.message = f"{atoms.info[SOURCE]}: {error.message}"
        raise
