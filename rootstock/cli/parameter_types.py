"""Types of arguments: numbers, and what a shell can complete, such as models, clusters and formats.

Whatever goes wrong while a line is being typed, the shell is told nothing.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import warnings
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from rootstock.config.capabilities import SYMBOLS
from rootstock.config.clusters import AUTO, cluster_names, require_root
from rootstock.config.devices import check_device_name
from rootstock.config.licences import CLASSES, each_functional
from rootstock.config.site import installed_versions
from rootstock.errors import RootstockError
from rootstock.root.layout import RootLayout
from rootstock.root.user_folders import expanded


class Finite(click.FloatRange):
    """A number within bounds, and neither NaN nor infinite."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number.

        Parameters
        ----------
        value, param, ctx
            As click passes them.
        """
        if (meant := _number(value)) is None:
            self.fail(f"{value!r} is not a number. Write 0.05 or 300: with a point, without a unit.", param, ctx)
        number = super().convert(meant, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number that can be computed with.", param, ctx)
        return number

    def _describe_range(self) -> str:
        return "" if self.min is self.max is None else super()._describe_range()  # else the help says x<=None


class Whole(click.IntRange):
    """A whole number within bounds; ``1e5`` is one."""

    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number.

        Parameters
        ----------
        value, param, ctx
            As click passes them.
        """
        with contextlib.suppress(ValueError):
            return super().convert(int(value), param, ctx)
        number = _number(value)
        if number is None or not number.is_integer():
            self.fail(f"{value!r} is not a whole number, such as 1000.", param, ctx)
        return super().convert(int(number), param, ctx)


def _number(value: Any) -> float | None:
    """Return the number that a text is; None if it is none."""
    with contextlib.suppress(ValueError):
        return float(value)
    return None


class Place(click.Path):
    """A file or folder, whose ``~`` is expanded.

    An empty text is none, and means a variable that is not set: ``--root "$NOWHERE"``.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path.

        Parameters
        ----------
        value, param, ctx
            As click passes them.

        Raises
        ------
        ConfigurationError
            As `expanded` does.
        """
        if value == "":
            self.fail("an empty text is no path. Is it a variable that is not set?", param, ctx)
        if isinstance(value, str) and value.startswith("~"):
            value = str(expanded(Path(value)))
        return super().convert(value, param, ctx)


class Word(click.Choice):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.2
    """One of some words, in small letters or capitals."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word.

        Parameters
        ----------
        value, param, ctx
            As click passes them.
        """
        known = {str(each).lower(): each for each in self.choices}
        if str(value).lower() not in known:
            near = difflib.get_close_matches(str(value).lower(), known, cutoff=0.5)
            meant = f" Did you mean {known[near[0]]!r}?" if near else ""
            self.fail(f"{value!r} is not one of {', '.join(map(str, self.choices))}.{meant}", param, ctx)
        return known[str(value).lower()]


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
        """Return the values that begin with what was typed; a path where it looks like one, and none does.

        Parameters
        ----------
        ctx, param
            As click passes them.
        incomplete : str
            What was typed.
        """
        found: list[CompletionItem] = []
        with contextlib.suppress(RootstockError, OSError), warnings.catch_warnings(action="ignore"):
            found += [CompletionItem(value) for value in self._values(ctx) if value.startswith(incomplete)]
        return found if found or "/" not in incomplete else [CompletionItem(incomplete, type="file")]


class FileFormat(Completed):
    """ASE's name of a format that it reads."""

    def __init__(self) -> None:
        super().__init__("format", lambda _: _formats())

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, if ASE reads such files.

        Parameters
        ----------
        value, param, ctx
            As click passes them.
        """
        formats = _formats()
        if value not in formats:
            named = [name for name, names in formats.items() if any(fnmatchcase(value.upper(), each) for each in names)]
            close = dict.fromkeys([*named, *difflib.get_close_matches(value.lower(), formats)])
            meant = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            self.fail(f"ASE reads no format named {value!r}.{meant}\nList all formats: ase info --formats", param, ctx)
        return str(value)


def _formats() -> dict[str, list[str]]:
    """Return the formats that ASE reads, and of each the endings and names of its files, in capitals."""
    from ase.io.formats import ioformats

    return {
        name: [each.upper() for each in (*kind.extensions, *kind.globs)]
        for name, kind in ioformats.items() if kind.can_read
    }  # fmt: skip


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


class Device(Completed):
    """The name of a device."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """Return it, if it is not misspelt.

        Parameters
        ----------
        value, param, ctx
            As click passes them.
        """
        check_device_name(value)
        return value


class Element(Completed):
    """The symbol of a chemical element."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the symbol, if it is one.

        Parameters
        ----------
        value, param, ctx
            As click passes them.
        """
        if value not in SYMBOLS:
            meant = f" Did you mean {value.capitalize()}?" if value.capitalize() in SYMBOLS else " Write Fe or O."
            self.fail(f"{value!r} is no symbol of an element.{meant}", param, ctx)
        return value


def _known(of: Callable[[Any], Iterable[str]]) -> Callable[[click.Context], list[str]]:
    """Return what gives the values that models of the root have for an option."""

    def values(context: click.Context) -> list[str]:
        from rootstock.reports.catalogue import read_catalogue

        return sorted({value for model in read_catalogue(_root(context)).models for value in of(model) if value})

    return values


ELEMENT = Element("element", lambda _: SYMBOLS)
PROPERTY = Completed("property", _known(lambda model: [*model.properties, *model.extra_properties]))
LICENCE = Word(CLASSES)
FUNCTIONAL = Completed("functional", _known(lambda model: each_functional(model.functional)))
FAMILY = Completed("family", _known(lambda model: [model.family]))
MODEL = Completed("model", _models)
REFERENCE = Completed("model", lambda context: ["data", *_models(context)])
CLUSTER = Completed("cluster", lambda _: [AUTO, *cluster_names()])
ENVIRONMENT = Completed("environment", _environments)
FORMAT = FileFormat()
DEVICE = Device("device", lambda _: ["cpu", "cuda", "cuda:0", "xpu"])
VERSION = Completed("version", lambda context: installed_versions(_root(context)))
