"""Structures of any files as one file in extended XYZ, written once, one structure at a time."""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.db import connect
from ase.io import Trajectory
from ase.io.formats import string2index  # type: ignore[attr-defined]  # reexported

from rootstock.errors import ConfigurationError
from rootstock.root.disk_usage import number_of
from rootstock.root.plain_files import open_regular
from rootstock.simulations.contents import check_atoms
from rootstock.simulations.extxyz import frame
from rootstock.simulations.output import naming
from rootstock.simulations.provenance import SOURCE, naming_source
from rootstock.simulations.runs.frames_index import find_frames
from rootstock.simulations.runs.input_table import CONVERTED, InputTable
from rootstock.simulations.runs.references import keep_as_references
from rootstock.simulations.structures import DATABASES, format_of, iter_structures, selection_of, structure_file

logger = logging.getLogger("rootstock")

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_BETWEEN = 10_000  # structures between two reports
_PAGE = 1000  # rows of a database that are read at a time: ASE reads all that it is asked for
_KEPT = (FixAtoms, FixCartesian)  # constraints that extended XYZ has words for

Report = Callable[[str], object]
# A structure as its text and number of atoms, as atoms, or why it cannot be read; and its file and frame.
Found = tuple[str, bytes | Atoms | ConfigurationError, int]


def is_plain_extxyz(path: Path, kind: str | None) -> bool:
    """Return whether a file is in extended XYZ, and not compressed.

    Parameters
    ----------
    path : Path
    kind : str or None
        The format, where somebody named it.

    Raises
    ------
    ConfigurationError
        If its format is not recognised.
    """
    return path.suffix not in _COMPRESSED and format_of(path, kind) == "extxyz"


class Conversion:
    """A file in extended XYZ that grows by structures of other files.

    Parameters
    ----------
    folder : Path
        The run folder.
    report : callable
        Is told how far it is.

    Attributes
    ----------
    table : InputTable
    unreadable : dict
        By index: message and hint of structures that could not be read.
    """

    def __init__(self, folder: Path, report: Report) -> None:
        self.table = InputTable()
        self.unreadable: dict[str, list[str]] = {}
        self._path = folder / CONVERTED
        self._report = report
        self._left_out, self._why_left_out = 0, ""  # data of rows

    def run(self, names: Sequence[str], kind: str | None) -> None:
        """Convert files.

        Parameters
        ----------
        names : sequence of str
            As for `rootstock.simulations.structures.read_structures`.
        kind : str or None
            Their format, where somebody named it.

        Raises
        ------
        ConfigurationError
            If a name picks no structure, none can be read, or an entry of one cannot be written. It names both.
        OutputError
            If the file cannot be written.
        """
        digest, position = hashlib.sha256(), 0
        with naming(self._path), self._path.open("wb") as file:
            for source, found, atoms in itertools.chain.from_iterable(self._some(name, kind) for name in names):
                number = len(self.table)
                text = self._text(found, number)
                file.write(text)
                digest.update(text)
                self.table.add(position, text, atoms if text else 0, source)
                position += len(text)
                if not (number + 1) % _BETWEEN:
                    self._report(f"converting the input: {number + 1:,} structures")
            file.flush()
            os.fsync(file.fileno())
        self.table.sha256 = digest.hexdigest()
        if self._left_out:
            logger.warning("%s In all, %s.", self._why_left_out, number_of(self._left_out, "row"))
        if len(self.unreadable) == len(self.table):
            message, hint = self.unreadable["0"]
            raise ConfigurationError(message, hint)

    def _text(self, found: bytes | Atoms | ConfigurationError, number: int) -> bytes:
        if isinstance(found, bytes):
            return found
        if isinstance(found, Atoms):
            try:
                check_atoms(found)
            except ConfigurationError as error:
                found = error
        if isinstance(found, ConfigurationError):
            self.unreadable[str(number)] = [found.message, found.hint]
            return b""
        keep_as_references(found)
        with naming_source(found):
            for constraint in found.constraints:
                if not isinstance(constraint, _KEPT):
                    raise ConfigurationError(
                        f"A run folder cannot hold its constraint {type(constraint).__name__}.",
                        "Remove that constraint, or compute this structure by a command without --run.",
                    )
            return frame(found).encode()

    def _some(self, name: str, kind: str | None) -> Iterator[Found]:
        """Yield the structures of one file, of which there must be one."""
        before = len(self.table)
        yield from self._found(name, kind)
        if len(self.table) == before:
            raise ConfigurationError(f"{name} holds no atoms.")

    def _found(self, name: str, kind: str | None) -> Iterator[Found]:
        """Yield the structures of one file."""
        path, selection = structure_file(name), selection_of(name)
        try:
            recognised = format_of(path, kind)
            if is_plain_extxyz(path, kind):
                yield from _frames(path, selection, self._report)
            elif recognised == "traj":
                yield from _trajectory(path, selection)
            elif recognised in DATABASES and path.suffix not in _COMPRESSED:
                yield from self._rows(path, selection)
            else:
                yield from _any(name, kind)
        except OSError as error:
            raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error

    def _rows(self, path: Path, selection: str) -> Iterator[Found]:
        """Yield rows of a database, whose keys and data become info."""
        for row in _select(path, selection):
            source, left_out = f"{path}@id={row.id}", ""
            try:
                atoms, data = _of_row(row, source)
            except ConfigurationError as error:
                yield source, error, 0
                continue
            if data and not (left_out := _why_not(data)):
                atoms.info["data"] = data
            if left_out:
                self._left_out += 1
                self._why_left_out = self._why_left_out or f"{source}: its data is left out of the results. {left_out}"
            yield source, atoms, len(atoms)


def _of_row(row: Any, source: str) -> tuple[Atoms, dict[str, Any]]:
    """Return structure and data of a row."""
    try:
        atoms: Atoms = row.toatoms()
        atoms.info = {SOURCE: source, "id": row.id, **row.key_value_pairs}
        return atoms, dict(row.data)
    except Exception as error:  # of the JSON and arrays in it
        raise ConfigurationError(f"Cannot read {source}: {type(error).__name__}: {error}.") from error


def _why_not(data: dict[str, Any]) -> str:
    """Return why data cannot be written; nothing if it can."""
    try:
        frame(Atoms("H", info={"data": data}))
    except ConfigurationError as error:
        return error.message
    return ""


def _chosen(selection: str, count: int) -> range:
    """Return the numbers that a selection picks of some frames.

    Raises
    ------
    ConfigurationError
        If it is no number or range.
    """
    picked: Any = string2index(selection)
    if isinstance(picked, str):
        raise ConfigurationError(
            f"{selection!r} is neither the number of a frame nor a range of them.",
            "For example: @-1, the last one, or @::10, every tenth.",
        )
    if isinstance(picked, slice):
        return range(count)[picked]
    if not -count <= picked < count:
        raise ConfigurationError(
            f"There is no frame {picked}: {count} are there.", "Count from 0; @-1 is the last one."
        )
    return range(picked % count, picked % count + 1)


def _frames(path: Path, selection: str, report: Report) -> Iterator[Found]:
    """Yield frames of a file in extended XYZ as their text, which is read when it is computed."""
    frames = find_frames(path, report)
    with io.BufferedReader(open_regular(path)) as file:
        for number in _chosen(selection, len(frames)):
            file.seek(frames.offsets[number])
            text = file.read(frames.lengths[number])
            name, atoms = f"{path}@{number}", frames.atoms[number]
            text += b"" if text.endswith(b"\n") else b"\n"
            yield name, text if atoms else ConfigurationError(f"{name} holds no atoms."), atoms


def _any(name: str, kind: str | None) -> Iterator[Found]:
    """Yield what ASE reads; a file that it cannot read is one structure that fails."""
    try:
        for atoms in iter_structures(name, kind):
            yield atoms.info[SOURCE], atoms, len(atoms)
    except ConfigurationError as error:
        yield name, error, 0


def _trajectory(path: Path, selection: str) -> Iterator[Found]:
    """Yield frames of one of ASE's trajectories."""
    try:
        trajectory = Trajectory(os.fspath(path))
    except Exception as error:  # whatever its bytes lead to
        raise ConfigurationError(f"Cannot read {path} as traj: {type(error).__name__}: {error}.") from error
    with trajectory:
        for number in _chosen(selection, len(trajectory)):
            source = f"{path}@{number}"
            try:
                atoms = _of_trajectory(trajectory, number, source)
            except ConfigurationError as error:
                yield source, error, 0
            else:
                yield source, atoms, len(atoms)


def _of_trajectory(trajectory: Any, number: int, source: str) -> Atoms:
    try:
        atoms: Atoms = trajectory[number]
    except Exception as error:  # whatever its bytes lead to
        raise ConfigurationError(f"Cannot read {source}: {type(error).__name__}: {error}.") from error
    atoms.info[SOURCE] = source
    return atoms


def _select(path: Path, selection: str) -> Iterator[Any]:
    """Yield the rows of a database that a selection picks: numbers as for frames, or one of ASE's queries."""
    picked: Any = string2index(selection)
    query = picked if isinstance(picked, str) else ""
    try:
        with connect(path) as database:
            rows = _pages(database, query) if path.suffix == ".db" else database.select(query)
            if isinstance(picked, str):
                yield from rows
            else:
                numbers = _chosen(selection, database.count(query))
                if numbers.step < 0:
                    raise ConfigurationError(f"{path}@{selection}: rows are read in their order only.")
                yield from itertools.islice(rows, numbers.start, numbers.stop, numbers.step)
    except ConfigurationError:
        raise
    except Exception as error:  # of sqlite, JSON, or the query
        raise ConfigurationError(f"Cannot read {path}@{selection}: {type(error).__name__}: {error}.") from error


def _pages(database: Any, query: str) -> Iterator[Any]:
    last = 0
    while True:
        words = ",".join(filter(None, (query, f"id>{last}")))
        page = list(database.select(words, limit=_PAGE, sort="id"))
        yield from page
        if len(page) < _PAGE:
            return
        last = page[-1].id
