"""What both command lines share: how errors end a command, how progress is shown, and the log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

from rootstock.errors import RootstockError

INTERRUPTED = 130


class Command(click.Command):
    """A command whose errors are one clear message and a documented exit code, never a traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except RootstockError as error:
            click.echo(f"Error: {error.message}", err=True)
            details = str(error)[len(error.message) :].strip("\n")
            if details:
                click.echo(details, err=True)
            context.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted. What was installed before is untouched; run the command again to go on.", err=True)
            context.exit(INTERRUPTED)


class Group(click.Group):
    """A command line made of `Command`."""

    command_class = Command


class Progress:
    """Shows steps: one line that is replaced on a terminal, plain lines elsewhere. Everything goes to a log as well.

    Parameters
    ----------
    log : TextIO
        Where every line goes, with its time.
    """

    def __init__(self, log: TextIO) -> None:
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
        self._log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")
        self._log.flush()

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


@contextmanager
def log_file(folder: Path, command: str) -> Iterator[tuple[Path, TextIO]]:
    """Open a new log in `folder`; its path is printed if the block fails."""
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{time.monotonic_ns() % 10**6:06d}.log"
    with path.open("x", encoding="utf-8") as file:
        try:
            yield path, file
        except BaseException as error:
            file.write(f"{type(error).__name__}: {error}\n")
            click.echo(f"Log: {path}", err=True)
            raise


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--cluster`` and ``--root``, which mean the same for every command."""
    function = click.option(
        "--root", type=click.Path(path_type=Path), help="The root's folder [default: the cluster's, or $ROOTSTOCK_ROOT]."
    )(function)
    return click.option("--cluster", help="A registered cluster [default: $ROOTSTOCK_CLUSTER].")(function)
