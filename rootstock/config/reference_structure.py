"""The structure of a reference, as ASE has it."""

from __future__ import annotations

from ase import Atoms
from ase.formula import Formula

from rootstock.config.demands import ARRAYS, demands_of, is_checkpoint, setup_words
from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.references import Reference
from rootstock.errors import ConfigurationError, VerificationError

_MOST_ATOMS = 10_000  # "H999999999" is short


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
        If it has elements that the file does not name, or lacks what the file says that the model needs.
    """
    try:
        if len(Formula(reference.structure["symbols"])) > _MOST_ATOMS:
            raise ValueError(f"it has more than {_MOST_ATOMS} atoms")
        atoms = Atoms(**reference.structure)
    except Exception as error:  # ASE checks little of what it makes atoms from
        fault = str(error) or type(error).__name__
        raise ConfigurationError(f"{source.path}: reference {reference.name!r} is no structure: {fault}.") from error
    elements = source.capabilities(reference.model).elements
    if elements and (strange := sorted(set(atoms.get_chemical_symbols()) - {*elements})):
        raise VerificationError(
            f"{source.path.name} has no {', '.join(strange)} among its elements; its reference {reference.name!r} has.",
            f"Correct 'elements' in the header of {source.path}.",
        )
    demands = demands_of(source, reference.model)
    given = {*atoms.info, *(name for name in ARRAYS if atoms.has(name))}
    if missing := [name for name in demands.needs if name not in given]:
        raise VerificationError(
            f"{source.path.name} says that model {demands.model} needs {', '.join(missing)}; its reference "
            f"{reference.name!r} has none.",
            "Give the reference info = { charge = 0, spin = 1 }, charges = [...] or magmoms = [...].",
        )
    if missing := [name for name in setup_words(source.capabilities(reference.model).needs)
                   if name not in reference.options and not is_checkpoint(source, reference.model)]:  # fmt: skip
        raise VerificationError(
            f"{source.path.name} says that model {demands.model} needs {', '.join(missing)} in setup_kwargs; its "
            f"reference {reference.name!r} has none.",
            f'Give the reference options = {{ {missing[0]} = "NAME" }}.',
        )
    return atoms
