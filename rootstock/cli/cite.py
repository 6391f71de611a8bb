"""``rootstock cite``: what to cite with a model, and a sentence for a methods section."""

from __future__ import annotations

from pathlib import Path

import click

from rootstock.cli.command import Command
from rootstock.cli.common import cluster_options, json_option, show_json, tell_problems, user_root
from rootstock.cli.parameter_types import MODEL, Word


@click.command(cls=Command)
@click.argument("model", type=MODEL)
@click.option("--format", "kind", type=Word(["bibtex", "text"]), help="Print only the entries, or only the sentence.")
@cluster_options
@json_option
def cite(model: str, kind: str | None, cluster: str | None, root: Path | None, as_json: bool) -> None:
    """Print what to cite when MODEL was used.

    The command prints a sentence for a methods section, with the versions, the build and the SHA-256 of the weights,
    then the works that it names as BibTeX. The build is the one in use now: of a calculation that is done, its results
    and calc.info()["methods"] name the build that computed.

    \b
    Examples:
      rootstock cite mace-medium
      rootstock cite mace-medium --format bibtex >> references.bib
    """
    from rootstock.config.citations import bibtex
    from rootstock.reports.citation import read_citation

    citation = read_citation(user_root(cluster, root), model)
    if as_json:
        show_json(citation.to_json())
    else:
        methods = citation.methods
        parts = {"text": methods.sentence, "bibtex": bibtex(methods.works)}
        click.echo("\n\n".join(text for name, text in parts.items() if kind in (None, name)))
    tell_problems(citation.damaged, "not read")
