"""A command and a command line: how errors and signals end them, and what they say to a line that they do not know."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from rootstock.cli.several import one_by_one
from rootstock.cli.signals import end_like_ctrl_c
from rootstock.cli.standard_streams import standard_streams
from rootstock.config.registry_files import RegistryWarning
from rootstock.errors import RootError, RootstockError

PENDING = 20  # a check found differences
INTERRUPTED = 130

# Of both command lines. `RootstockError` and its kinds carry them.
EXIT_CODES = """\b
Exit codes:
    0  done
    1  internal error, or output closed     15  verification: numbers differ from the references
    2  usage                                16  file or output could not be written
    3  configuration, or unknown model      17  template error
    4  unknown environment                  18  worker error
   10  root, permission or space            19  a hook of the site failed
   11  locked by another command            20  a check found differences
   12  weights                              21  a relaxation did not converge
   13  bundle                               22  some of many structures failed
   14  build                                23  the scheduler did not take a job
                                           130  interrupted, or answered no
"""


@contextmanager
def _notes() -> Iterator[None]:
    """Say of a registry that cannot be read what a person wants to know: once, and no line of our code."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", RegistryWarning)  # whatever PYTHONWARNINGS says
        shown = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, RegistryWarning):
                shown(message, category, *place, **more)
            elif str(message) not in said:
                said.add(str(message))
                click.echo(f"Note: {message}", err=True)

        warnings.showwarning = note
        yield


class Command(click.Command):
    """A command whose errors are one clear message and a documented exit code, never a traceback."""

    interrupted = "Interrupted. What was installed before is untouched; run the command again to go on."

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        """Read the command line; one in other words, or in another order, is answered with the line that was meant.

        Parameters
        ----------
        context, words
            As click passes them.
        """
        words = one_by_one(context, words)
        given = [*words]
        try:
            with _ended_by_errors(context):
                rest = super().parse_args(context, words)
        except click.UsageError as error:
            _explain(context, given, error)
            raise
        if "model" in context.params:
            _explain(context, given)
        return rest

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            with end_like_ctrl_c(), _ended_by_errors(context):
                return super().invoke(context)
        except OSError as error:
            click.echo(f"Error: {error.filename or 'The system'}: {error.strerror or error}.", err=True)
            context.exit(RootError.exit_code)
        except KeyboardInterrupt:
            click.echo(self.interrupted, err=True)
            context.exit(INTERRUPTED)


@contextmanager
def _ended_by_errors(context: click.Context) -> Iterator[None]:
    """Show an error of ours that comes out of the block, and end with its exit code."""
    try:
        yield
    except RootstockError as error:
        click.echo(f"Error: {error}".rstrip(), err=True)
        context.exit(error.exit_code)


def _explain(context: click.Context, words: list[str], error: click.UsageError | None = None) -> None:
    """Raise an error with the command line that was meant, if it is seen."""
    if context.resilient_parsing:
        return
    from rootstock.cli.wrong_words import explain

    if said := explain(context, words):
        raise click.UsageError(said, context) from error
    if isinstance(error, click.NoSuchOption):
        raise click.UsageError(_no_option(context.command, error.option_name), context) from error


def _no_option(command: click.Command, option: str) -> str:
    """Return what is said of an unknown option, with those that are spelt like it, or have it as one of their words."""
    bare = option.lstrip("-")
    words = {
        name: name.lstrip("-") for param in command.params if isinstance(param, click.Option) for name in param.opts
    }
    near = difflib.get_close_matches(bare, words.values(), cutoff=0.7)  # click's own bound finds --out for --cpu
    meant = [f"'{name}'" for name, word in words.items() if word in near or bare in word.split("-")]
    return f"No such option '{option}'." + (f" Did you mean {' or '.join(meant)}?" if meant else "")


class Group(click.Group):
    """A command line made of `Command`.

    Parameters
    ----------
    *arguments, **options
        As for `click.Group`.
    other : str
        The module of the other command line, which may have a command that this one has not.
    """

    command_class = Command
    group_class = type  # what is in it is made like this

    def __init__(self, *arguments: Any, other: str = "", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._other = other

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line."""
        with standard_streams(), _notes():
            return super().main(*arguments, **options)

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        """Read what precedes the command.

        Parameters
        ----------
        context, words
            As click passes them.
        """
        given = [*words]
        try:
            return super().parse_args(context, words)
        except click.NoSuchOption as error:
            self._explain(context, given, error)
            raise

    def resolve_command(self, context: click.Context, words: list[str]) -> Any:
        """Find the command, or what was meant by its name.

        Parameters
        ----------
        context, words
            As click passes them.
        """
        try:
            return super().resolve_command(context, words)
        except click.UsageError as error:
            self._explain(context, words, error)
            raise

    def _explain(self, context: click.Context, words: list[str], error: click.UsageError) -> None:
        from rootstock.cli.wrong_words import explain_command

        if said := explain_command(self, context.command_path, words, self._other):
            raise click.UsageError(said, context) from error
