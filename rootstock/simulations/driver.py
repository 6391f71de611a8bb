"""The loop over structures of files: what could not be written is refused first, and what was computed is not lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ase import Atoms

from rootstock.errors import ConfigurationError
from rootstock.simulations.structures import check_output, read_structures, structure_file, write_structures


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
    if steps is not None and steps.resolve() in {each.resolve() for each in (path, *map(structure_file, names))}:
        raise ConfigurationError(f"{steps} cannot hold the steps: it is another file of this command.")
    return images, path


def compute_each(
    images: Sequence[Atoms],
    path: Path,
    compute: Callable[[int, Atoms], Atoms],
    *,
    on_done: Callable[[int, Atoms], None],
    on_partial: Callable[[int, Path], None],
) -> list[Atoms]:
    """Compute one structure after the other.

    Parameters
    ----------
    images : sequence of ase.Atoms
    path : Path
        The file for results.
    compute : callable
        Is given the number of a structure, from 1, and the structure; returns a copy that holds its results.
    on_done : callable
        Is given the number and that copy.
    on_partial : callable
        If one of them raises or is interrupted, what was computed before is written beside `path`. This is given the
        number of structures and the file.

    Returns
    -------
    list of ase.Atoms
        The results; `write_results` writes them.
    """
    done: list[Atoms] = []
    try:
        for number, atoms in enumerate(images, 1):
            done.append(compute(number, atoms))
            on_done(number, done[-1])
    except BaseException:
        if done:
            partial = _unused(path.with_name(f"{path.stem}.partial{path.suffix}"))
            write_structures(partial, done)
            on_partial(len(done), partial)
        raise
    return done


def write_results(path: Path, results: Sequence[Atoms]) -> None:
    """Write results into a file; if its format cannot hold them, into another one.

    Parameters
    ----------
    path : Path
    results : sequence of ase.Atoms

    Raises
    ------
    ConfigurationError
        If they are in another file than `path`. It names that file.
    """
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
