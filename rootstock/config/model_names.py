"""The names of models: their model strings, and the names by which the field knows them, their aliases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from rootstock.config.environment_file import (
    EnvironmentSource,
    packaged_names,
    packaged_source,
    read_header,
    registered_names,
)
from rootstock.config.model_string import model_string, parse_model_string
from rootstock.errors import ConfigurationError, RootstockError, UnknownEnvironmentError
from rootstock.root.aliases import Aliases, aliases_of_builds
from rootstock.root.generations import read_state
from rootstock.root.layout import RootLayout


def model_strings(layout: RootLayout) -> list[str]:
    """Return every model string of a root, and the aliases; an environment file that cannot be read counts as one."""
    strings = []
    for name in registered_names(layout):
        try:
            source = read_header(layout.environment_file(name))
            strings += [*source.strings(), *source.aliases]
        except (ConfigurationError, UnknownEnvironmentError):
            strings.append(name)
    return strings


def packaged_strings() -> list[str]:
    """Return the model strings of the environments that ship with Rootstock, and their aliases."""
    sources = map(packaged_source, packaged_names())
    return [string for source in sources for string in (*source.strings(), *source.aliases)]


def root_aliases(layout: RootLayout) -> Aliases:
    """Return the aliases of a root: of its builds in use, and of environments that were never built."""
    active = read_state(layout).active
    found = dict(aliases_of_builds(layout, active))
    for name in registered_names(layout):
        if name not in active:
            with suppress(RootstockError):  # whoever means this environment is told
                found[name] = read_header(layout.environment_file(name)).aliases
    return found


def find_alias(layout: RootLayout, name: str) -> tuple[str, str] | None:
    """Return the environment and the argument of its ``setup()`` that an alias means; None if there is no such alias.

    Parameters
    ----------
    layout : RootLayout
    name : str

    Raises
    ------
    ConfigurationError
        If two environments have it.
    """
    found = [(environment, held[name]) for environment, held in root_aliases(layout).items() if name in held]
    if len(found) > 1:
        strings = [model_string(*each) for each in found]
        raise ConfigurationError(
            f"{name!r} is an alias in several environments of {layout.root}: {', '.join(strings)}.",
            f"Name the one that you mean: {' or '.join(strings)}",
        )
    return found[0] if found else None


def named_model(
    layout: RootLayout, text: str, read: Callable[[str], EnvironmentSource], more: Iterable[str] = ()
) -> tuple[str, str]:
    """Return the environment and the argument of its ``setup()`` that a name means, which may yet have to be installed.

    Parameters
    ----------
    layout : RootLayout
        Which may yet have to be made.
    text : str
        A model string, or an alias.
    read : callable
        Returns the file of an environment.
    more : iterable of str
        Names of environments that are about to be installed.
    """
    name, argument = parse_model_string(text, [*registered_names(layout), *packaged_names(), *more])
    try:
        read(name).check_model(argument)
    except (ConfigurationError, UnknownEnvironmentError):
        found = find_alias(layout, text) if layout.marker.is_file() else None
        packaged = ((each, packaged_source(each).aliases) for each in packaged_names())
        found = found or next(((each, held[text]) for each, held in packaged if text in held), None)
        return found or (name, argument)
    return name, argument


def clashes(aliases: Aliases, files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Yield each alias that two environments have, or that is the name of one, and a sentence on it.

    Parameters
    ----------
    aliases : Aliases
        Of all environments.
    files : Mapping[str, Path]
        The files of all environments, as far as they are known.
    """
    owners = defaultdict(list)
    for environment, held in aliases.items():
        for alias in held:
            owners[alias].append(environment)
    for alias, names in owners.items():
        if len(names) > 1:
            places = [str(files.get(name, name)) for name in names]
            yield alias, f"alias {alias!r} is in two files: {' and '.join(places)}."
        elif alias in files:
            yield alias, f"alias {alias!r} in {files.get(names[0], names[0])} is the name of an environment: it wins."


def refuse_clashes(layout: RootLayout, sources: Iterable[EnvironmentSource]) -> None:
    """Refuse environment files that would bring an alias which another environment of a root has, or is called.

    Parameters
    ----------
    layout : RootLayout
    sources : iterable of EnvironmentSource
        What is about to be installed.

    Raises
    ------
    ConfigurationError
        With both files.
    """
    new, there = {source.name: source for source in sources}, dict[str, Mapping[str, str]]()
    with suppress(RootstockError):  # before there is a root, and where its table is to be written anew
        there = {name: held for name, held in root_aliases(layout).items() if name not in new}
    aliases = {**there, **{name: source.aliases for name, source in new.items()}}
    files = {name: layout.environment_file(name) for name in (*registered_names(layout), *there)}
    files |= {name: source.path for name, source in new.items()}
    for _, fault in clashes(aliases, files):
        raise ConfigurationError(f"{fault[0].upper()}{fault[1:]}", "Remove the alias, from one file if two have it.")
