"""Writes the reference from the code: each comment ``<!-- reference: NAME ARGUMENT -->`` of a page becomes a text.

mkdocs calls `on_page_markdown` for every page (``hooks`` in mkdocs.yml).
"""

from __future__ import annotations

import inspect
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import click
import model_tables  # beside this file

from rootstock import errors
from rootstock.cli.command import INTERRUPTED, PENDING
from rootstock.cli.site import main as site
from rootstock.cli.user import main as user
from rootstock.config import licences
from rootstock.config.cluster_settings import Cluster
from rootstock.config.setting_values import value_text
from rootstock.root.layout import RootLayout
from rootstock.worker.channel import frames, memory

_PLACE = re.compile(r"^<!-- reference: (\S+)(?: (\S+))? -->$", re.M)
COMMANDS: dict[str, click.Group] = {"rootstock": user, "rootstock-site": site}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with its generated parts."""
    return _PLACE.sub(lambda place: "\n".join(PARTS[place[1]](*filter(None, place.groups()[1:]))), markdown)


# -- commands


def commands(name: str) -> Iterator[str]:
    """Yield the help of a command line and of every command in it."""
    context = click.Context(COMMANDS[name], info_name=name)
    yield from _command(context, level=1)


def _command(context: click.Context, level: int) -> Iterator[str]:
    command = context.command
    path = context.command_path
    if level > 1:
        yield f"\n{'#' * min(level, 3)} `{path}`\n"
    yield f"```text\n{' '.join([path, *command.collect_usage_pieces(context)])}\n```\n"
    yield from _help(inspect.cleandoc(command.help or ""))
    yield from _options(command, context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            inner = command.get_command(context, child)
            if inner is not None and not inner.hidden:
                yield from _command(click.Context(inner, info_name=child, parent=context), level + 1)


def _help(text: str) -> Iterator[str]:
    """Yield a help text; what click is told not to wrap is an example."""
    for paragraph in text.split("\n\n"):
        if not paragraph.startswith("\b\n"):
            yield paragraph + "\n"
            continue
        title, *lines = paragraph.removeprefix("\b\n").splitlines()
        if all(line.startswith("  ") for line in lines) and title.endswith(":"):
            yield f"{title}\n\n```sh\n" + "\n".join(line[2:] for line in lines) + "\n```\n"
        else:
            yield "```text\n" + "\n".join([title, *lines]) + "\n```\n"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    rows = [(names, text) for names, text in records if "--help" not in names]
    if rows:
        yield "| option | |\n|---|---|"
        for names, text in rows:
            yield f"| `{names}` | {_cell(text)} |"
        yield ""


# -- the wire


def frame_fields() -> Iterator[str]:
    """Yield the fields of a frame's header: their places, types and meanings."""
    _, _, text = (inspect.getdoc(frames.Frame) or "").partition("----------\n")
    described = re.findall(r"^(\w+) : .*\n((?:    .*\n?)+)", text, re.M)
    meanings = {"magic": f"`{frames.MAGIC.decode()}`", "kind": "what the frame says", **dict(described)}
    yield "| bytes | type | field | meaning |\n|---|---|---|---|"
    start = 0
    for code, name in zip(
        re.findall(r"\d*[a-zA-Z]", frames.HEADER.format), ("magic", *frames.Frame._fields), strict=True
    ):
        size = struct.calcsize(f"<{code}")
        kind = {"I": "uint32", "Q": "uint64"}.get(code, "bytes")
        yield f"| {start}–{start + size - 1} | {kind} | {name} | {_cell(meanings[name])} |"
        start += size
    yield f"\nThat makes {start} bytes, little-endian.\n"


def frame_kinds() -> Iterator[str]:
    """Yield the kinds of frames and their numbers."""
    yield "Kinds: " + ", ".join(f"{kind.value} `{kind.name}`" for kind in frames.Kind) + ".\n"


def memory_sections() -> Iterator[str]:
    """Yield the sections of the shared memory."""
    kinds = {"f8": "float64", "i8": "int64", "u1": "uint8"}
    for title, sections in (("input", memory.INPUTS), ("result", memory.PROPERTIES)):
        yield f"| bit | {title} | shape | type |\n|---|---|---|---|"
        for bit, section in enumerate(sections):
            shape = ", ".join(["n"] * section.per_atom + [str(length) for length in section.shape])
            yield f"| {bit} | `{section.name}` | ({shape}) | {kinds[section.dtype]} |"
        yield ""


# -- environment files


def words() -> Iterator[str]:
    """Yield the words for licences, functionals and training sets."""
    for title in licences.CLASSES[:-1]:
        names = [name for name, kind in licences.LICENCES.items() if kind == title]
        yield f"- Licences, {title}: " + ", ".join(f"`{name}`" for name in names)
    yield "- Functionals: " + ", ".join(f"`{name}`" for name in licences.FUNCTIONALS)
    yield "- Training sets: " + ", ".join(f"`{name}`" for name in licences.TRAINING_SETS) + "\n"


# -- values


def cluster_keys() -> Iterator[str]:
    """Yield a table of the keys of a cluster file for each of their tables."""
    tables: dict[str, list[Field[Any]]] = {}
    for field in fields(Cluster):
        if field.metadata:
            tables.setdefault(field.metadata["key"].rpartition(".")[0], []).append(field)
    for head, members in tables.items():
        yield f"\n### {f'[{head}]' if head else 'The top of the file'}" + f" {{ #{head or 'top'} }}\n"
        yield "| key | type | default | meaning |\n|---|---|---|---|"
        for field in members:
            choices, many = field.metadata["choices"], field.default is MISSING
            simple = {"int": "whole number", "bool": "`true` or `false`"}.get(str(field.type))
            listed = ("table of strings", "{}") if str(field.type).startswith("Mapping") else ("list of strings", "[]")
            words = " or ".join(f'`"{each}"`' for each in choices)
            kind = f"list of {words}" if words and many else words or simple or (listed[0] if many else "string")
            default = listed[1] if many else value_text(field.default) if simple else f'"{field.default}"'
            key = field.metadata["key"].rpartition(".")[2]
            yield f"| `{key}` | {kind} | `{default}` | {_cell(field.metadata['meaning'])} |"
        yield ""


def root_paths() -> Iterator[str]:
    """Yield a table of the paths under a root."""
    yield "| path | what it is |\n|---|---|"
    for paths, meaning in described_paths():
        yield f"| {', '.join(f'`{path}`' for path in paths)} | {_cell(meaning)} |"
    yield ""


def described_paths() -> Iterator[tuple[list[str], str]]:
    """Yield every path that `RootLayout` knows, relative to the root, and the first line of what it says of it.

    One that depends on something optional is yielded without and with it.
    """
    layout = RootLayout(Path())
    for name, member in vars(RootLayout).items():
        function = member.fget if isinstance(member, property) else member
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        _, *parameters = inspect.signature(function).parameters.values()
        needed = [each.name.upper() for each in parameters if each.default is each.empty]
        paths = [function(layout, *needed), function(layout, *(each.name.upper() for each in parameters))]
        if isinstance(paths[0], Path):
            yield list(dict.fromkeys(map(str, paths))), (function.__doc__ or "").partition("\n")[0]


def exit_codes() -> Iterator[str]:
    """Yield the table of exit codes."""
    yield "| code | error | meaning |\n|---|---|---|"
    for code, name, meaning in exit_code_table():
        yield f"| {code} | {f'`{name}`' if name else ''} | {_cell(meaning)} |"
    yield ""


def exit_code_table() -> list[tuple[int, str, str]]:
    """Return exit code, error and meaning, sorted."""
    rows = [
        (0, "", "done, or nothing to do"),
        (1, "", "an internal error: report it; or whatever read standard output, such as `head`, ended before"),
        (2, "", "wrong usage: an unknown option or command"),
        (PENDING, "", "`--check` found differences"),
        (INTERRUPTED, "", "interrupted by Ctrl-C, or a question was answered with no"),
    ]
    for error in vars(errors).values():
        if inspect.isclass(error) and issubclass(error, errors.RootstockError) and "exit_code" in vars(error):
            rows.append((error.exit_code, error.__name__, (error.__doc__ or "").splitlines()[0]))
    rows.remove((1, "RootstockError", "Base of all errors of this package."))
    return sorted(rows)


def error_tree() -> Iterator[str]:
    """Yield the tree of errors, as the module that holds them shows it."""
    text = (errors.__doc__ or "").split("::\n", 1)[1].split("\n\nEach says", 1)[0]
    yield "```text\n" + inspect.cleandoc(text).strip("\n") + "\n```\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


PARTS: dict[str, Callable[..., Iterator[str]]] = {
    "commands": commands, "cluster-keys": cluster_keys, "root-paths": root_paths, "exit-codes": exit_codes,
    "error-tree": error_tree, "frame-fields": frame_fields, "frame-kinds": frame_kinds,
    "memory-sections": memory_sections, "models": model_tables.models, "models-tested": model_tables.last_run,
    "words": words,
}  # fmt: skip
