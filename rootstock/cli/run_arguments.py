"""What several commands make of their options: arguments of ``setup()``, and the files that they alone may write."""

from __future__ import annotations

import ast
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.errors import ConfigurationError, LockBusyError

if TYPE_CHECKING:
    from rootstock.simulations.runs.elements import Element


def device_words(known: str) -> str:
    """Return the options that let another command compute where this one does, as text behind it.

    Parameters
    ----------
    known : str
        The device that it takes where none is named.
    """
    given = click.get_current_context().params
    device = "" if given["device"] in (None, known) else f" --device {shlex.quote(given['device'])}"
    return device + (f" --threads {given['threads']}" if given["threads"] else "")


def setup_arguments(text: str | None) -> dict[str, Any]:
    """Return the arguments of ``setup()`` that somebody gave as a dict, as Python writes it.

    Parameters
    ----------
    text : str or None

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    try:
        setup = ast.literal_eval(text) if text else {}
        if not isinstance(setup, dict):
            raise ValueError
    except (ValueError, SyntaxError) as error:
        raise ConfigurationError(
            f"--calc-kwargs {text} is not a dictionary, as Python writes it.",
            "For example: --calc-kwargs \"{'default_dtype': 'float64'}\"",
        ) from error
    return setup


def claim_outputs(*paths: Path) -> None:
    """Keep other commands from writing some files, until this command ends.

    Parameters
    ----------
    *paths : Path
    """
    from rootstock.simulations.claims import claim_files

    click.get_current_context().with_resource(claim_files(paths, shlex.join(["rootstock", *sys.argv[1:]])))


def claim_results(folder: Path, element: Element, path: Path) -> None:
    """Keep other commands from writing the results of a run, if this one computes all of it.

    Parameters
    ----------
    folder : Path
    element : Element
    path : Path
        The file for results.

    Raises
    ------
    LockBusyError
        If another command computes this run, or writes that file.
    """
    from rootstock.simulations.runs.elements import claim_out, refuse_busy

    if element.of > 1:
        return
    try:
        click.get_current_context().with_resource(claim_out(path, shlex.join(["rootstock", *sys.argv[1:]])))
    except LockBusyError:
        if folder.is_dir():
            refuse_busy(folder, element)
        raise
