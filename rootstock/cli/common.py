"""What commands of both command lines share: options, which root is meant, and how progress is shown."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from rootstock.cli.parameter_types import CLUSTER, Place
from rootstock.config.clusters import AUTO, recognise, require_root
from rootstock.config.site import Site, find_site
from rootstock.errors import ConfigurationError, RootError, RootstockError
from rootstock.root.layout import RootLayout
from rootstock.root.lock import Report

Decorated = Callable[..., Any]


@contextmanager
def show_progress() -> Iterator[Report]:
    """Yield what shows steps while the block runs: one line that is replaced on a terminal, plain lines elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            yield status.update
    else:
        yield lambda text: click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


def options(*decorators: Decorated) -> Decorated:
    """Return one decorator that adds several options, in the order in which the help shows them."""

    def add(function: Decorated) -> Decorated:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return add


cluster_options = options(
    click.option("--cluster", type=CLUSTER, metavar="NAME",
                 help="Registered cluster, or 'auto' for the cluster that this machine belongs to "
                 "[default: $ROOTSTOCK_CLUSTER]."),
    click.option("--root", type=Place(path_type=Path, readable=False),
                 help="Folder of the root [default: $ROOTSTOCK_ROOT, or the root of the cluster]."),
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def merge_options(name: str, merge: Callable[..., Any], *merged: str) -> Decorated:
    """Return a decorator that gives a command several options as one argument.

    Parameters
    ----------
    name : str
        Of the argument.
    merge : callable
        Returns it, given the options by their names.
    *merged : str
        The options.
    """

    def decorate(command: Decorated) -> Decorated:
        @functools.wraps(command)
        def run(*arguments: Any, **options: Any) -> Any:
            options[name] = merge(**{option: options.pop(option) for option in merged})
            return command(*arguments, **options)

        return run

    return decorate


def refuse_unused(reasons: Mapping[str, str]) -> None:
    """Refuse options of this command that somebody gave though they would change nothing.

    Parameters
    ----------
    reasons : Mapping[str, str]
        By the names of parameters that are not used: why, in words that follow the option.

    Raises
    ------
    ConfigurationError
        If one was given.
    """
    context = click.get_current_context()
    for param in context.command.params:
        given = context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if given and param.name in reasons:
            raise ConfigurationError(f"{param.opts[0]} {reasons[param.name]}", "Leave it out.")


def site_of(cluster: str | None, root: Path | None, **options: Any) -> Site:
    """Return the root that an admin's command is about; it is told if its cluster was recognised.

    Parameters
    ----------
    cluster, root, **options
        As for `find_site`.
    """
    site = find_site(cluster, root, **options)
    if site.recognised:
        _tell_recognised(site.cluster.name, site.recognised)
    return site


# For commands that are about a root which is there.
site_options = options(
    cluster_options, merge_options("site", functools.partial(site_of, installed=True), "cluster", "root")
)


def named_cluster(name: str | None) -> str | None:
    """Return the name of the cluster that somebody gave; it is told if it was recognised by this machine's name."""
    if name != AUTO:
        return name
    name, host = recognise()
    _tell_recognised(name, host)
    return name


def _tell_recognised(cluster: str, host: str) -> None:
    click.echo(f"Cluster {cluster}: recognised by this machine's name, {host}.", err=True)


def user_root(cluster: str | None, root: Path | None) -> RootLayout:
    """Return the root that a user's command is about.

    Parameters
    ----------
    cluster, root
        As for `require_root`.
    """
    return RootLayout(require_root(named_cluster(cluster), root))


def show_json(data: Any) -> None:
    """Print what programs read."""
    click.echo(json.dumps(data, indent=1))


def tell_problems(problems: Mapping[str, RootstockError], done: str) -> None:
    """Say what parts of a root were left out, and why; the rest was dealt with.

    Parameters
    ----------
    problems : Mapping[str, RootstockError]
        By the names of the parts.
    done : str
        What was not done with them, such as ``not verified``.
    """
    for name, error in problems.items():
        click.echo(f"{name} is {done}: {error}", err=True)


def end_unhealthy(problems: Mapping[str, RootstockError]) -> None:
    """End with the exit code of a root of which something is missing, damaged or unreadable, if something is."""
    if problems:
        sys.exit(RootError.exit_code)
