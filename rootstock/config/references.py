"""References: structures with the values that a model must give for them, as an environment file's header has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from packaging.specifiers import SpecifierSet

from rootstock.config.environment_text import specifier_fault
from rootstock.errors import ConfigurationError

_KEYS = {
    "name", "source", "versions", "model", "options", "needs_weights", "symbols", "cell", "pbc", "positions",
    "scaled_positions", "info", "charges", "magmoms", "expected", "tolerance",
}  # fmt: skip

_STRUCTURE = ("symbols", "cell", "positions", "scaled_positions", "info", "charges", "magmoms")


@dataclass(frozen=True)
class Reference:
    """A structure with the values that a model must give for it.

    Attributes
    ----------
    name, source : str
        What it is, and who published the values.
    model : str
        Argument of ``setup()``.
    options : Mapping[str, Any]
        Further arguments of ``setup()``.
    needs_weights : bool
        The model's weights are no part of the build: where they are missing, the reference cannot be run.
    versions : Mapping[str, SpecifierSet]
        Distributions, and the versions of them that the values hold for.
    structure : Mapping[str, Any]
        Arguments of `ase.Atoms`.
    expected : Mapping[str, Any]
        Property -> value: eV, Angstrom, stress in eV/Angstrom^3 in Voigt order. Empty: only the consistency of
        energy, forces and stress is checked.
    tolerance : Mapping[str, float]
        Property -> largest absolute difference.
    """

    name: str
    source: str
    model: str
    options: Mapping[str, Any]
    needs_weights: bool
    versions: Mapping[str, SpecifierSet]
    structure: Mapping[str, Any]
    expected: Mapping[str, Any]
    tolerance: Mapping[str, float]


def read_reference(table: Mapping[str, Any], where: str) -> Reference:
    """Return the reference that a table describes.

    Parameters
    ----------
    table : Mapping
        One of ``references`` in ``[tool.rootstock]``.
    where : str
        The file, and which reference, for messages.

    Raises
    ------
    ConfigurationError
        If something about it is wrong.
    """
    if unknown := sorted(set(table) - _KEYS):
        raise ConfigurationError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(_KEYS))}.")
    for key in ("name", "source", "symbols"):
        if not isinstance(table.get(key), str):
            raise ConfigurationError(f"{where} has no string {key!r}.")
    if not isinstance(table.get("needs_weights", False), bool):
        raise ConfigurationError(f"{where}: 'needs_weights' is true or false.")
    expected, tolerance = table.get("expected", {}), table.get("tolerance", {})
    if set(expected) != set(tolerance):
        raise ConfigurationError(f"{where}: 'expected' and 'tolerance' must name the same properties.")
    structure = {key: table[key] for key in _STRUCTURE if key in table}
    structure["pbc"] = table.get("pbc", "cell" in table)
    for text in table.get("versions", {}).values():
        if fault := specifier_fault(text):
            raise ConfigurationError(f"{where}: {fault}.")
    versions = {name: SpecifierSet(text) for name, text in table.get("versions", {}).items()}
    return Reference(
        table["name"], table["source"], table.get("model", ""), table.get("options", {}),
        table.get("needs_weights", False), versions, structure, expected, tolerance,
    )  # fmt: skip


def unpublished(reference: Reference, model: str, info: Mapping[str, Any]) -> Reference:
    """Return a reference for another model, of which nothing is published for this structure.

    Parameters
    ----------
    reference : Reference
        Of which the structure is taken.
    model : str
        Argument of ``setup()``.
    info : Mapping[str, Any]
        What ``atoms.info`` is to hold besides.
    """
    structure = {**reference.structure, "info": {**reference.structure.get("info", {}), **info}}
    return replace(
        reference, model=model, options={}, source="none", expected={}, tolerance={}, versions={}, needs_weights=True,
        structure=structure,
    )  # fmt: skip
