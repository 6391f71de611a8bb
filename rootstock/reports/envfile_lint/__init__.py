"""Everything that is wrong with an environment file, found without executing it.

`rootstock.config.environment_file` stops at the first error, as an installation must; this is for the one who writes
the file.
"""

from __future__ import annotations

import warnings
from itertools import chain, islice
from pathlib import Path

from rootstock.config.environment_text import parse_python, read_text
from rootstock.config.model_string import is_environment_name
from rootstock.reports.envfile_lint.code import check_code
from rootstock.reports.envfile_lint.finding import ERROR, WARNING, Finding, Findings
from rootstock.reports.envfile_lint.header import check_header
from rootstock.reports.envfile_lint.hook import hook_lines

__all__ = ["ERROR", "WARNING", "Finding", "batch_methods", "check_environment"]

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
