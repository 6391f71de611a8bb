"""Structures of files and their results: what could not be written is refused first, what was computed is not lost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ase import Atoms

from rootstock.errors import ConfigurationError, OutputError
from rootstock.root.lock import Report
from rootstock.simulations.output import beside
from rootstock.simulations.structures import (
    check_output,
    check_there,
    read_structures,
    results_file,
    results_stem,
    structure_file,
)
from rootstock.simulations.writing import check_structures, write_structures


def output_file(names: Sequence[str], out: Path | None, ending: str) -> Path:
    """Decide where results go.

    Parameters
    ----------
    names : sequence of str
        Files of structures; see `read_structures`.
    out : Path or None
        The file for results. None: ``NAME-{ending}.extxyz`` in this folder, after the one file of structures.
    ending : str
        What is computed.

    Raises
    ------
    ConfigurationError
        If there are several files of structures, and none for results, or one of them is not there.
    """
    for name in names:
        check_there(name)
    if out is None and len(names) > 1:
        raise ConfigurationError(
            f"The results of {len(names)} files go into one file, which has no name yet.",
            f"Name it: --out {ending}.extxyz",
        )
    return out or Path(f"{results_stem(names[0])}-{ending}.extxyz")


def open_structures(
    names: Sequence[str], path: Path, *, overwrite: bool, steps: Path | None = None, properties: Sequence[str] = (),
    format: str | None = None,  # noqa: A002  # as in ASE
) -> list[Atoms]:  # fmt: skip
    """Read structures, once it is known that their results can be written.

    Parameters
    ----------
    names : sequence of str
        Files of structures; see `read_structures`.
    path : Path
        The file for results.
    overwrite : bool
        Whether a file that is there may be replaced.
    steps : Path, optional
        A file that grows with every step.
    properties : sequence of str
        What is to be computed, where it is said.
    format : str, optional
        Of the files of structures; see `read_structures`.

    Raises
    ------
    ConfigurationError
        If a structure cannot be read, or a result could not be written.
    """
    if steps is not None:
        check_output(steps, overwrite=overwrite, grows=True)
    images = read_structures(names, format)
    check_output(path, overwrite=overwrite, many=len(images) > 1)
    check_output(results_file(path), overwrite=overwrite)
    others = {file.resolve() for file in (path, results_file(path), *map(structure_file, names))}
    if steps is not None and steps.resolve() in others:
        raise ConfigurationError(f"{steps} cannot hold the steps: it is another file of this command.")
    for file in (results_file(path), steps or path):
        check_structures(file, images, properties)
    return images


@contextmanager
def collect_results(path: Path, report: Report) -> Iterator[list[Atoms]]:
    """Yield a list for results, and write what is in it at the end of the block, even if that fails or is interrupted.

    Parameters
    ----------
    path : Path
        The file for all results. If its format does not keep them, they are in `results_file` as well; what a block
        that failed had computed goes into another one beside it.
    report : callable
        Is told which.

    Raises
    ------
    ConfigurationError
        If the format of `path` cannot hold the results.
    OutputError
        If a file could not be written. Both name the file that holds the results.
    """
    results: list[Atoms] = []
    keeps = results_file(path)
    try:
        yield results
    except BaseException:
        if results:
            ending = ".extxyz" if keeps.suffix in (".gz", ".bz2", ".xz") else keeps.suffix
            where = _keep(beside(path, f".partial{ending}"), results, report)
            report(f"The {len(results)} that were done are {f'in {where}' if where else 'lost'}.")
        raise
    kept = None
    try:
        if keeps != path:
            write_structures(keeps, results)
            kept = keeps
            report(f"{path} cannot hold energies and forces: they are in {keeps}.")
        write_structures(path, results)
    except (ConfigurationError, OutputError) as error:
        kept = kept or _keep(beside(path, ".results.traj"), results, report)
        error.hint = f"The results are in {kept}." if kept else f"{error.hint}\nThe results are lost."
        raise


def _keep(path: Path, results: Sequence[Atoms], report: Report) -> Path | None:
    """Write results to a new file by this name or one like it, or else into the folder for temporary files."""
    places = [path]
    with suppress(OSError):  # there is none
        places.append(Path(tempfile.gettempdir()) / path.name)
    for place in map(unused, places):
        try:
            write_structures(place, results)
        except (ConfigurationError, OutputError) as error:
            report(error.message)
        else:
            return place
    return None


def unused(path: Path) -> Path:
    """Return a name like this one that no file has.

    Parameters
    ----------
    path : Path
    """
    names = (path, *(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, 1000)))
    return next((name for name in names if not name.exists()), path)
