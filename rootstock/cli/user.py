"""``rootstock``: for everybody who computes with an installed root."""

from __future__ import annotations

from pathlib import Path

import click

from rootstock import __version__
from rootstock.cli.common import Group, cluster_options, json_option, show_json
from rootstock.cli.worker import worker
from rootstock.clusters import AUTO, cluster_names, find_root, get_cluster, recognise
from rootstock.errors import ConfigurationError
from rootstock.layout import RootLayout


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rootstock")
def main() -> None:
    """Machine-learned interatomic potentials, each in its own environment."""


main.add_command(worker)


@main.command("list")
@cluster_options
@json_option
def list_(cluster: str | None, root: Path | None, as_json: bool) -> None:
    """List the environments of a root."""
    from dataclasses import asdict

    from rootstock.status import list_environments

    found = find_root(_named(cluster), root)
    if found is None:
        raise ConfigurationError("Which root?", "module load rootstock sets ROOTSTOCK_ROOT; or give --root PATH.")
    environments = list_environments(RootLayout(found))
    if as_json:
        show_json({"schema": 1, "root": str(found), "environments": [asdict(each) for each in environments]})
        return
    for each in environments:
        click.echo(f"{each.name:<16} {each.description}{'' if each.digest else ' (not built)'}")
        if each.models:
            click.echo(f"{'':<16} models: {', '.join(f'{each.name}-{m}' if m else each.name for m in each.models)}")


@main.group()
def cluster() -> None:
    """The known clusters and their settings."""


@cluster.command("list")
@json_option
def cluster_list(as_json: bool) -> None:
    """List the known clusters."""
    clusters = [get_cluster(name) for name in cluster_names()]
    if as_json:
        show_json([{"name": each.name, "root": each.root, "description": each.description} for each in clusters])
        return
    for each in clusters:
        click.echo(f"{each.name:<16} {each.root or '(no root: give --root)':<32} {each.description}")


@cluster.command("show")
@click.argument("name")
@click.option("--origin", is_flag=True, help="Say for each setting which file it comes from.")
@json_option
def cluster_show(name: str, origin: bool, as_json: bool) -> None:
    """Show the settings of a cluster; NAME may be 'auto'."""
    found = get_cluster(_named(name) or name)
    settings = found.settings()
    if as_json:
        origins = {key: found.origins.get(key, "default") for key in settings}
        show_json({"schema": 1, "name": found.name, "settings": settings, "origins": origins})
        return
    click.echo(f"[{found.name}]")
    for key, value in settings.items():
        if origin or key in found.origins:
            text = ", ".join(value) if isinstance(value, tuple) else value
            source = f"    ({found.origins.get(key, 'default')})" if origin else ""
            click.echo(f"{key} = {text}{source}")


def _named(name: str | None) -> str | None:
    """Return the cluster's name, and say so if it was recognised."""
    if name != AUTO:
        return name
    name, host = recognise()
    click.echo(f"Cluster {name}: recognised by this machine's name, {host}.", err=True)
    return name
