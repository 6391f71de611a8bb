"""The text of an environment file: its header, which is inline script metadata (PEP 723), and its shape as Python."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from rootstock.errors import ConfigurationError, UnknownEnvironmentError

# The reference expression of the specification.
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


def read_text(path: Path) -> str:
    """Return what an environment file holds.

    Raises
    ------
    UnknownEnvironmentError
        If there is no such file.
    ConfigurationError
        If it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise UnknownEnvironmentError(f"There is no environment file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Cannot read the environment file {path}: {error}.") from error


def header_blocks(text: str) -> list[re.Match[str]]:
    """Return the headers that a file has; one is right."""
    return [match for match in _BLOCK.finditer(text) if match["type"] == "script"]


def header_text(block: re.Match[str]) -> str:
    """Return the TOML that a header holds, line by line."""
    return "\n".join(line[2:] for line in block["content"].splitlines())


def parse_header(path: Path, text: str) -> dict[str, Any]:
    """Return the header of an environment file.

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
        header = tomllib.loads(header_text(blocks[0]))
        SpecifierSet(header.get("requires-python", ""))
    except (tomllib.TOMLDecodeError, InvalidSpecifier) as error:
        raise ConfigurationError(f"{path}: its header is not valid: {error}.") from error
    return header


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
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ConfigurationError(f"{path} is not valid Python: {error}.") from error
    if not any(isinstance(node, ast.FunctionDef) and node.name == "setup" for node in tree.body):
        raise ConfigurationError(f"{path} defines no function setup(model, device).")
