"""``rootstock``: for everybody who computes with an installed root."""

from __future__ import annotations

import click

from rootstock import __version__
from rootstock.cli.cite import cite
from rootstock.cli.command import EXIT_CODES, Group
from rootstock.cli.common import json_option, named_cluster, show_json
from rootstock.cli.compare import compare
from rootstock.cli.doctor import doctor, why_not
from rootstock.cli.list_show import list_, show
from rootstock.cli.md import md
from rootstock.cli.parameter_types import CLUSTER
from rootstock.cli.run import run
from rootstock.cli.shell_completion import completion_of
from rootstock.cli.simulations import relax, singlepoint
from rootstock.cli.warm import user_warm
from rootstock.cli.worker import worker
from rootstock.config.clusters import default_cluster, get_cluster, known_clusters
from rootstock.config.setting_values import value_text
from rootstock.errors import ConfigurationError


@click.group(
    cls=Group,
    other="rootstock.cli.site",
    commands=[
        list_, show, cite, singlepoint, relax, md, compare, run, worker, user_warm, why_not, doctor,
        completion_of("rootstock"),
    ],
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
@click.version_option(__version__, prog_name="rootstock")
def main() -> None:
    """Machine-learned interatomic potentials, each in its own environment.

    \b
    Examples:
      rootstock list                                # the available models
      rootstock show mace-medium                    # one model, and how to use it
      rootstock singlepoint mace-medium slab.cif    # energy, forces and stress of a structure
      rootstock why-not mace-medium                 # checks whether the model runs here
    """


@main.group()
def cluster() -> None:
    """The known clusters and their settings."""


@cluster.command("list")
@json_option
def cluster_list(as_json: bool) -> None:
    """List the known clusters.

    A template has the settings of a kind of machine; only its site knows where the root is.

    \b
    Example:
      rootstock cluster list --json | jq -r '.[].name'
    """
    clusters = known_clusters()
    if as_json:
        keys = ("name", "root", "template", "description")
        show_json([{key: getattr(entry, key) for key in keys} for entry in clusters])
        return
    for entry in clusters:
        root = "(template: give --root)" if entry.template else entry.root
        click.echo(f"{entry.name:<16} {root:<32} {entry.description}")


@cluster.command("show")
@click.argument("name", type=CLUSTER, required=False)
@click.option("--origin", is_flag=True, help="Print the file that each setting comes from.")
@json_option
def cluster_show(name: str | None, origin: bool, as_json: bool) -> None:
    """Show the settings of a cluster.

    NAME is a cluster that 'rootstock cluster list' shows, or 'auto' for the cluster that this machine belongs to. The
    default is the cluster of the loaded module (ROOTSTOCK_CLUSTER), or the default of the registry.

    \b
    Examples:
      rootstock cluster show della --origin
      rootstock cluster show auto --json | jq -r '.settings.root'
    """
    name = named_cluster(name or default_cluster())
    if not name:
        raise ConfigurationError(
            "Which cluster? Neither ROOTSTOCK_CLUSTER nor a registry names a default.",
            "Give NAME: rootstock cluster list shows those that are known.",
        )
    entry = get_cluster(name)
    settings = entry.settings()
    origins = {key: entry.origins.get(key, "default") for key in settings}
    if as_json:
        show_json(
            {"schema": 1, "name": entry.name, "template": entry.template, "settings": settings, "origins": origins}
        )
        return
    click.echo(f"[{entry.name}]")
    for key, value in settings.items():
        if origin or key in entry.origins:
            click.echo(f"{key} = {value_text(value)}" + (f"    ({origins[key]})" if origin else ""))
    if entry.template:
        click.echo("A template: only its site knows where the root is. Install with --root /path/to/rootstock.")
