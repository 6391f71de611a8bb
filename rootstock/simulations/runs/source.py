"""The structures of a run: read one by one from where they are, in any order."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from rootstock.errors import ConfigurationError, RootstockError
from rootstock.simulations.contents import check_atoms
from rootstock.simulations.provenance import SOURCE
from rootstock.simulations.runs.convert import Conversion, is_plain_extxyz
from rootstock.simulations.runs.frames_index import find_frames, read_frame
from rootstock.simulations.runs.index import read_at
from rootstock.simulations.runs.input_table import CONVERTED, load_table
from rootstock.simulations.runs.references import keep_as_references
from rootstock.simulations.structures import check_there, selection_of, structure_file

_ANEW = "What is recorded is of the file as it was. Begin a new run folder for it, or put the file back."
_FOLDER_ANEW = "Begin a new run folder."

logger = logging.getLogger("rootstock")


def index_input(
    folder: Path, names: Sequence[str], format: str | None, report: Callable[[str], object],  # noqa: A002  # as in ASE
) -> dict[str, Any]:  # fmt: skip
    """Write into a run folder where its structures are; what is not one plain file in extended XYZ is converted.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        As for `rootstock.simulations.structures.read_structures`.
    format : str or None
        ASE's name of the format of all files, where somebody named it.
    report : callable
        Is told how far it is.

    Returns
    -------
    dict
        What the record of the run keeps, and `Source` is given: JSON can hold it.

    Raises
    ------
    ConfigurationError
        If a file is missing, the text of one in extended XYZ is broken, or a structure cannot be converted.
    OutputError
        If the folder cannot be written.
    """
    for name in names:
        check_there(name)
    report("reading the structures")
    paths = {os.path.realpath(structure_file(name)): structure_file(name) for name in names}
    before = {real: _stamp(path) for real, path in paths.items()}
    first = structure_file(names[0])
    found: dict[str, Any] = asked_input(names, format)
    try:
        in_place = len(names) == 1 and selection_of(names[0]) in (":", "0:", "::", "::1") and is_plain_extxyz(
            first, format
        )  # fmt: skip
        if in_place:
            table = find_frames(first, report)
            table.labels = {f"{first}@": 0}
            hashes, converted, unreadable = {os.path.realpath(first): table.sha256}, None, {}
        else:
            conversion = Conversion(folder, report)
            conversion.run(names, format)
            table, unreadable = conversion.table, conversion.unreadable
            hashes = {real: _sha256(path) for real, path in paths.items()}
            converted = {"path": CONVERTED, **_stamp(folder / CONVERTED), "sha256": table.sha256}
    except OSError as error:
        if isinstance(error, RootstockError):
            raise
        raise ConfigurationError(f"Cannot read {error.filename}: {error.strerror}.") from error
    for real, path in paths.items():
        if _stamp(path) != before[real]:
            raise ConfigurationError(f"{path} was changed while it was read.", "Start again when it is complete.")
    table.save(folder)
    files = [{"path": real, **before[real], "sha256": hashes[real]} for real in paths]
    return found | {
        "files": files, "converted": converted, "labels": list(table.labels), "unreadable": unreadable,
        "structures": len(table),
    }  # fmt: skip


def asked_input(names: Sequence[str], format: str | None) -> dict[str, Any]:  # noqa: A002  # as in ASE
    """Return which structures a command line asks for: the part of `index_input` that needs no reading.

    Parameters
    ----------
    names, format
        As for `index_input`.
    """
    return {"asked": [[os.path.realpath(structure_file(name)), selection_of(name)] for name in names], "format": format}


class Source:
    """The structures of a run.

    Parameters
    ----------
    folder : Path
        The run folder.
    said : Mapping
        What `index_input` returned.

    Attributes
    ----------
    atoms_of : array of int
        How many atoms each structure has; 0 if it has none, or could not be read.

    Raises
    ------
    ConfigurationError
        If the index of the folder is missing or damaged.
    """

    def __init__(self, folder: Path, said: Mapping[str, Any]) -> None:
        arrays = load_table(folder, said["structures"])
        self._offsets, self._lengths, self._checks = arrays["offsets"], arrays["lengths"], arrays["checks"]
        self.atoms_of: np.ndarray = arrays["atoms"]
        self._sources, self._frames = arrays["sources"], arrays["frames"]
        self._said, self._folder = said, folder
        self._labels: Sequence[str] = said["labels"]
        self._text = {**said["converted"], "path": folder / CONVERTED} if said["converted"] else said["files"][0]
        self._descriptor, self._noted = -1, False

    def __len__(self) -> int:
        return len(self._offsets)

    def name(self, index: int) -> str:
        """Return file and frame of a structure, as ASE reads it: ``run.traj@30``.

        Parameters
        ----------
        index : int
        """
        if not len(self._sources):
            return f"{self._labels[0]}{index}"
        label, number = self._labels[self._sources[index]], int(self._frames[index])
        return label if number < 0 else f"{label}{number}"

    def __getitem__(self, index: int) -> Atoms:
        """Return a structure as ASE reads it, with its file and frame; results of the input are references.

        Parameters
        ----------
        index : int

        Raises
        ------
        ConfigurationError
            If this structure cannot be read, or cannot be computed.
        OSError
            If its file cannot be read, or holds another text there: nothing is said about the structure.
        """
        name = self.name(index)
        if (why := self._said["unreadable"].get(str(index))) is not None:
            raise ConfigurationError(*why)
        if not self.atoms_of[index]:
            raise ConfigurationError(f"{name} holds no atoms.")
        data = self._read(int(self._offsets[index]), int(self._lengths[index]), int(self._checks[index]))
        try:
            atoms = read_frame(data)
        except ValueError as error:
            raise ConfigurationError(f"Cannot read {name} as extxyz: {error}.", "Look at this frame.") from error
        atoms.info[SOURCE] = name
        check_atoms(atoms)
        keep_as_references(atoms)
        return atoms

    def _read(self, offset: int, length: int, check: int) -> bytes:
        path = os.fspath(self._text["path"])
        if self._descriptor < 0:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            weakref.finalize(self, os.close, self._descriptor)
        data = read_at(self._descriptor, offset, length)
        if zlib.crc32(data) != check:  # whatever its times say
            raise OSError(errno.ESTALE, "the file was changed since this run began", path)
        return data

    def check_unchanged(self) -> None:
        """Refuse a file that is not what it was when the run folder was made.

        A file of the same content with another time is taken for the same. Where the folder has a copy of its own, that
        one counts: the files that it was made of may be gone, and the log notes once if they are others now.

        Raises
        ------
        ConfigurationError
            If it was changed or is gone. It says what to do.
        """
        path, converted = Path(self._text["path"]), self._said["converted"]
        if not path.exists():
            raise ConfigurationError(f"{path} is gone, which this run reads.", _FOLDER_ANEW if converted else _ANEW)
        if change := _change(path, self._text):
            raise ConfigurationError(change, _FOLDER_ANEW if converted else _ANEW)
        for file in self._said["files"] if converted and not self._noted else ():
            with suppress(OSError, ConfigurationError):  # it need not be there
                if change := _change(Path(file["path"]), file):
                    self._noted = True
                    logger.warning("%s The run goes on with its own copy: %s.", change, path)


def _change(path: Path, known: Mapping[str, Any]) -> str:
    """Return how a file differs from what it was when the run began; nothing if its content is the same."""
    now = _stamp(path)
    if now["size"] != known["size"]:
        return f"{path} was changed since this run began: it has {now['size']:,} bytes, and had {known['size']:,}."
    if now["mtime_ns"] != known["mtime_ns"] and _sha256(path) != known["sha256"]:
        return f"{path} was changed since this run began: its content is another."
    return ""


def _stamp(path: Path) -> dict[str, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
