"""Files of atoms, in any format of ASE: read whole or not at all; and whether one could be written."""

from __future__ import annotations

import itertools
import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import ase
from ase import Atoms
from ase.io import iread, read
from ase.io.formats import (  # type: ignore[attr-defined]  # reexported
    UnknownFileTypeError,
    filetype,
    ioformats,
    string2index,
)

from rootstock.errors import ConfigurationError
from rootstock.simulations.contents import check_atoms
from rootstock.simulations.output import beside, check_writable
from rootstock.simulations.provenance import SOURCE

# ASE looks at the whole name first: for it, POSCAR-relaxed.extxyz is one of VASP's.
_BY_ENDING = {".extxyz": "extxyz", ".xyz": "extxyz", ".traj": "traj", ".cif": "cif"}
_GROWING = ("extxyz", "traj")
DATABASES = ("db", "json")
_QUERIED = (*DATABASES, "postgresql", "mysql")  # ASE takes what stands behind @ for a query
_WITH_RESULTS = (*_GROWING, *DATABASES)  # ASE reads every result from them; other formats lose some or all


def read_structures(names: Sequence[str], format: str | None = None) -> list[Atoms]:  # noqa: A002  # as in ASE
    """Return all structures of some files; the info of each says which frame of which file it is.

    Parameters
    ----------
    names : sequence of str
        Paths; ``PATH@INDEX`` picks from a file of many, as everywhere in ASE: ``run.xyz@-1``, ``run.traj@::10``.
    format : str, optional
        ASE's name of the format of all files. By default it is recognised by the name and content of each.

    Raises
    ------
    ConfigurationError
        If one cannot be read, or holds nothing, or ASE cannot read such a format.
    """
    if format is not None and (format not in ioformats or not ioformats[format].can_read):
        raise ConfigurationError(
            f"ASE {ase.__version__} reads no format named {format!r}.", "List all formats with: ase info --formats"
        )
    structures = [atoms for name in names for atoms in iter_structures(name, format)]
    for atoms in structures:
        check_atoms(atoms)
    return structures


def iter_structures(name: str, format: str | None = None) -> Iterator[Atoms]:  # noqa: A002  # as in ASE
    """Yield what one file holds, one structure at a time where ASE can do that; `check_atoms` is not asked.

    Parameters
    ----------
    name, format
        As for `read_structures`.

    Raises
    ------
    ConfigurationError
        As `read_structures` does.
    """
    check_there(name)
    path = structure_file(name)
    found = _read(path, selection_of(name), format)
    for number in itertools.count():
        try:
            atoms = next(found, None)
        except ConfigurationError:
            raise
        except Exception as error:  # every format has errors of its own
            raise _unreadable(name, path, format, error) from error
        if atoms is None:
            if not number:
                raise ConfigurationError(f"{name} holds no atoms.")
            return
        yield atoms


def check_there(name: str) -> None:
    """Refuse a file of structures that is not there.

    Parameters
    ----------
    name : str
        As for `read_structures`.

    Raises
    ------
    ConfigurationError
        With the file that may have been meant.
    """
    path = structure_file(name)
    if os.path.exists(name) or os.path.isfile(path):
        return
    before, _, index = name.rpartition(":")
    if os.path.isfile(before):
        hint = f"A frame is picked with @, as in ASE: {before}@{index}"
    else:
        close: list[str] = []
        with suppress(OSError, ValueError):  # its folder cannot be read
            close = get_close_matches(path.name, os.listdir(path.parent), n=1, cutoff=0.7)
        meant = f" Did you mean {path.parent / close[0]}?" if close else ""
        hint = f"The current folder is {os.getcwd()}.{meant}"
    raise ConfigurationError(f"There is no file {name}.", hint)


def _read(path: Path, index: str, kind: str | None) -> Iterator[Atoms]:
    """Yield the structures that an index picks from a file, with notes of their frames."""
    chosen: Any = string2index(index)
    frames: Iterable[Any] = [chosen]  # the number of one; the words of a query of a database
    if isinstance(chosen, str) and (kind or filetype(os.fspath(path))) not in _QUERIED:
        raise ConfigurationError(
            f"{path}@{index}: {index!r} is neither the number of a frame nor a range of them.",
            f"For example: {path}@-1, the last one, or {path}@::10, every tenth.",
        )
    pick = chosen
    if isinstance(chosen, slice):
        frames = itertools.count(chosen.start or 0, chosen.step or 1)
        if (chosen.start or 0) < 0 or (chosen.step or 1) < 0:  # counted from an end that has to be seen first
            pick = slice(None)
    given: Any = {"index": pick, "do_not_split_by_at_sign": True, "format": kind or _reading(path)}
    images: Any = iread(path, **given) if isinstance(pick, slice) and pick is chosen else read(path, **given)
    if isinstance(images, Atoms):
        images = [images]
    if pick is not chosen:
        images, frames = images[chosen], range(len(images))[chosen]
    for atoms, number in zip(images, itertools.cycle(frames) if isinstance(pick, str) else frames, strict=False):
        atoms.info[SOURCE] = f"{path}@{number}"
        yield atoms


def structure_file(name: str) -> Path:
    """Return the file of a structure that may be picked from many.

    >>> structure_file("run.traj@-1")
    PosixPath('run.traj')
    """
    return Path(name if os.path.exists(name) else name.rpartition("@")[0] or name)


def selection_of(name: str) -> str:
    """Return what picks structures from a file, in ASE's words.

    >>> selection_of("run.traj@-1"), selection_of("run.traj")
    ('-1', ':')
    """
    return ":" if os.path.exists(name) or "@" not in name else name.rpartition("@")[2]


def format_of(path: Path, kind: str | None = None) -> str:
    """Return ASE's name of the format of a file that is to be read.

    Parameters
    ----------
    path : Path
    kind : str, optional
        The format, where somebody named it.

    Raises
    ------
    ConfigurationError
        If ASE does not recognise it.
    """
    try:
        return kind or _reading(path) or str(filetype(os.fspath(path)))
    except Exception as error:  # every format has errors of its own
        raise _unreadable(os.fspath(path), path, kind, error) from error


def results_stem(name: str) -> str:
    """Return how the names of results begin: as the structure's file, so that ASE takes them for extended XYZ.

    >>> results_stem("a/slab.cif@0"), results_stem("POSCAR")  # POSCAR-results.extxyz would be one of VASP's
    ('slab', 'poscar')
    """
    return _for_ase(f"{structure_file(name).stem}-.extxyz").removesuffix("-.extxyz")


def _for_ase(name: str) -> str:
    with suppress(Exception):  # see `output_format`
        return name if filetype(name, read=False) == "extxyz" else name.lower()
    return name


def _reading(path: Path) -> str | None:
    """Return the format of a file that is there, where its ending tells more than the rest of its name."""
    return _BY_ENDING.get(path.suffix) if path.suffix in (".extxyz", ".traj") else None


def _unreadable(name: str, path: Path, kind: str | None, error: Exception) -> ConfigurationError:
    """Return the error of a file that could not be read."""
    formats = "`ase info --formats` lists all formats"
    if path.is_file() and not path.stat().st_size:
        return ConfigurationError(f"Cannot read {name}: the file is empty.")
    if path.is_dir():
        return ConfigurationError(f"Cannot read {name}: it is a folder.", f"Name files in it, such as {path}/*.xyz.")
    if isinstance(error, UnknownFileTypeError):
        return ConfigurationError(
            f"Cannot read {name}: ASE does not recognise its format.", f"Name it with --format; {formats}."
        )
    if isinstance(error, OSError) and error.strerror:
        return ConfigurationError(f"Cannot read {name}: {error.strerror}.")
    kind = kind or _reading(path)
    with suppress(Exception):
        kind = kind or str(filetype(os.fspath(path)))
    reader = f"{name} as {kind or 'a file of structures'}"
    if isinstance(error, ImportError):
        return ConfigurationError(
            f"Cannot read {reader}: ASE needs the Python package {error.name} for it.",
            "Convert the file to .extxyz or .traj where that package is installed.",
        )
    if name != os.fspath(path) and isinstance(error.__cause__ or error, IndexError | StopIteration):
        return ConfigurationError(f"Cannot read {reader}: it has no such frame.", "Count from 0; @-1 is the last one.")
    reason = textwrap.shorten(f"{type(error).__name__}: {error}".removesuffix(": "), 200)
    return ConfigurationError(
        f"Cannot read {reader}: its content is not as that format needs it ({reason}).",
        f"Look whether the file is complete. If it is in another format, name that with --format; {formats}.",
    )


def output_format(path: Path) -> str:
    """Return ASE's name of the format of a file that is to be written.

    Raises
    ------
    ConfigurationError
        If the name of the file means no format.
    """
    try:
        name = _BY_ENDING.get(path.suffix) or str(filetype(os.fspath(path), read=False))
        return str(ioformats[name].name)
    except Exception as error:  # ASE has an error of its own for this, and others for odd names
        raise ConfigurationError(
            f"ASE knows no format by the name of {path}.", "Use .extxyz, .traj, .cif ..."
        ) from error


def check_output(path: Path, *, overwrite: bool, many: bool = False, grows: bool = False) -> None:
    """Refuse, before anything is computed, what could not be written afterwards.

    Parameters
    ----------
    path : Path
    overwrite : bool
        Whether a file that is there may be replaced.
    many : bool
        Whether more than one structure is to go into it.
    grows : bool
        Whether structures are to be added one after the other.

    Raises
    ------
    ConfigurationError
        If ASE knows no such format or cannot write it, the folder is missing or cannot be written, or the file exists.
    """
    kind = ioformats[output_format(path)]
    if kind.name in DATABASES and path.suffix != f".{kind.name}":
        raise ConfigurationError(f"{path}: ASE does not compress databases.", f"Use .{kind.name}.")
    folder = kind.name == "bundletrajectory"  # which cannot take the place of another one in one step
    if folder or not kind.can_write or (many and kind.single) or (grows and kind.name not in _GROWING):
        need = "grow" if grows else "hold several structures" if many else "be written"
        raise ConfigurationError(f"{path}: files of format {kind.name} cannot {need}.", "Use .extxyz or .traj.")
    check_writable(path)
    if path.exists() and not overwrite:
        raise ConfigurationError(f"{path} exists.", "Name another file, or replace it with --overwrite.")


def results_file(path: Path) -> Path:
    """Return the file for results of structures that go into another one: that one, if its format keeps them.

    >>> results_file(Path("relaxed.traj")), results_file(Path("relaxed.cif"))
    (PosixPath('relaxed.traj'), PosixPath('relaxed.results.extxyz'))
    """
    if output_format(path) in _WITH_RESULTS:
        return path
    return path.with_name(_for_ase(beside(path, ".results.extxyz").name))
