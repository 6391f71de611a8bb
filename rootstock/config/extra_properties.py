"""Results and methods that an environment file adds to ASE's: their names and shapes."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping

from rootstock.errors import ConfigurationError
from rootstock.worker.channel.shapes import GRAMMAR, parse_shape

_NAME = re.compile("[A-Za-z][A-Za-z0-9_-]{0,63}")
# What files of structures mean something else by: their keys, what atoms have, and what we write down ourselves.
_TAKEN = {
    "lattice", "properties", "pbc", "cell", "symbols", "species", "pos", "positions", "numbers", "z", "tags", "momenta",
    "masses", "velo", "initial_charges", "initial_magmoms", "charge", "spin", "mult", "force", "move_mask", "virial",
    "constraints", "step", "converged", "index", "source", "info", "arrays", "spacegroup", "energy", "free_energy",
    "forces", "stress",
}  # fmt: skip
_PREFIXES = ("rootstock_", "ref_", "start_", "extra_")
_MOST = 64


def extra_property_fault(name: str, shape: str) -> str:
    """Return why an extra result cannot be called so, or have such a shape; empty if it can.

    Parameters
    ----------
    name, shape : str
    """
    if not _NAME.fullmatch(name):
        return (
            f"extra-properties: {name!r} cannot name a result: use letters, digits, - and _, with a letter first, "
            "64 at most."
        )
    if name.lower() in _TAKEN or name.startswith(_PREFIXES):
        return f"extra-properties: files of structures mean something else by {name!r}; rename it."
    try:
        parse_shape(shape)
    except ValueError:
        return f"extra-properties: {name!r} has the shape {shape!r}; use {GRAMMAR}."
    return ""


def method_fault(name: str) -> str:
    """Return why users cannot call a method by its name; empty if they can.

    Parameters
    ----------
    name : str
    """
    if not name.isidentifier() or name.startswith("_") or keyword.iskeyword(name):
        return f"methods: {name!r} is no name of a method that users can call."
    return ""


def check_extra_properties(table: Mapping[str, str], where: str) -> None:
    """Refuse names and shapes that have a fault, and too many of them.

    Parameters
    ----------
    table : Mapping of str to str
    where : str
        The file, for messages.

    Raises
    ------
    ConfigurationError
    """
    faults: Iterable[str] = (extra_property_fault(name, shape) for name, shape in table.items())
    if len(table) > _MOST:
        faults = [f"extra-properties has {len(table)} entries; {_MOST} are possible."]
    for fault in filter(None, faults):
        raise ConfigurationError(f"{where}: {fault}", "'rootstock-site check-env' shows all errors of a file.")
