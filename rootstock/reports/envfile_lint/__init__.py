"""Everything that is wrong with an environment file, found without executing it.

`rootstock.config.environment_file` stops at the first error, as an installation must; this is for the one who writes
the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from rootstock.config.environment_file import packaged_names, read_header
from rootstock.config.environment_text import header_blocks, parse_python, read_text
from rootstock.config.model_names import clashes
from rootstock.config.model_string import is_environment_name
from rootstock.config.packaged import data_folder
from rootstock.errors import RootstockError
from rootstock.reports.envfile_lint.code import check_code
from rootstock.reports.envfile_lint.finding import ERROR, WARNING, Finding, Findings
from rootstock.reports.envfile_lint.header import check_header
from rootstock.reports.envfile_lint.hook import hook_lines

__all__ = ["ERROR", "WARNING", "Finding", "alias_clashes", "batch_methods", "check_environment"]

_MOST = 100  # nobody reads more, and each looks for its line


def check_environment(path: Path) -> list[Finding]:
    """Return everything that is wrong with an environment file, by line.

    Raises
    ------
    UnknownEnvironmentError
        If there is no such file.
    ConfigurationError
        If it cannot be read.
    """
    text = read_text(path)
    findings = list(islice(chain(_check_name(path), check_code(text), check_header(path, text)), _MOST + 1))
    if len(findings) > _MOST:
        findings[_MOST:] = [Finding(ERROR, f"there is more wrong than these {_MOST}: correct them first.")]
    return sorted(findings, key=lambda finding: finding.line or 0)


def alias_clashes(paths: Sequence[Path]) -> dict[Path, list[Finding]]:
    """Return for environment files the aliases that another of them has, or one that ships with Rootstock.

    Parameters
    ----------
    paths : sequence of Path
        What cannot be read has no aliases. Of files of the same name, the last one counts.
    """
    sources = {path.stem: path for path in [data_folder("environments") / f"{name}.py" for name in packaged_names()]}
    sources |= {path.stem: path for path in paths}
    aliases = {}
    for name, path in sources.items():
        with suppress(RootstockError):
            aliases[name] = read_header(path).aliases
    found: dict[Path, list[Finding]] = {path: [] for path in paths}
    for alias, fault in clashes(aliases, sources):
        for name, path in sources.items():
            if path in found and alias in aliases.get(name, ()):
                found[path].append(
                    Finding(ERROR, fault, header_blocks(read_text(path))[0].lines().of("aliases", alias))
                )
    return found


def batch_methods(path: Path) -> dict[str, int]:
    """Return what an environment file gives a calculator to compute many structures together: names, and their lines.

    Raises
    ------
    UnknownEnvironmentError
        If there is no such file.
    ConfigurationError
        If it cannot be read.
    """
    text = read_text(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return hook_lines(parse_python(text))
        except (SyntaxError, RecursionError, MemoryError):  # `check_environment` tells
            return {}


def _check_name(path: Path) -> Findings:
    if path.suffix != ".py":
        yield Finding(ERROR, "an environment file's name ends with .py.")
    if not is_environment_name(path.stem):
        yield Finding(ERROR, f"{path.stem!r} cannot name an environment: use letters, digits and . _ - only.")
