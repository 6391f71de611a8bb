"""Files of atoms, in any format of ASE: read whole or not at all, written whole or not at all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ase
from ase import Atoms
from ase.db import connect
from ase.io import Trajectory, read, write
from ase.io.formats import filetype, ioformats, string2index  # type: ignore[attr-defined]  # reexported

from rootstock.errors import ConfigurationError
from rootstock.simulations.extxyz import frame, write_extxyz
from rootstock.simulations.provenance import SOURCE, database_keys

# ASE looks at the whole name first: for it, POSCAR-relaxed.extxyz is one of VASP's.
_BY_ENDING = {".extxyz": "extxyz", ".xyz": "extxyz", ".traj": "traj", ".cif": "cif"}
_GROWING = ("extxyz", "traj")
_DATABASES = ("db", "json")
_WITH_RESULTS = (*_GROWING, *_DATABASES)  # ASE reads every result from them; other formats lose some or all
_OTHER = "Use .extxyz or .traj, which hold everything."


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
        whole = Path(name).exists()
        path = structure_file(name)
        if not whole and not path.is_file():
            raise ConfigurationError(f"There is no file {name}.")
        try:
            images = list(_read(path, ":" if whole else name.rpartition("@")[2], format))
        except Exception as error:  # every format has errors of its own
            raise ConfigurationError(f"Cannot read {name}: {type(error).__name__}: {error}.") from error
        if not any(len(atoms) for atoms in images):
            raise ConfigurationError(f"{name} holds no atoms.")
        if any(_partly_occupied(atoms) for atoms in images):
            raise ConfigurationError(
                f"{name} has sites that are occupied in part: no single structure is meant.",
                "Make one of it first, or an ensemble of them.",
            )
        structures += images
    return structures


def _read(path: Path, index: str, kind: str | None) -> Iterator[Atoms]:
    """Yield the structures that an index picks from a file, with notes of their frames."""
    chosen: Any = string2index(index)
    frames: Iterable[Any] = [chosen]  # the number of one; the words of a query of a database
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
    return Path(name if Path(name).exists() else name.rpartition("@")[0] or name)


def _reading(path: Path) -> str | None:
    """Return the format of a file that is there, where its ending tells more than the rest of its name."""
    return _BY_ENDING.get(path.suffix) if path.suffix in (".extxyz", ".traj") else None


def _partly_occupied(atoms: Atoms) -> bool:
    sites = atoms.info.get("occupancy", {})  # as ASE keeps it, from CIF files
    return any(share < 1 - 1e-6 for site in sites.values() for share in site.values())


def _format(path: Path) -> str:
    """Return ASE's name of the format of a file that is to be written."""
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
    kind = ioformats[_format(path)]
    if kind.name in _DATABASES and path.suffix != f".{kind.name}":
        raise ConfigurationError(f"{path}: ASE does not compress databases.", f"Use .{kind.name}.")
    folder = kind.name == "bundletrajectory"  # which cannot take the place of another one in one step
    if folder or not kind.can_write or (many and kind.single) or (grows and kind.name not in _GROWING):
        need = "grow" if grows else "hold several structures" if many else "be written"
        raise ConfigurationError(f"{path}: files of format {kind.name} cannot {need}.", "Use .extxyz or .traj.")
    if path.exists() and not overwrite:
        raise ConfigurationError(f"{path} exists.", "Name another file, or replace it with --overwrite.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigurationError(f"Cannot write into {path.parent.absolute()}.")


def results_file(path: Path) -> Path:
    """Return the file for results of structures that go into another one: that one, if its format keeps them.

    >>> results_file(Path("relaxed.traj")), results_file(Path("relaxed.cif"))
    (PosixPath('relaxed.traj'), PosixPath('relaxed.results.extxyz'))
    """
    return path if _format(path) in _WITH_RESULTS else path.with_name(f"{path.stem}.results.extxyz")


def write_structures(path: Path, images: Sequence[Atoms]) -> None:
    """Write a file in one step: a reader sees the old one or the new one.

    Parameters
    ----------
    path : Path
        Its ending says which format.
    images : sequence of ase.Atoms

    Raises
    ------
    ConfigurationError
        If it cannot be written; nothing is changed then.
    """
    fresh = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        if _format(path) == "extxyz":
            write_extxyz(fresh, images)
        elif _format(path) in _DATABASES:
            with connect(fresh, type=_format(path)) as database:
                for atoms in images:
                    database.write(atoms, key_value_pairs=database_keys(atoms))
        else:
            write(fresh, list(images) if len(images) > 1 else images[0], format=_format(path))
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except ConfigurationError:
        raise
    except OSError as error:
        raise ConfigurationError(f"Cannot write {path}: {error.strerror or error}.") from error
    except Exception as error:  # every format has errors of its own
        raise ConfigurationError(f"Cannot write {path}: {type(error).__name__}: {error}.", _OTHER) from error
    finally:
        fresh.unlink(missing_ok=True)


def add_structure(path: Path, atoms: Atoms) -> None:
    """Add a structure to the end of a file, which may not be there yet.

    Parameters
    ----------
    path : Path
        Of a format that can grow, as `check_output` says.
    atoms : ase.Atoms
    """
    if _format(path) == "traj":
        with Trajectory(path, "a", atoms) as trajectory:
            trajectory.write()
    else:
        write_extxyz(path, [atoms], append=True)


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
    if _format(path) == "extxyz":
        if "born_effective_charges" in properties:
            raise ConfigurationError(f"{path} cannot hold born_effective_charges, in extended XYZ.", "Use .traj.")
        for atoms in images:
            frame(atoms.copy())  # without results of before
