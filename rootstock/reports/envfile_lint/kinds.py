"""What the keys of an environment file must hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a key must hold: a test, and what passes it, in words."""

    test: Callable[[Any], bool]
    words: str


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def is_table(value: Any) -> bool:
    """Tell whether a value is a table."""
    return isinstance(value, Mapping)


def _list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _table_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(map(test, value.values()))


TEXT = Kind(_is_text, "a text")
TEXTS = Kind(_list_of(_is_text), "a list of texts")
FLAG = Kind(lambda value: isinstance(value, bool), "true or false")
NUMBER = Kind(_is_number, "a number that is not negative")
TABLE = Kind(is_table, "a table")
TABLES = Kind(_list_of(is_table), "a list of tables")
TEXT_TABLE = Kind(_table_of(_is_text), "a table of texts")

ROOM = {"megabytes": NUMBER, "files": NUMBER}
ACCELERATORS = ("cuda", "rocm", "xpu", "cpu")


def _is_room(value: Any) -> bool:
    return is_table(value) and all(key in ROOM and ROOM[key].test(held) for key, held in value.items())


# Every key of [tool.rootstock]; docs/reference/environment-files.md says what each is for.
KEYS: Mapping[str, Kind] = {
    "description": TEXT, "licence": TEXT_TABLE, "citation": TEXT, "notes": TEXTS, "models": TEXT_TABLE,
    "all-models-listed": FLAG, "properties": TEXTS, "elements": TEXTS, "needs": TEXTS, "variants": TABLES,
    "warm": TEXTS, "cache": TABLE, "room": TABLE, "finite-differences": TABLE, "consistency": TABLE,
    "references": TABLES,
}  # fmt: skip
SUBKEYS: Mapping[str, Mapping[str, Kind]] = {
    "licence": {"code": TEXT, "weights": TEXT},
    "room": {**ROOM, **dict.fromkeys(ACCELERATORS, Kind(_is_room, "a table of megabytes and files"))},
    "finite-differences": {"forces": NUMBER, "stress": NUMBER},
    "consistency": {"rotation": FLAG, "energy": NUMBER, "forces": NUMBER},
}
VARIANT = {"properties": TEXTS, "elements": TEXTS, "needs": TEXTS, "licence": TEXT}
# Of a reference, those that `EnvironmentSource.reference` takes as they are.
REFERENCE = {
    "model": TEXT, "options": TABLE, "versions": TEXT_TABLE, "expected": TABLE,
    "tolerance": Kind(_table_of(_is_number), "a table of numbers that are not negative"),
}  # fmt: skip
