"""Files of atoms, in any format of ASE: read whole or not at all, and checked before they are written."""

from __future__ import annotations

import itertools
import math
import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import ase
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.io import read
from ase.io.formats import (  # type: ignore[attr-defined]  # reexported
    UnknownFileTypeError,
    filetype,
    ioformats,
    string2index,
)

from rootstock.errors import ConfigurationError
from rootstock.simulations.extxyz import frame
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
    structures: list[Atoms] = []
    for name in names:
        check_there(name)
        whole, path = os.path.exists(name), structure_file(name)
        try:
            images = list(_read(path, ":" if whole else name.rpartition("@")[2], format))
        except ConfigurationError:
            raise
        except Exception as error:  # every format has errors of its own
            raise _unreadable(name, path, format, error) from error
        if not images:
            raise ConfigurationError(f"{name} holds no atoms.")
        for atoms in images:
            if not len(atoms):
                raise ConfigurationError(f"{atoms.info[SOURCE]} holds no atoms.")
            if not ((atoms.numbers >= 0) & (atoms.numbers < len(chemical_symbols))).all():
                raise ConfigurationError(f"{atoms.info[SOURCE]} holds atomic numbers that no element has.")
            _check_occupancy(atoms)
        structures += images
    return structures


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
    found: Any = read(path, index=pick, do_not_split_by_at_sign=True, format=kind or _reading(path))
    images = [found] if isinstance(found, Atoms) else found
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


def _check_occupancy(atoms: Atoms) -> None:
    """Refuse a structure of sites that are shared or empty in part, as ASE reads them from CIF files."""
    table = atoms.info.get("occupancy")
    if not isinstance(table, dict) or not all(_is_site(key, site) for key, site in table.items()):
        return  # an entry of somebody else's
    for site in table.values():
        shares = [_share(value) for value in site.values()]
        if any(map(math.isnan, shares)):
            raise ConfigurationError(
                f"{atoms.info[SOURCE]} does not say how much of each site is occupied: {site}.",
                "If all sites are full, write 1.0 for each occupancy in the file.",
            )
        if len(shares) > 1 or shares[0] < 1 - 1e-6:
            raise ConfigurationError(
                f"{atoms.info[SOURCE]} has sites that are occupied in part: it is not one structure.",
                "Make an ordered structure of it first.",
            )


def _is_site(key: Any, site: Any) -> bool:
    return str(key).isdigit() and isinstance(site, dict) and bool(site) and all(name in atomic_numbers for name in site)


def _share(value: Any) -> float:
    """Return how much of a site an element occupies; NaN if the file does not say so."""
    try:
        return 1.0 if value == "." else float(value)  # in a CIF file, a dot stands for the default
    except (TypeError, ValueError, OverflowError):
        return math.nan


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


def check_structures(path: Path, images: Sequence[Atoms], properties: Sequence[str] = ()) -> None:
    """Refuse, before anything is computed, what a file cannot hold.

    Parameters
    ----------
    path : Path
        The file that structures and their results are to be written to.
    images : sequence of ase.Atoms
    properties : sequence of str
        What is to be computed.

    Raises
    ------
    ConfigurationError
        If the file is in extended XYZ, which has no words for it.
    """
    if output_format(path) == "extxyz":
        if "born_effective_charges" in properties:
            raise ConfigurationError(f"{path} cannot hold born_effective_charges, in extended XYZ.", "Use .traj.")
        for atoms in images:
            frame(atoms.copy())  # without results of before
