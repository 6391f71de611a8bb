"""``rootstock list`` and ``rootstock show``: the models of a root."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rootstock.cli.command import Command
from rootstock.cli.common import cluster_options, json_option, show_json, tell_problems, user_root
from rootstock.cli.parameter_types import MODEL

if TYPE_CHECKING:
    from rootstock.reports.catalogue import Model

_COLUMNS = ("MODEL", "VERSION", "PROPERTIES", "ELEMENTS", "NEEDS", "LICENCE", "BUILT FOR", "WEIGHTS", "VERIFIED")


@click.command("list", cls=Command)
@cluster_options
@json_option
def list_(cluster: str | None, root: Path | None, as_json: bool) -> None:
    """List the models of a root.

    The first column is the string that RootstockCalculator(model=...) takes. On a terminal the command prints a table;
    into a pipe or a file it prints the same columns, separated by tabs, after a line with their names. A dash stands
    for an empty value. ELEMENTS is the number of chemical elements. WEIGHTS says whether the weights are in the root:
    in the package (an installed one holds them), yes, missing, none (the model has no weights) or unknown (not
    recorded).

    \b
    Examples:
      rootstock list
      rootstock list --cluster della
      rootstock list | awk -F'\\t' '$7 != "-" {print $1}'    # the models with a build
      rootstock list --json | jq -r '.models[] | select(.weights == "yes") | .model'
    """
    from rootstock.reports.catalogue import read_catalogue

    catalogue = read_catalogue(user_root(cluster, root))
    if as_json:
        show_json(catalogue.to_json())
        return
    rows = [_row(model) for model in catalogue.models]
    if sys.stdout.isatty():
        _table(rows)
    else:
        click.echo("\n".join("\t".join(row) for row in [_COLUMNS, *rows]))
    tell_problems(catalogue.problems, "not listed")
    if not catalogue.models and not catalogue.problems:
        click.echo(f"{catalogue.root} holds no environment yet: rootstock-site install --env NAME adds one.", err=True)


def _row(model: Model) -> tuple[str, ...]:
    cells = (
        model.model,
        f"{model.package} {model.version}" if model.version else model.environment,
        ",".join(name for name in model.properties if name != "free_energy"),
        str(len(model.elements) or "any"),
        ",".join(model.needs),
        model.licence,
        ",".join(model.built_for),
        "in the package" if model.weights == "package" else model.weights,
        str(model.verified),
    )
    # A tab or a line break in somebody's file is not to shift the columns.
    return tuple(" ".join(cell.split()) or "-" for cell in cells)


def _table(rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    columns = [(name, *cells) for name, *cells in zip(_COLUMNS, *rows, strict=True)]
    left_out = _too_wide(columns, console.width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    shown = [column for column in columns if column[0] not in left_out]
    for name, *_ in shown:
        table.add_column(name.capitalize(), no_wrap=name == "MODEL", overflow="fold")
    for row in zip(*(cells for _, *cells in shown), strict=True):
        table.add_row(*(Text(cell.replace(",", ", ")) for cell in row))
    console.print(table)
    if left_out:
        console.print(f"Too narrow for: {', '.join(left_out).lower()}. 'rootstock show MODEL' tells everything.")


def _too_wide(columns: list[tuple[str, ...]], width: int) -> list[str]:
    """Return the names of the columns that a terminal has no room for; the model is always shown, and whole."""
    needed = {name: max(len(word) for cell in (name, *cells) for word in cell.replace(",", ", ").split())
              for name, *cells in columns}  # fmt: skip
    needed["MODEL"] = max(len(cell) for cell in columns[0])
    left_out: list[str] = []
    for name in ("VERSION", "BUILT FOR", "NEEDS", "ELEMENTS", "VERIFIED", "PROPERTIES", "LICENCE", "WEIGHTS"):
        if sum(needed.values()) + 3 * len(needed) <= width:
            break
        del needed[name]
        left_out.append(name)
    return left_out


@click.command(cls=Command)
@click.argument("model", type=MODEL)
@cluster_options
@json_option
def show(model: str, cluster: str | None, root: Path | None, as_json: bool) -> None:
    """Show everything about MODEL.

    The command prints the properties and elements of the model, its licences, its build and verification, and how to
    use it: lines to copy into a shell, a Python script, and a job script for this cluster.

    \b
    Examples:
      rootstock show mace-medium
      rootstock show chgnet --json | jq .versions
    """
    from rootstock.reports.model_card import read_model_card

    card = read_model_card(user_root(cluster, root), model)
    if as_json:
        show_json(card.to_json())
    else:
        click.echo("\n".join(card.lines()))
    tell_problems(card.environment.damaged, "not shown")
