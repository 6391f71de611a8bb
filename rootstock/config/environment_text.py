"""The text of an environment file: its header, which is inline script metadata (PEP 723), and its shape as Python."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from rootstock.config.header_kinds import misfits
from rootstock.config.header_lines import Lines
from rootstock.errors import ConfigurationError, UnknownEnvironmentError
from rootstock.root import plain_files

_LIMIT = 256 * 1024  # bytes of a file: a function and its header take some kilobytes
_HEADER_LIMIT = 10_000  # lines
_BEGIN = re.compile(r"# /// ([a-zA-Z0-9-]+)")
_END = "# ///"


def read_text(path: Path) -> str:
    """Return what an environment file holds.

    Raises
    ------
    UnknownEnvironmentError
        If there is no such file.
    ConfigurationError
        If it cannot be read, is no regular file or a link to none, or is far larger than any environment file.
    """
    try:
        return plain_files.read_text(path, _LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ConfigurationError(f"{path} leads to {os.readlink(path)}, which is not there.") from None
        raise UnknownEnvironmentError(f"There is no environment file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"Cannot read the environment file {path}: {reason}.") from error


@dataclass(frozen=True)
class Block:
    """A header.

    Attributes
    ----------
    begin, end : int
        The lines that enclose it, from 1.
    toml : str
        What it holds.
    """

    begin: int
    end: int
    toml: str

    def lines(self) -> Lines:
        """Return where its keys are."""
        return Lines(self.toml, self.begin + 1)


class HeaderFault(ValueError):  # noqa: N818  # it is told, and never ends a command
    """Something about a header that keeps it from being read.

    Parameters
    ----------
    text : str
        What it is.
    line : int
        Of the file.
    """

    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.text, self.line = text, line


def header_blocks(text: str) -> list[Block]:
    """Return the headers that a file has; one is right.

    They are those of the specification's expression, whose time grows with the square of the text.
    """
    lines, blocks, number = text.split("\n"), [], 0
    while number < len(lines):
        if not (begin := _BEGIN.fullmatch(lines[number])):
            number += 1
            continue
        after, end = number + 1, 0
        while after < len(lines) and (lines[after] == "#" or lines[after].startswith("# ")):
            end = after if lines[after] == _END else end  # the last one counts
            after += 1
        if end < number + 2:  # without an end there is none in these lines
            number = after
            continue
        if begin[1] == "script":
            blocks.append(Block(number + 1, end + 1, "\n".join(line[2:] for line in lines[number + 1 : end]) + "\n"))
        number = end + 1
    return blocks


def parse_block(block: Block) -> dict[str, Any]:
    """Return what a header says.

    Raises
    ------
    HeaderFault
        If it is no TOML.
    """
    if block.end - block.begin > _HEADER_LIMIT:
        raise HeaderFault(f"it has more than {_HEADER_LIMIT} lines", block.begin)
    try:
        return plain_files.parse_toml(block.toml)
    except ValueError as error:
        place = re.search(r" \(at line (\d+), column \d+\)$", str(error))  # else it is the end
        fault = str(error)[: place.start()] if place else str(error).removesuffix(" (at end of document)")
        raise HeaderFault(fault, block.begin + int(place[1]) if place else block.end) from error


def parse_header(path: Path, text: str) -> dict[str, Any]:
    """Return the header of an environment file. What it says is of the kinds that it must be.

    Parameters
    ----------
    path : Path
        The file, for messages.
    text : str
        What it holds.

    Raises
    ------
    ConfigurationError
        If it has no header, several, or one that is not valid.
    """
    blocks = header_blocks(text)
    if len(blocks) != 1:
        raise ConfigurationError(
            f"{path} has {len(blocks)} headers '# /// script ... # ///'; an environment file has one.",
            "rootstock-site new-env NAME writes one to start from.",
        )
    try:
        header = parse_block(blocks[0])
    except HeaderFault as fault:
        raise ConfigurationError(f"{path}:{fault.line}: its header is not valid: {fault.text}.") from fault
    for place, wrong in misfits(header):
        raise ConfigurationError(f"{path}:{blocks[0].lines().at(place)}: {wrong}")
    if wrong := specifier_fault(header.get("requires-python", "")):
        line = blocks[0].lines().of("requires-python")
        raise ConfigurationError(f"{path}:{line}: its header is not valid: {wrong}.")
    return header


def specifier_fault(text: str) -> str:
    """Say what is wrong with a specifier of versions; empty if nothing is."""
    try:
        SpecifierSet(text).contains("3.11")  # it converts its numbers only now
    except ValueError as error:
        return str(error)
    return ""


def parse_python(text: str) -> ast.Module:
    """Return the syntax tree of an environment file.

    Raises
    ------
    SyntaxError
        If it is no Python, or nested too deep for it.
    """
    try:
        return ast.parse(text)
    except (RecursionError, MemoryError):
        raise SyntaxError("it is nested too deep") from None
    except ValueError as error:  # NUL bytes
        raise SyntaxError(str(error)) from None


def check_setup(path: Path, text: str) -> None:
    """Refuse an environment file that defines no ``setup()``.

    Parameters
    ----------
    path, text
        As `parse_header`.

    Raises
    ------
    ConfigurationError
        If it defines none, or is not Python.
    """
    try:
        tree = parse_python(text)
    except SyntaxError as error:
        where = f"{path}:{error.lineno}:" if error.lineno else path
        raise ConfigurationError(f"{where} it is not valid Python: {error.msg}.") from error
    if not any(isinstance(node, ast.FunctionDef) and node.name == "setup" for node in tree.body):
        raise ConfigurationError(f"{path} defines no function setup(model, device).")
