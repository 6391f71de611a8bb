"""Options that take several values: ``--models A B C``, ``--models A,B``, or ``--models A --models B``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

_OPEN = "rootstock.cli.several"  # the option whose values the words of a line end with


class Several(click.Option):
    """An option that takes all words up to the next option.

    Parameters
    ----------
    names : sequence of str
    **options
        Others of `click.Option`.
    """

    def __init__(self, names: Sequence[str], **options: Any) -> None:
        super().__init__(names, multiple=True, **options)


class Files(click.Argument):
    """Files of a command that may have options of several values, too."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what a word may become: a file, or another value of the option before it.

        Parameters
        ----------
        ctx, incomplete
            As click passes them.
        """
        if (option := ctx.meta.get(_OPEN)) is not None:
            return list(option.shell_complete(ctx, incomplete))
        return [CompletionItem(incomplete, type="file")]


def one_by_one(context: click.Context, words: list[str]) -> list[str]:
    """Return the words of a command line with an option before each value, as click takes them.

    Parameters
    ----------
    context : click.Context
        Of the command.
    words : list of str
        What follows the command.

    Raises
    ------
    click.BadOptionUsage
        If no value follows an option that takes several.
    """
    several = {name: param for param in context.command.params if isinstance(param, Several) for name in param.opts}
    found: list[str] = []
    taking, before = "", len(words)  # the option, and how many words there were when it came
    for number, word in enumerate([*words, "--"] if several else []):
        option, equals, value = word.partition("=")
        if word.startswith("-") and taking and before == len(found) and not context.resilient_parsing:
            raise click.BadOptionUsage(taking, f"Option {taking!r} requires an argument.", context)
        if word == "--":
            if number < len(words):
                context.meta.pop(_OPEN, None)
            return [*found, *words[number:]]
        if option in several:
            taking, before = option, len(found)
            word = value if equals else ""
        elif word.startswith("-"):
            taking = ""
        if taking:
            found += [part for each in word.split(",") if each for part in (taking, each)]
            context.meta[_OPEN] = several[taking]
        else:
            found.append(word)
            context.meta.pop(_OPEN, None)
    return words
