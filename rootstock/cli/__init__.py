"""The command lines. Only here is anything printed, and only here does the process end."""

from __future__ import annotations

import os
import sys
from importlib import import_module


def rootstock() -> None:
    """Run ``rootstock``."""
    _run("user")


def rootstock_site() -> None:
    """Run ``rootstock-site``."""
    _run("site")


def _run(name: str) -> None:
    """Run a command line, whose packages may be missing: beside ASE alone, Rootstock is a calculator."""
    if os.path.expanduser("~") == "~":  # neither HOME nor an account, as in a container: ASE refuses to be imported
        os.environ["HOME"] = "/nonexistent"
    try:
        import_module(f"rootstock.cli.{name}").main()
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "rootstock":
            raise
        sys.stderr.write(
            f"Error: The command line needs the package {error.name}, which is not installed beside rootstock.\n"
            "Use the command that 'module load rootstock' provides, or install rootstock again without --no-deps.\n"
        )
        raise SystemExit(3) from None
