"""Files of atoms, in any format of ASE: read whole or not at all, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import Trajectory, read, write
from ase.io.formats import filetype, ioformats

from rootstock.errors import ConfigurationError
from rootstock.simulations.extxyz import frame, write_extxyz

# ASE looks at the whole name first: for it, POSCAR-relaxed.extxyz is one of VASP's.
_BY_ENDING = {".extxyz": "extxyz", ".xyz": "extxyz", ".traj": "traj", ".cif": "cif"}
_GROWING = ("extxyz", "traj")
_OTHER = "Use .extxyz or .traj, which hold everything."


def read_structures(names: Sequence[str]) -> list[Atoms]:
    """Return all structures of some files.

    Parameters
    ----------
    names : sequence of str
        Paths; ``PATH@INDEX`` picks from a file of many, as everywhere in ASE: ``run.xyz@-1``, ``run.traj@::10``.

    Raises
    ------
    ConfigurationError
        If one cannot be read, or holds nothing.
    """
    structures: list[Atoms] = []
    for name in names:
        whole = Path(name).exists()
        path = structure_file(name)
        if not whole and not path.is_file():
            raise ConfigurationError(f"There is no file {name}.")
        try:
            images: Any = read(name, index=":" if whole else None, do_not_split_by_at_sign=whole, format=_reading(path))
        except Exception as error:  # every format has errors of its own
            raise ConfigurationError(f"Cannot read {name}: {type(error).__name__}: {error}.") from error
        images = [images] if isinstance(images, Atoms) else images
        if not any(len(atoms) for atoms in images):
            raise ConfigurationError(f"{name} holds no atoms.")
        if any(_partly_occupied(atoms) for atoms in images):
            raise ConfigurationError(
                f"{name} has sites that are occupied in part: no single structure is meant.",
                "Make one of it first, or an ensemble of them.",
            )
        structures += images
    return structures


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
    return _BY_ENDING.get(path.suffix) or str(filetype(os.fspath(path), read=False))


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
        If ASE cannot write such a file, the folder is missing or cannot be written, or the file exists.
    """
    try:
        kind = ioformats[_format(path)]
    except Exception as error:  # ASE has an error of its own for this, and others for odd names
        raise ConfigurationError(
            f"ASE knows no format by the name of {path}.", "Use .extxyz, .traj, .cif ..."
        ) from error
    if not kind.can_write or (many and kind.single) or (grows and kind.name not in _GROWING):
        need = "grow" if grows else "hold several structures" if many else "be written"
        raise ConfigurationError(f"{path}: files of format {kind.name} cannot {need}.", "Use .extxyz or .traj.")
    if path.exists() and not overwrite:
        raise ConfigurationError(f"{path} exists.", "Name another file, or replace it with --overwrite.")
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(f"Cannot write into {folder.absolute()}.")


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


def check_structures(path: Path, images: Sequence[Atoms]) -> None:
    """Refuse, before anything is computed, structures that a file cannot hold.

    Parameters
    ----------
    path : Path
        The file that they and their results are to be written to.
    images : sequence of ase.Atoms

    Raises
    ------
    ConfigurationError
        If it is in extended XYZ, and that has no words for something in a structure.
    """
    if _format(path) == "extxyz":
        for atoms in images:
            frame(atoms.copy())  # without results of before
