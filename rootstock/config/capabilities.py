"""What a model can do, as its environment file states it: properties, elements, needs, licences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from rootstock.config.extra_properties import check_extra_properties
from rootstock.config.header_kinds import VARIANT
from rootstock.errors import ConfigurationError

# By atomic number, from 1. (ASE has this list too, but importing ASE takes longer than listing a hundred models.)
_TABLE = """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo
    Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl
    Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS = tuple(_TABLE.split())
_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS, start=1)}
_KEYS = tuple(key for key in VARIANT if key not in ("models", "licence"))


@dataclass(frozen=True)
class Capabilities:
    """What a model can do.

    Attributes
    ----------
    properties : tuple of str
        In ASE's words; empty if the file does not say.
    optional : tuple of str
        Properties that it computes with some options of ``setup()``.
    extra_properties : Mapping[str, str]
        Results that are none of ASE's properties, each with its shape.
    methods : tuple of str
        Methods of the calculator that users may call.
    conservative : bool
        Whether its forces and its stress are derivatives of its energy; some networks predict them by themselves.
    elements : tuple of str
        Symbols by atomic number; empty if the file does not say, or it takes any.
    needs : tuple of str
        What a user must provide, such as ``charge``, ``spin``, ``gpu``.
    dispersion : str
        ``offered``: ``setup()`` takes ``dispersion=True``; ``included``: the model holds it already; or empty.
    training_set, functional : str
        The data that it was trained on, and how they were computed; empty if the file does not say.
    gated : str
        The page where its terms are accepted before the weights can be fetched; empty if anybody may.
    licence : str
        That of the weights; empty if there are none, or the file does not say.
    code_licence : str
    """

    properties: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    extra_properties: Mapping[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    conservative: bool = True
    elements: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    dispersion: str = ""
    training_set: str = ""
    functional: str = ""
    gated: str = ""
    licence: str = ""
    code_licence: str = ""


def read_capabilities(table: Mapping[str, Any], model: str, where: str) -> Capabilities:
    """Return what a model can do.

    Parameters
    ----------
    table : Mapping
        The table ``[tool.rootstock]`` of an environment file. Of its ``variants``, each that fits the model replaces
        what is said above it.
    model : str
        Argument of ``setup()``; empty for the default one.
    where : str
        The file, for messages.

    Raises
    ------
    ConfigurationError
        If a key is not what it should be.
    """
    default = table.get("models", {}).get("") if not model else None
    names = {model, default} - {None}
    values: dict[str, Any] = {key: table[key] for key in _KEYS if key in table}
    licence = table.get("licence", {})
    for number, variant in enumerate(table.get("variants", []), start=1):
        check_variant(variant, number, where)
        if any(fnmatchcase(str(name), pattern) for name in names for pattern in variant["models"]):
            values |= {key: value for key, value in variant.items() if key != "models"}
    check_extra_properties(values.get("extra-properties", {}), where)
    return Capabilities(
        properties=tuple(values.get("properties", ())),
        optional=tuple(values.get("optional-properties", ())),
        extra_properties=dict(values.get("extra-properties", {})),
        methods=tuple(values.get("methods", ())),
        conservative=values.get("conservative", True),
        elements=tuple(expand(values.get("elements", ()), where)),
        needs=tuple(values.get("needs", ())),
        dispersion=values.get("dispersion", ""),
        training_set=values.get("training-set", ""),
        functional=values.get("functional", ""),
        gated=values.get("gated", ""),
        licence=values.get("licence", licence.get("weights", "")),
        code_licence=licence.get("code", ""),
    )


def check_variant(variant: Mapping[str, Any], number: int, where: str) -> None:
    """Refuse a variant that has an unknown key or names no models.

    Parameters
    ----------
    variant : Mapping
        One of the ``variants`` in ``[tool.rootstock]``.
    number : int
        Which one, from 1, for messages.
    where : str
        The file, for messages.

    Raises
    ------
    ConfigurationError
        If it has such a fault.
    """
    if unknown := sorted(set(variant) - set(VARIANT)):
        raise ConfigurationError(
            f"{where}: variant {number} has an unknown key {unknown[0]!r}; known: {', '.join(sorted(VARIANT))}."
        )
    if not variant.get("models"):
        raise ConfigurationError(f"{where}: variant {number} names no models.", 'For example: models = ["small-*"]')


def expand(names: Iterable[str], where: str = "elements") -> Iterator[str]:
    """Yield the symbols that a list of symbols and ranges means.

    Parameters
    ----------
    names : iterable of str
        Such as ``Cu`` and ``H-C``.
    where : str
        What holds the list, for messages.

    Raises
    ------
    ConfigurationError
        If one is neither an element nor a range of elements.

    Examples
    --------
    >>> list(expand(["H", "Li-C"]))
    ['H', 'Li', 'Be', 'B', 'C']
    """
    for name in names:
        first, _, last = name.partition("-")
        low, high = _NUMBERS.get(first, 0), _NUMBERS.get(last or first, 0)
        if not 0 < low <= high:
            raise ConfigurationError(
                f"{where}: {name!r} is neither an element nor a range of elements.", 'For example: ["H", "C-O"]'
            )
        yield from SYMBOLS[low - 1 : high]


def compress(symbols: Iterable[str]) -> str:
    """Write elements briefly: ranges of three and more as such.

    >>> compress(["H", "C", "N", "O", "Si"])
    'H C-O Si'
    """
    runs: list[list[int]] = []
    for number in sorted(_NUMBERS[symbol] for symbol in set(symbols)):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    names = [
        f"{SYMBOLS[run[0] - 1]}-{SYMBOLS[run[-1] - 1]}" if len(run) > 2 else " ".join(SYMBOLS[n - 1] for n in run)
        for run in runs
    ]
    return " ".join(names)
