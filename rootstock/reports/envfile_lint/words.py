"""The words of a header that filters and tables go by: licences, functionals, training sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rootstock.config.header_lines import Lines
from rootstock.config.licences import odd_functionals, odd_licence, odd_training_sets
from rootstock.reports.envfile_lint.finding import WARNING, Finding, Findings


def check_words(table: Mapping[str, Any], lines: Lines) -> Findings:
    """Yield the words that users would not find, since other files have another one for the same.

    Parameters
    ----------
    table : Mapping
        The table ``[tool.rootstock]``, of which each key holds what it must.
    lines : Lines
    """
    for key, licence in table.get("licence", {}).items():
        yield from _warnings([odd_licence(licence)], lines.of("licence", key))
    tables: list[tuple[tuple[str, ...], str, Mapping[str, Any]]] = [((), "", table)]
    for number, variant in enumerate(table.get("variants", ()), start=1):
        tables.append((("variants",), f"variant {number}: ", variant))
        yield from _warnings([odd_licence(variant.get("licence", ""))], lines.of("variants"), f"variant {number}: ")
    for path, where, each in tables:
        functional, data = each.get("functional", ""), each.get("training-set", "")
        yield from _warnings(odd_functionals(functional), lines.of(*path, "functional"), where)
        yield from _warnings(odd_training_sets(data), lines.of(*path, "training-set"), where)


def _warnings(texts: Iterable[str], line: int, where: str = "") -> Findings:
    return (Finding(WARNING, where + text, line) for text in texts if text)
