"""``rootstock list`` and ``rootstock show``: the models of a root."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rootstock.cli.command import Command
from rootstock.cli.common import cluster_options, json_option, show_json, tell_problems, user_root
from rootstock.cli.model_table import print_lines, print_table
from rootstock.cli.parameter_types import ELEMENT, FAMILY, FUNCTIONAL, LICENCE, MODEL, PROPERTY

if TYPE_CHECKING:
    from rootstock.reports.catalogue import Catalogue


@click.command("list", cls=Command)
@click.option("--all", "unbuilt", is_flag=True, help="List models that are not built, too.")
@click.option(
    "--element",
    "elements",
    multiple=True,
    type=ELEMENT,
    metavar="SYMBOL",
    help="Only models that know this element; repeat it for several.",
)
@click.option(
    "--property",
    "properties",
    multiple=True,
    type=PROPERTY,
    metavar="NAME",
    help="Only models that compute this property, such as stress; repeat it for several.",
)
@click.option(
    "--licence",
    "licences",
    multiple=True,
    type=LICENCE,
    metavar="CLASS",
    help="Only models with this class of licence: open, academic, gated or unknown.",
)
@click.option(
    "--functional",
    "functionals",
    multiple=True,
    type=FUNCTIONAL,
    metavar="NAME",
    help="Only models of this functional, such as PBE+U or r2SCAN.",
)
@click.option(
    "--family", "families", multiple=True, type=FAMILY, metavar="NAME", help="Only models of this family, such as MACE."
)
@cluster_options
@json_option
def list_(cluster: str | None, root: Path | None, as_json: bool, unbuilt: bool, **wanted: tuple[str, ...]) -> None:
    """List the models of a root.

    The first column is the string that RootstockCalculator(model=...) takes. Models without a build are left out unless
    you give --all. On a terminal the command prints a table by families, with the columns that fit. Into a pipe or a
    file it prints, after a line with their names, these columns, separated by tabs; later versions add columns at the
    end: MODEL, VERSION, PROPERTIES, ELEMENTS, NEEDS, LICENCE, BUILT FOR, WEIGHTS, VERIFIED, FAMILY, TRAINING SET,
    FUNCTIONAL, LICENCE CLASS. A dash stands for an empty value. ELEMENTS is the number of chemical elements. WEIGHTS
    says whether the weights are in the root: in the package, yes, missing, none (the model has no weights) or unknown
    (not recorded).

    The class of a licence is open, academic (not for commercial use), gated (everybody accepts the terms by themselves
    before the download) or unknown. It is that of the weights, or of the code if there are no weights. --licence,
    --functional and --family can be repeated for one or the other. A model that does not say which elements it knows is
    left out by --element.

    \b
    Examples:
      rootstock list
      rootstock list --element Fe --element O --property stress --licence open
      rootstock list --all --cluster della
      rootstock list | awk -F'\\t' '$12 == "r2SCAN" {print $1}'
      rootstock list --json | jq -r '.models[] | select(.weights == "yes") | .model'
    """
    from rootstock.reports.catalogue import read_catalogue
    from rootstock.reports.model_filters import advice, check_properties, chosen, criteria

    catalogue = read_catalogue(user_root(cluster, root))
    check_properties(wanted["properties"], catalogue.models)
    asked = criteria(**wanted)
    models = chosen(catalogue.models, asked, unbuilt=unbuilt)
    if as_json:
        show_json(replace(catalogue, models=tuple(models)).to_json())
        return
    if not sys.stdout.isatty():
        print_lines(models)
    elif models:
        print_table(models)
    tell_problems(catalogue.problems, "not listed")
    if not catalogue.models and not catalogue.problems:
        click.echo(f"{catalogue.root} holds no environment yet: rootstock-site install --env NAME adds one.", err=True)
    elif not models and catalogue.models:
        lines = advice(catalogue.models, asked, unbuilt=unbuilt) if asked else [_nothing_built(catalogue)]
        click.echo("\n".join(lines), err=True)


def _nothing_built(catalogue: Catalogue) -> str:
    return f"{catalogue.root} has no build yet: rootstock-site install makes them. --all lists what can be built."


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
