"""``rootstock-site bundle``, and what ``install --bundle`` needs."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rootstock.cli.command import Group
from rootstock.cli.common import cluster_options, json_option, show_json, show_progress, site_of
from rootstock.cli.parameter_types import ENVIRONMENT, Place
from rootstock.errors import BundleError, ConfigurationError, RootstockError
from rootstock.root.reachability import cause

if TYPE_CHECKING:
    from rootstock.admin.bundle import Bundle


@click.group("bundle", cls=Group)
def bundles() -> None:
    """Installations on machines without a network."""


@bundles.command()
@click.argument("file", type=Place(dir_okay=False, path_type=Path))
@cluster_options
@click.option("--env", "environments", type=ENVIRONMENT, multiple=True, metavar="NAME|FILE",
              help="Environment to put in; repeatable [default: the cluster's].")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the cluster file.")
@click.option("--python", type=Place(exists=True, file_okay=False, path_type=Path), metavar="FOLDER",
              help="An interpreter that may be moved: it goes into the root, and the builds use it "
                   "[default: those that the setting `managed` stands for, if it is set].")  # fmt: skip
@click.option("--no-client", is_flag=True, help="Leave out what the module and the bundle's bootstrap.sh need.")
@json_option
def create(
    file: Path, cluster: str | None, root: Path | None, environments: tuple[str, ...], settings: tuple[str, ...],
    python: Path | None, no_client: bool, as_json: bool,
) -> None:  # fmt: skip
    """Fetch everything that an installation needs, and put it into FILE.

    What is printed is the bundle's digest: tell it to those who install from it.

    \b
    Example:
      rootstock-site bundle create della.bundle --cluster della --env mace
      rootstock-site install --cluster della --bundle della.bundle --digest 4f1c...
    """
    from rootstock.admin.bundle_create import create_bundle
    from rootstock.admin.environment_sources import find_sources

    site = site_of(cluster, root, settings=settings)
    sources = find_sources(site.layout, environments or site.cluster.environments)
    try:
        with show_progress() as report:
            digest = create_bundle(
                site.cluster, sources, file.absolute(), client=not no_client, python=python, report=report
            )
    except RootstockError:
        raise
    except OSError as error:
        if error.filename and not Path(error.filename).is_relative_to(file.absolute().parent):
            raise BundleError(f"Cannot make {file}: {error.filename}: {error.strerror}.") from error
        raise BundleError(
            f"Cannot write {file.absolute()}: {cause(error)}.", "Name a file in a folder with room."
        ) from error
    if as_json:
        show_json({"schema": 1, "bundle": str(file.absolute()), "digest": digest})
    else:
        click.echo(digest)


def open_bundle(file: Path | None, digest: str | None) -> Bundle | None:
    """Unpack a bundle for as long as the command runs; None if there is none.

    Parameters
    ----------
    file : Path or None
        The bundle.
    digest : str or None
        What it must have, as `bundle create` printed it.

    Raises
    ------
    ConfigurationError
        If there is a digest without a bundle, or one that is none: it would seem to have been compared.
    """
    if file is None:
        if digest is not None:
            raise ConfigurationError("--digest is of a bundle; none was named.", "Add --bundle FILE.")
        return None
    digest = digest and digest.strip().lower()
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
        raise ConfigurationError(
            f"--digest is {digest!r}, not the 64 characters that `bundle create` prints.",
            "Leave it out only if you know by other means who made the bundle.",
        )
    from rootstock.admin.bundle import unpack_bundle

    folder = click.get_current_context().with_resource(tempfile.TemporaryDirectory(prefix="rootstock-bundle-"))
    return unpack_bundle(file, Path(folder), digest or "")
