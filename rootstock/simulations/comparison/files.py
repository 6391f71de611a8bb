"""A comparison as files: all numbers as a table or as JSON, with all digits; structures with their spread of forces."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from rootstock.errors import ConfigurationError
from rootstock.simulations.comparison.comparison import Comparison
from rootstock.simulations.output import check_writable, replacing
from rootstock.simulations.structures import check_output, structure_file
from rootstock.simulations.writing import check_structures

_ENDINGS = (".csv", ".json")
_STRUCTURES = (".extxyz", ".xyz", ".traj")


def check_table(path: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Refuse, before anything is computed, a file that a comparison could not be written to.

    Parameters
    ----------
    path : Path
    names : sequence of str
        The files of structures; see `read_structures`.
    overwrite : bool
        Whether a file that is there may be replaced.

    Raises
    ------
    ConfigurationError
    """
    if path.suffix not in _ENDINGS:
        raise ConfigurationError(
            f"{path}: a comparison is written as {' or '.join(_ENDINGS)}.",
            "For structures with the spread of their forces: --spread FILE.extxyz",
        )
    check_writable(path)
    if path.resolve() in {structure_file(name).resolve() for name in names}:
        raise ConfigurationError(f"{path} holds the structures.", "Name another file.")
    if path.exists() and not overwrite:
        raise ConfigurationError(f"{path} exists.", "Name another file, or replace it with --overwrite.")


def write_table(path: Path, comparison: Comparison) -> None:
    """Write a row for each structure and model (``.csv``), or everything (``.json``), in one step.

    Parameters
    ----------
    path : Path
    comparison : Comparison

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    with replacing(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".json":
            json.dump(comparison.to_dict(), file, indent=1, allow_nan=False)
            file.write("\n")
            return
        rows = list(comparison.rows())
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def check_spread(
    path: Path, images: Sequence[Atoms], models: int, properties: Sequence[str], *, overwrite: bool
) -> None:  # fmt: skip
    """Refuse, before anything is computed, a file that structures with their spread could not be written to.

    Parameters
    ----------
    path : Path
    images : sequence of ase.Atoms
    models : int
        How many there are.
    properties : sequence of str
        What is to be computed, where it is said.
    overwrite : bool
        Whether a file that is there may be replaced.

    Raises
    ------
    ConfigurationError
    """
    if models < 2:
        raise ConfigurationError("A spread of forces needs two models.", "Name another one, or leave out --spread.")
    if properties and "forces" not in properties:
        raise ConfigurationError("A spread of forces needs forces.", "Add them to --properties, or leave out --spread.")
    if path.suffix not in _STRUCTURES:
        raise ConfigurationError(f"{path} cannot hold a spread of forces.", "Use .extxyz or .traj.")
    check_output(path, overwrite=overwrite)
    check_structures(path, images)
