"""Types of arguments: numbers, and what a shell can complete: models, clusters, environments, devices, versions.

Whatever goes wrong while a line is being typed, the shell is told nothing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from rootstock.config.clusters import AUTO, cluster_names, require_root
from rootstock.config.site import installed_versions
from rootstock.errors import RootstockError
from rootstock.root.layout import RootLayout


class Finite(click.FloatRange):
    """A number within bounds, and neither NaN nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number.

        Parameters
        ----------
        value, param, ctx
            As click passes them.
        """
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number that can be computed with.", param, ctx)
        return number


class Completed(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """A text that has likely values.

    Parameters
    ----------
    name : str
        What it is, for messages.
    values : callable
        Returns them, given what was typed before.
    """

    def __init__(self, name: str, values: Callable[[click.Context], Iterable[str]]) -> None:
        self.name = name
        self._values = values

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002  # click's signature
        incomplete: str,
    ) -> list[CompletionItem]:
        """Return the values that begin with what was typed; a path where it looks like one.

        Parameters
        ----------
        ctx, param
            As click passes them.
        incomplete : str
            What was typed.
        """
        if "/" in incomplete:
            return [CompletionItem(incomplete, type="file")]
        with contextlib.suppress(RootstockError, OSError):
            return [CompletionItem(value) for value in self._values(ctx) if value.startswith(incomplete)]
        return []


def _root(context: click.Context) -> RootLayout:
    return RootLayout(require_root(context.params.get("cluster"), context.params.get("root")))


def _models(context: click.Context) -> list[str]:
    from rootstock.reports.catalogue import read_strings

    return read_strings(_root(context))


def _environments(context: click.Context) -> list[str]:
    from rootstock.config.environment_file import packaged_names, registered_names

    names = set(packaged_names())
    with contextlib.suppress(RootstockError, OSError):
        names |= set(registered_names(_root(context)))
    return sorted(names)


MODEL = Completed("model", _models)
CLUSTER = Completed("cluster", lambda _: [AUTO, *cluster_names()])
ENVIRONMENT = Completed("environment", _environments)
DEVICE = Completed("device", lambda _: ["cpu", "cuda", "cuda:0", "xpu"])
VERSION = Completed("version", lambda context: installed_versions(_root(context)))
