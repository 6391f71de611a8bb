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
    "masses", "velo", "initial_charges", "initial_magmoms", "charge", "force", "move_mask", "virial", "constraints",
    "step", "converged", "index", "source", "info", "arrays", "spacegroup", "energy", "free_energy", "forces", "stress",
}  # fmt: skip
_PREFIXES = ("rootstock_", "ref_", "start_", "extra_")
MOST = 64


def check_extra_property(name: str, shape: str, where: str) -> None:
    """Refuse an extra result whose name files cannot hold, or whose shape is none.

    Parameters
    ----------
    name, shape : str
    where : str
        The file, for messages.

    Raises
    ------
    ConfigurationError
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{where}: extra-properties: {name!r} cannot name a result: use letters, digits, - and _, "
            "with a letter first, 64 at most."
        )
    if name.lower() in _TAKEN or name.startswith(_PREFIXES):
        raise ConfigurationError(
            f"{where}: extra-properties: files of structures mean something else by {name!r}; rename it."
        )
    try:
        parse_shape(shape)
    except ValueError:
        raise ConfigurationError(
            f"{where}: extra-properties: the shape of {name!r}, {shape!r}, is none of {GRAMMAR}."
        ) from None


def check_extra_properties(table: Mapping[str, str], of_ase: Iterable[str], where: str) -> None:
    """Refuse what `check_extra_property` refuses, too many of them, and what is one of ASE's properties already.

    Parameters
    ----------
    table : Mapping of str to str
    of_ase : iterable of str
        What is listed as properties.
    where : str
        The file, for messages.

    Raises
    ------
    ConfigurationError
    """
    if len(table) > MOST:
        raise ConfigurationError(f"{where}: extra-properties has {len(table)} entries; {MOST} are possible.")
    for name, shape in table.items():
        check_extra_property(name, shape, where)
    if both := sorted({*table} & {*of_ase}):
        raise ConfigurationError(
            f"{where}: extra-properties: {both[0]!r} is listed as one of ASE's properties, too; it is one or the other."
        )


def check_method(name: str, where: str) -> None:
    """Refuse a method that cannot be called by its name.

    Parameters
    ----------
    name : str
    where : str
        The file, for messages.

    Raises
    ------
    ConfigurationError
    """
    if not name.isidentifier() or name.startswith("_") or keyword.iskeyword(name):
        raise ConfigurationError(
            f"{where}: methods: {name!r} is no name of a method that users call.", 'For example: ["get_hessian"]'
        )
