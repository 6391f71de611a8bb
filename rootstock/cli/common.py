"""What both command lines share: how errors end a command, options, and how progress is shown."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

from rootstock.cli.parameter_types import CLUSTER
from rootstock.config.clusters import AUTO, recognise, require_root
from rootstock.config.site import Site
from rootstock.errors import RootError, RootstockError
from rootstock.root.command_log import log_line
from rootstock.root.layout import RootLayout

PENDING = 20  # a check found differences
INTERRUPTED = 130

Decorated = Callable[..., Any]


# Of both command lines. `RootstockError` and its kinds carry them.
EXIT_CODES = """\b
Exit codes:
    0  done
    1  answered no, or an internal error    15  verification: other numbers than the references
    2  usage                                16  writing a file
    3  configuration, or unknown model      17  a template
    4  unknown environment                  18  a worker
   10  root, permission or space            19  a hook of the site
   11  locked by another admin              20  a check found differences
   12  weights                              21  a relaxation is not converged
   13  bundle                              130  interrupted
   14  build
"""


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, and the end of the terminal, end a command as Ctrl-C does: nothing half made is left."""
    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for each in ours:
        signal.signal(each, signal.default_int_handler)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)


class Command(click.Command):
    """A command whose errors are one clear message and a documented exit code, never a traceback."""

    interrupted = "Interrupted. What was installed before is untouched; run the command again to go on."

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            with _ended_like_ctrl_c():
                return super().invoke(context)
        except RootstockError as error:
            click.echo(f"Error: {error.message}", err=True)
            details = str(error)[len(error.message) :].strip("\n")
            if details:
                click.echo(details, err=True)
            context.exit(error.exit_code)
        except BrokenPipeError:
            raise  # click ends quietly where nobody reads on
        except OSError as error:
            click.echo(f"Error: {error.filename or 'The system'}: {error.strerror or error}.", err=True)
            context.exit(RootError.exit_code)
        except KeyboardInterrupt:
            click.echo(self.interrupted, err=True)
            context.exit(INTERRUPTED)


class Group(click.Group):
    """A command line made of `Command`."""

    command_class = Command


Group.group_class = Group


class Progress:
    """Shows steps: one line that is replaced on a terminal, plain lines elsewhere. Everything goes to a log as well.

    Parameters
    ----------
    log : TextIO or None
        Where every line goes, with its time.
    """

    def __init__(self, log: TextIO | None) -> None:
        self._log = log
        self._status: Any = None

    def step(self, text: str) -> None:
        """Show what is going on now."""
        self.log(text)
        if self._status is not None:
            self._status.update(text)
        else:
            click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)

    def log(self, text: str) -> None:
        """Write a line to the log only."""
        if self._log is not None:
            log_line(self._log, text)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show a spinner while the block runs, if there is a terminal."""
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status("") as self._status:
            yield
        self._status = None


def options(*decorators: Decorated) -> Decorated:
    """Return one decorator that adds several options, in the order in which the help shows them."""

    def add(function: Decorated) -> Decorated:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return add


cluster_options = options(
    click.option("--cluster", type=CLUSTER, metavar="NAME",
                 help="A registered cluster; 'auto': the one this machine belongs to [default: $ROOTSTOCK_CLUSTER]."),
    click.option("--root", type=click.Path(path_type=Path, readable=False),
                 help="The root's folder [default: $ROOTSTOCK_ROOT, or the cluster's]."),
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def found(site: Site) -> Site:
    """Return `site`, and say so if its cluster was recognised."""
    if site.recognised:
        click.echo(f"Cluster {site.cluster.name}: recognised by this machine's name, {site.recognised}.", err=True)
    return site


def named_cluster(name: str | None) -> str | None:
    """Return the name of the cluster that somebody gave, and say so if it was recognised by this machine's name."""
    if name != AUTO:
        return name
    name, host = recognise()
    click.echo(f"Cluster {name}: recognised by this machine's name, {host}.", err=True)
    return name


def user_root(cluster: str | None, root: Path | None) -> RootLayout:
    """Return the root that a user's command is about."""
    return RootLayout(require_root(named_cluster(cluster), root))


def show_json(data: Any) -> None:
    """Print what programs read."""
    click.echo(json.dumps(data, indent=1))
