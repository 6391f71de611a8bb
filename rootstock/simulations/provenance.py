"""What results say of where they come from, in ``atoms.info`` and as keys of ASE's databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ase import Atoms

from rootstock.errors import ConfigurationError, NotConvergedError, WorkerError, WorkerStartError

SOURCE = "rootstock_source"  # file and frame, as ASE reads that one structure again: run.traj@30
_OF_CALCULATOR = tuple(f"rootstock_{name}" for name in ("model", "build", "device"))
NOTES = (*_OF_CALCULATOR, SOURCE, "converged")


def note_calculator(atoms: Atoms, calculator: Any) -> None:
    """Write down in ``atoms.info`` what computed.

    Parameters
    ----------
    atoms : ase.Atoms
    calculator : ase.calculators.calculator.Calculator
        One of another kind than ours leaves no notes.
    """
    said = {**calculator.parameters, "device": calculator.device} if calculator.name == "rootstock" else {}
    for key in _OF_CALCULATOR:
        atoms.info.pop(key, None)  # of a calculation before
        if (value := said.get(key.removeprefix("rootstock_"))) is not None:
            atoms.info[key] = value


def database_keys(atoms: Atoms) -> dict[str, Any]:
    """Return the notes in ``atoms.info`` as what a row of a database can be selected by."""
    return {key: atoms.info[key] for key in NOTES if key in atoms.info}


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
