"""What both command lines share: how errors end a command, options, and how progress is shown."""

from __future__ import annotations

import functools
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from rootstock.cli.parameter_types import CLUSTER
from rootstock.config.clusters import AUTO, recognise, require_root
from rootstock.config.site import Site, find_site
from rootstock.errors import RootError, RootstockError
from rootstock.root.layout import RootLayout
from rootstock.root.lock import Report

PENDING = 20  # a check found differences
INTERRUPTED = 130

# By which a batch system announces the end of a job, and the kernel that of a terminal.
SIGNALS_TO_END = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

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
   11  locked by another command            20  a check found differences
   12  weights                              21  a relaxation is not converged
   13  bundle                              130  interrupted
   14  build
"""


@contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[None]:
    """Handle signals while the block runs, and then as before; those that are ignored (nohup) stay so.

    Parameters
    ----------
    handler : callable
        As `signal.signal` takes it.
    *numbers : int
        The signals.
    """
    handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _end_like_ctrl_c() -> AbstractContextManager[None]:
    """Let the end of a job, or of the terminal, end a command as Ctrl-C does: nothing half made is left.

    Slurm's signals come more than once: by scancel, and from srun, which passes on what it gets. Only the first
    interrupts, and what the command does at its end is not cut.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not came:
            came.append(number)
            signal.default_int_handler(number, frame)

    in_main = threading.current_thread() is threading.main_thread()
    numbers = [number for number in SIGNALS_TO_END if signal.getsignal(number) is signal.SIG_DFL]
    return handle_signals(interrupt, *(numbers if in_main else ()))


class Command(click.Command):
    """A command whose errors are one clear message and a documented exit code, never a traceback."""

    interrupted = "Interrupted. What was installed before is untouched; run the command again to go on."

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            with _end_like_ctrl_c():
                return super().invoke(context)
        except RootstockError as error:
            click.echo(f"Error: {error}".rstrip(), err=True)
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
    group_class = type  # what is in it is made like this


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
                 help="A registered cluster; 'auto': the one this machine belongs to [default: $ROOTSTOCK_CLUSTER]."),
    click.option("--root", type=click.Path(path_type=Path, readable=False),
                 help="The root's folder [default: $ROOTSTOCK_ROOT, or the cluster's]."),
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
