"""How ``rootstock list`` shows models: a row for each, on a terminal or for programs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rootstock.reports.model import Model

# Scripts count on this order: what is new goes to the end.
COLUMNS = ("MODEL", "VERSION", "PROPERTIES", "ELEMENTS", "NEEDS", "LICENCE", "BUILT FOR", "WEIGHTS", "VERIFIED",
           "FAMILY", "TRAINING SET", "FUNCTIONAL", "LICENCE CLASS")  # fmt: skip
# On a terminal: in this order, as far as there is room, the first of the second list first.
_SHOWN = ("MODEL", "TRAINING SET", "FUNCTIONAL", "LICENCE CLASS", "WEIGHTS", "PROPERTIES", "ELEMENTS", "NEEDS",
          "VERIFIED", "VERSION", "BUILT FOR")  # fmt: skip
_FIRST = ("MODEL", "FUNCTIONAL", "TRAINING SET", "LICENCE CLASS", "WEIGHTS", "NEEDS", "PROPERTIES", "VERIFIED",
          "ELEMENTS", "VERSION", "BUILT FOR")  # fmt: skip
_TITLES = {"LICENCE CLASS": "Licence"}
_FOLDED = ("TRAINING SET", "FUNCTIONAL")  # they may take several lines
_WEIGHTS = {"package": "in the package"}
_GAP = 2


def row(model: Model) -> dict[str, str]:
    """Return what is shown of a model, by the names of the columns; a dash for what is empty."""
    cells = (
        model.model,
        f"{model.package} {model.version}" if model.version else model.environment,
        ",".join(name for name in model.properties if name != "free_energy"),
        str(len(model.elements) or "any"),
        ",".join(model.needs),
        model.licence,
        ",".join(model.built_for),
        _WEIGHTS.get(model.weights, model.weights),
        str(model.verified),
        model.family,
        model.training_set,
        model.functional,
        model.licence_class,
    )
    # A tab or a line break in somebody's file is not to shift the columns.
    return dict(zip(COLUMNS, (" ".join(cell.split()) or "-" for cell in cells), strict=True))


def print_lines(models: Sequence[Model]) -> None:
    """Print a line with the names of the columns and one for each model, separated by tabs."""
    click.echo("\n".join("\t".join(cells) for cells in [COLUMNS, *(row(model).values() for model in models)]))


def print_table(models: Sequence[Model]) -> None:
    """Print a table for a terminal, by families, with as many columns as it has room for."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    rows = [
        {**{name: re.sub(",(?! )", ", ", cell) for name, cell in row(model).items()}, "WEIGHTS": model.weights}
        for model in models
    ]
    said = [name for name in _SHOWN if any(each[name] != "-" for each in rows)]
    shown = _fitting(said, rows, console.width + _GAP)  # the last column has no gap after it
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for name in shown:
        table.add_column(_TITLES.get(name, name.capitalize()), no_wrap=name == "MODEL", overflow="fold")
    for family, members in itertools.groupby(rows, key=lambda each: each["FAMILY"]):
        table.add_row()
        table.add_row(Text(family, style="bold"))
        for member in members:
            table.add_row(*(Text(member[name]) for name in shown))
    console.print(table)
    if left_out := [name.lower() for name in said if name not in shown]:
        console.print(f"\nNo room for: {', '.join(left_out)}. 'rootstock show MODEL' tells everything.")


def _fitting(names: Sequence[str], rows: Sequence[dict[str, str]], width: int) -> list[str]:
    """Return the columns that a terminal has room for; the model is always shown, and whole."""
    chosen: list[str] = []
    for name in (name for name in _FIRST if name in names):
        cells = [_TITLES.get(name, name), *(each[name] for each in rows)]
        if name == "MODEL":
            cells += [each["FAMILY"] for each in rows]
        elif name in _FOLDED:
            cells = [word for cell in cells for word in cell.split()]
        needed = max(map(len, cells)) + _GAP
        if not chosen or needed <= width:
            chosen.append(name)
            width -= needed
    return [name for name in names if name in chosen]
