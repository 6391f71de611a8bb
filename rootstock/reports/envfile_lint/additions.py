"""Extra results and methods of a header: whether they can have these names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rootstock.config.extra_properties import extra_property_fault, method_fault
from rootstock.config.header_lines import Lines
from rootstock.reports.envfile_lint.finding import ERROR, Finding, Findings


def check_additions(table: Mapping[str, Any], lines: Lines) -> Findings:
    """Yield what is wrong with extra results and methods.

    Parameters
    ----------
    table : Mapping
        The table ``[tool.rootstock]``, of which each key holds what it must.
    lines : Lines
    """
    yield from _of_one(table, (), "", lines)
    for number, variant in enumerate(table.get("variants", ()), start=1):
        yield from _of_one({**table, **variant}, ("variants",), f"variant {number}: ", lines, only=set(variant))


def _of_one(
    table: Mapping[str, Any], above: tuple[str, ...], where: str, lines: Lines, only: set[str] | None = None
) -> Findings:
    of_ase = {*table.get("properties", ()), *table.get("optional-properties", ())}
    key = "extra-properties"
    for name, shape in table.get(key, {}).items() if only is None or key in only else ():
        fault = extra_property_fault(name, shape)
        if name in of_ase:
            fault = f"{key}: {name!r} is among ASE's properties above; it can be one or the other."
        if fault:
            yield Finding(ERROR, where + fault, lines.of(*above, key, name))
    for name in table.get("methods", ()) if only is None or "methods" in only else ():
        if fault := method_fault(name) or _shadowed(name):
            yield Finding(ERROR, where + fault, lines.of(*above, "methods", name))


def _shadowed(name: str) -> str:
    from rootstock.interfaces.calculator import RootstockCalculator  # now: it loads ASE

    if hasattr(RootstockCalculator, name):
        return f"methods: {name!r} is a method of Rootstock's own calculator, which users would call instead."
    return ""
