"""Structures of files and their results: what could not be written is refused first, what was computed is not lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ase import Atoms

from rootstock.errors import ConfigurationError
from rootstock.root.lock import Report
from rootstock.simulations.structures import (
    check_output,
    check_structures,
    read_structures,
    structure_file,
    write_structures,
)


def open_structures(
    names: Sequence[str], out: Path | None, ending: str, *, overwrite: bool, steps: Path | None = None
) -> tuple[list[Atoms], Path]:
    """Read structures, and decide where their results go.

    Parameters
    ----------
    names : sequence of str
        Files of structures; see `read_structures`.
    out : Path or None
        The file for results. None: ``NAME-{ending}.extxyz`` in this folder, after the one file of structures.
    ending : str
        What is computed.
    overwrite : bool
        Whether a file that is there may be replaced.
    steps : Path, optional
        A file that grows with every step.

    Returns
    -------
    tuple of (list of ase.Atoms, Path)
        The structures, and the file for results.

    Raises
    ------
    ConfigurationError
        If a structure cannot be read, or a result could not be written.
    """
    if steps is not None:
        check_output(steps, overwrite=overwrite, grows=True)
    if out is None and len(names) > 1:
        raise ConfigurationError("Where do the results of several files go?", "Say so with --out FILE.")
    path = out or Path(f"{structure_file(names[0]).stem}-{ending}.extxyz")
    images = read_structures(names)
    check_output(path, overwrite=overwrite, many=len(images) > 1)
    if steps is not None and steps.resolve() in {file.resolve() for file in (path, *map(structure_file, names))}:
        raise ConfigurationError(f"{steps} cannot hold the steps: it is another file of this command.")
    for file in (path, steps or path):
        check_structures(file, images)
    return images, path


@contextmanager
def collect_results(path: Path, report: Report) -> Iterator[list[Atoms]]:
    """Yield a list for results, and write what is in it at the end of the block, even if that fails or is interrupted.

    Parameters
    ----------
    path : Path
        The file for all results. What a block that failed had computed goes into another one beside it.
    report : callable
        Is told which.

    Raises
    ------
    ConfigurationError
        If the format of `path` cannot hold the results. It names the file that they are in.
    """
    results: list[Atoms] = []
    try:
        yield results
    except BaseException:
        if results:
            partial = _unused(path.with_name(f"{path.stem}.partial{path.suffix}"))
            write_structures(partial, results)
            report(f"The {len(results)} that were done are in {partial}.")
        raise
    try:
        write_structures(path, results)
    except ConfigurationError as error:
        spare = _unused(path.with_name(f"{path.stem}.results.extxyz"))
        write_structures(spare, results)
        raise ConfigurationError(error.message, f"The results are in {spare}.") from error


def _unused(path: Path) -> Path:
    """Return a name like this one that no file has."""
    names = (path, *(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, 1000)))
    return next((name for name in names if not name.exists()), path)
