"""What the keys of an environment file's header must hold."""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Place = tuple[str | int, ...]  # the keys, and numbers in lists, that lead to a value


@dataclass(frozen=True)
class Kind:
    """What a key must hold: a test, and what passes it, in words."""

    test: Callable[[Any], bool]
    words: str

    def fault(self, name: str, value: Any) -> str:
        """Say that a value is of another kind.

        Parameters
        ----------
        name : str
            Of the key.
        value
            What it is.
        """
        return f"{name} must be {self.words}, not {reprlib.repr(value)}."


# A terminal obeys them: what files say is shown there.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _is_string(value: Any) -> bool:
    return isinstance(value, str) and not _CONTROL.search(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_number(value: Any) -> bool:
    return _is_finite(value) and value >= 0


def _is_array(value: Any) -> bool:
    return _is_finite(value) or (
        isinstance(value, list) and all(map(_is_array, value)) and len({_shape(each) for each in value}) <= 1
    )


def _is_plain(value: Any) -> bool:
    inside = value.values() if is_table(value) else value if isinstance(value, list) else ()
    return isinstance(value, (str, int, float, list, Mapping)) and all(map(_is_plain, inside))  # no dates


def _shape(value: Any) -> tuple[int, ...]:
    return (len(value), *(_shape(value[0]) if value else ())) if isinstance(value, list) else ()


def is_table(value: Any) -> bool:
    """Tell whether a value is a table."""
    return isinstance(value, Mapping)


def _list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _table_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(map(test, value.values())) and all(map(_is_string, value))


STRING = Kind(_is_string, "a string")
STRINGS = Kind(_list_of(_is_string), "a list of strings")
FLAG = Kind(lambda value: isinstance(value, bool), "true or false")
NUMBER = Kind(_is_number, "a number that is not negative")
TABLE = Kind(is_table, "a table")
TABLES = Kind(_list_of(is_table), "a list of tables")
STRING_TABLE = Kind(_table_of(_is_string), "a table of strings")
ROOM = Kind(is_table, "a table such as { megabytes = 350, files = 10500 }")
_ROOM = {"megabytes": NUMBER, "files": NUMBER}
_PART_OF_ROOM = "a table such as { megabytes = 6000 }"
ACCELERATORS = ("cpu", "cuda", "rocm", "xpu")


def _is_part_of_room(value: Any) -> bool:
    return is_table(value) and all(key in _ROOM and _ROOM[key].test(held) for key, held in value.items())


# What an accelerator adds to the header: see `rootstock.builds.uv_scripts`.
PART_OF_ACCELERATOR = {"dependencies": STRINGS, "overrides": STRINGS, "indexes": STRINGS}


def _is_part_of_accelerator(value: Any) -> bool:
    return is_table(value) and all(
        key in PART_OF_ACCELERATOR and PART_OF_ACCELERATOR[key].test(held) for key, held in value.items()
    )


# A work as BibTeX has it; `models` are patterns of those that it is for, all without.
CITATION = {
    "authors": STRING, "title": STRING, "journal": STRING, "volume": STRING, "pages": STRING,
    "year": Kind(lambda value: isinstance(value, int) and not isinstance(value, bool), "a year"), "doi": STRING,
    "arxiv": STRING, "url": STRING, "models": STRINGS,
}  # fmt: skip


def _is_citation(value: Any) -> bool:
    return _is_string(value) or _list_of(is_table)(value)


_HEADER = {"requires-python": STRING, "dependencies": STRINGS, "tool": TABLE}
# Of uv's own settings those that we read, or add to.
_UV = {
    "find-links": STRINGS, "constraint-dependencies": Kind(lambda value: isinstance(value, list), "a list"),
    "override-dependencies": Kind(lambda value: isinstance(value, list), "a list"), "index": TABLES,
    "sources": Kind(_table_of(lambda value: is_table(value) or _list_of(is_table)(value)), "a table of tables"),
}  # fmt: skip
# Every key of [tool.rootstock]; docs/reference/environment-files.md says what each is for.
KEYS: Mapping[str, Kind] = {
    "description": STRING, "licence": STRING_TABLE, "gated": STRING,
    "citation": Kind(_is_citation, "a string or a list of tables"), "package": STRING, "notes": STRINGS,
    "family": STRING, "models": STRING_TABLE, "aliases": STRING_TABLE, "training-set": STRING, "functional": STRING,
    "all-models-listed": FLAG, "properties": STRINGS, "optional-properties": STRINGS, "extra-properties": STRING_TABLE,
    "methods": STRINGS, "conservative": FLAG, "elements": STRINGS, "needs": STRINGS, "dispersion": STRING,
    "variants": TABLES, "warm": STRINGS, "bundled": STRINGS, "cache": TABLE, "home": STRINGS, "accelerators": TABLE,
    "room": ROOM, "finite-differences": TABLE, "consistency": TABLE, "batch": TABLE, "references": TABLES,
}  # fmt: skip
SUBKEYS: Mapping[str, Mapping[str, Kind]] = {
    "licence": {"code": STRING, "weights": STRING},
    "room": {**_ROOM, **dict.fromkeys(ACCELERATORS, Kind(_is_part_of_room, _PART_OF_ROOM))},
    "accelerators": dict.fromkeys(
        ACCELERATORS, Kind(_is_part_of_accelerator, 'a table such as { dependencies = ["jax[cuda12]>=0.4"] }')
    ),
    "finite-differences": {"forces": NUMBER, "stress": NUMBER},
    "consistency": {"rotation": FLAG, "energy": NUMBER, "forces": NUMBER},
    "batch": dict.fromkeys(("energy", "forces", "stress", "magmoms"), NUMBER),
}
_NEEDED = {"room": _ROOM}  # subkeys that must be there
# What a variant may replace; its `licence` is that of the weights.
VARIANT = {
    "models": STRINGS, "licence": STRING,
    **{key: KEYS[key] for key in (
        "properties", "optional-properties", "extra-properties", "methods", "conservative", "elements", "needs",
        "dispersion", "training-set", "functional", "gated",
    )},
}  # fmt: skip
# Of a reference, those that `rootstock.config.references.read_reference` takes as they are.
_REFERENCE = {
    "model": STRING, "options": Kind(_table_of(_is_plain), "a table of what JSON can hold"), "versions": STRING_TABLE,
    "info": Kind(_table_of(_is_plain), "a table of what JSON can hold"),
    "expected": Kind(_table_of(_is_array), "a table of numbers and arrays of numbers"),
    "tolerance": Kind(_table_of(_is_number), "a table of numbers that are not negative"),
}  # fmt: skip


def misfits(header: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Yield what in a header is of another kind than it must be: where, and a sentence.

    Parameters
    ----------
    header : Mapping
    """
    yield from _of_table((), "", _HEADER, header)
    tool = header.get("tool", {})
    for name, kinds in (("uv", _UV), ("rootstock", {})) if is_table(tool) else ():
        table = tool.get(name, {})
        if not is_table(table):
            yield ("tool", name), f"[tool.{name}] must be a table, not {reprlib.repr(table)}."
        elif name == "rootstock":
            for key, value in table.items():
                yield from key_misfits(key, value)
        else:
            yield from _of_table((), f"[tool.{name}] ", kinds, table)


def key_misfits(key: str, value: Any) -> Iterator[tuple[Place, str]]:
    """Yield what in a key of ``[tool.rootstock]`` is of another kind; nothing of a key that nobody knows.

    Parameters
    ----------
    key : str
    value
        What it holds.
    """
    if key not in KEYS:
        return
    if not KEYS[key].test(value):
        yield (key,), KEYS[key].fault(key, value)
        return
    if key in _NEEDED and not set(_NEEDED[key]) <= set(value):
        yield (key,), KEYS[key].fault(key, dict(value))
    elif key in SUBKEYS:
        yield from _of_table((key,), f"{key}: ", SUBKEYS[key], value)
    elif key == "citation" and not isinstance(value, str):
        for number, work in enumerate(value):
            yield from _of_table((key, number), f"[[tool.rootstock.citation]] number {number + 1}: ", CITATION, work)
    elif key == "variants":
        for number, variant in enumerate(value):
            yield from _of_table((key, number), f"variant {number + 1}: ", VARIANT, variant)
    elif key == "references":
        for number, reference in enumerate(value):
            where = f"[[tool.rootstock.references]] number {number + 1}: "
            yield from _of_table((key, number), where, _REFERENCE, reference)


def _of_table(
    place: Place, where: str, kinds: Mapping[str, Kind], table: Mapping[str, Any]
) -> Iterator[tuple[Place, str]]:
    for key, kind in kinds.items():
        if key in table and not kind.test(table[key]):
            yield (*place, key), kind.fault(where + key, table[key])
