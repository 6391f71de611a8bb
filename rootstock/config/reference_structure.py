"""The structure of a reference, as ASE has it."""

from __future__ import annotations

from ase import Atoms

from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.references import Reference
from rootstock.errors import ConfigurationError, VerificationError


def reference_atoms(reference: Reference, source: EnvironmentSource) -> Atoms:
    """Return the structure of a reference.

    Parameters
    ----------
    reference : Reference
    source : EnvironmentSource
        The file that has it.

    Raises
    ------
    ConfigurationError
        If ASE can make no structure of it.
    VerificationError
        If it has elements that the file does not name.
    """
    try:
        atoms = Atoms(**reference.structure)
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigurationError(f"{source.path}: reference {reference.name!r} is no structure: {error}.") from error
    elements = source.capabilities(reference.model).elements
    if elements and (strange := sorted(set(atoms.get_chemical_symbols()) - {*elements})):
        raise VerificationError(
            f"{source.path.name} has no {', '.join(strange)} among its elements; its reference {reference.name!r} has.",
            f"Correct 'elements' in the header of {source.path}.",
        )
    return atoms
