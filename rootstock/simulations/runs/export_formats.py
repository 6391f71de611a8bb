"""The formats in which results of a run are written: each takes one frame after the other, and keeps little."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.db import connect

from rootstock.errors import ConfigurationError
from rootstock.simulations.provenance import SOURCE, database_data, database_keys
from rootstock.simulations.runs.frames_index import read_frame

Add = Callable[[int, bytes], None]


def _atoms(index: int, data: bytes) -> Atoms:
    try:
        return read_frame(data)
    except ValueError as error:  # of a version of ASE that reads other names
        raise ConfigurationError(f"The result of structure {index} cannot be read: {error}.") from error


@contextmanager
def as_extxyz(path: Path) -> Iterator[Add]:
    """Yield what copies frames, byte for byte.

    Parameters
    ----------
    path : Path
    """
    with path.open("wb") as file:

        def add(index: int, data: bytes) -> None:  # noqa: ARG001  # the others need it
            file.write(data)

        yield add


@contextmanager
def as_database(path: Path) -> Iterator[Add]:
    """Yield what adds rows to one of ASE's databases; their data is what has no column: info, and other arrays.

    Parameters
    ----------
    path : Path
    """
    with _sqlite_errors(), connect(path, type="db", append=False) as database:

        def add(index: int, data: bytes) -> None:
            atoms = _atoms(index, data)
            database.write(atoms, key_value_pairs=database_keys(atoms), data={"index": index, **database_data(atoms)})

        yield add


@contextmanager
def _sqlite_errors() -> Iterator[None]:
    """Turn an error of sqlite, which some Pythons lack, into one of the system."""
    try:
        yield
    except Exception as error:
        if type(error).__module__ == "sqlite3":
            raise OSError(str(error)) from error
        raise


class _Column:
    """An array that grows on disk; a structure without a value has NaN."""

    def __init__(self, file: Any, kind: type, width: tuple[int, ...] = ()) -> None:
        self.file, self.kind, self.width = file, np.dtype(kind), width
        self.rows = 0
        self.given = False

    def add(self, value: Any, rows: int = 1) -> None:
        nothing = np.nan if self.kind.kind == "f" else 0
        array = np.full((rows, *self.width), nothing) if value is None else np.asarray(value, self.kind)
        self.given |= value is not None
        self.file.write(np.ascontiguousarray(array, self.kind).tobytes())
        self.rows += rows

    def write_into(self, archive: zipfile.ZipFile, name: str) -> None:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as target:
            head = {"descr": self.kind.str, "fortran_order": False, "shape": (self.rows, *self.width)}
            np.lib.format.write_array_header_1_0(target, head)
            self.file.seek(0)
            shutil.copyfileobj(self.file, target, 2**20)


@contextmanager
def as_arrays(path: Path) -> Iterator[Add]:
    """Yield what adds to the arrays of an ``.npz`` file.

    Of each structure: ``index``, ``n_atoms``, ``energy`` [eV], ``cell`` [Å], ``pbc``, ``stress`` [eV/Å³, as ASE orders
    it], ``converged`` (of relaxations). Of all atoms, one structure after the other, from ``offsets[i]`` to
    ``offsets[i + 1]``: ``numbers``, ``positions`` [Å], ``forces`` [eV/Å]. What no structure has is left out; what one
    has not is NaN.

    Parameters
    ----------
    path : Path
    """
    with ExitStack() as stack:

        def column(kind: type, *width: int) -> _Column:
            return _Column(stack.enter_context(tempfile.TemporaryFile(dir=path.parent)), kind, width)

        columns = {
            "index": column(np.int64), "n_atoms": column(np.int64), "offsets": column(np.int64),
            "energy": column(float), "cell": column(float, 3, 3), "pbc": column(bool, 3), "stress": column(float, 6),
            "converged": column(bool), "numbers": column(np.int64), "positions": column(float, 3),
            "forces": column(float, 3),
        }  # fmt: skip
        total = 0
        columns["offsets"].add(0)

        def add(index: int, data: bytes) -> None:
            nonlocal total
            atoms = _atoms(index, data)
            results = atoms.calc.results if atoms.calc is not None else {}
            count = len(atoms)
            total += count
            of_structure = {
                "index": index, "n_atoms": count, "offsets": total, "cell": atoms.cell.array, "pbc": atoms.pbc,
                "energy": results.get("energy"), "stress": results.get("stress"),
                "converged": atoms.info.get("converged"),
            }  # fmt: skip
            of_atoms = {"numbers": atoms.numbers, "positions": atoms.positions, "forces": results.get("forces")}
            for name, value in of_structure.items():
                columns[name].add(value)
            for name, value in of_atoms.items():
                columns[name].add(value, count)

        yield add
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, each in columns.items():
                if each.given:
                    each.write_into(archive, name)


_OF_ROWS = ("index", "source", "formula", "natoms", "energy", "energy_per_atom", "max_force", "converged")


def _row(index: int, atoms: Atoms) -> dict[str, Any]:
    """Return what a table says of a structure: its results, and simple entries of its info."""
    results: Mapping[str, Any] = atoms.calc.results if atoms.calc is not None else {}
    row: dict[str, Any] = {
        "index": index, "source": atoms.info.get(SOURCE), "formula": atoms.get_chemical_formula(), "natoms": len(atoms)
    }  # fmt: skip
    if (energy := results.get("energy")) is not None:
        row |= {"energy": float(energy), "energy_per_atom": float(energy) / len(atoms)}
    if (forces := results.get("forces")) is not None:
        row["max_force"] = float(np.linalg.norm(forces, axis=1).max())
    if "converged" in atoms.info:
        row["converged"] = bool(atoms.info["converged"])
    for name, value in atoms.info.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if name not in (SOURCE, "converged") and isinstance(plain, str | int | float | bool):
            # An entry of somebody's by the name of a column is one of its own.
            row[f"info_{name}" if name in _OF_ROWS else name] = plain
    return row


@contextmanager
def as_table(path: Path) -> Iterator[Add]:
    """Yield what adds rows to a table: energies in eV, the largest force in eV/Å, and simple entries of info.

    Parameters
    ----------
    path : Path
    """
    names = dict.fromkeys(_OF_ROWS)  # which are all known at the end only, so that the rows are written twice
    with tempfile.TemporaryFile(dir=path.parent) as rows:

        def add(index: int, data: bytes) -> None:
            row = _row(index, _atoms(index, data))
            names.update(dict.fromkeys(row))
            rows.write(json.dumps(row).encode() + b"\n")

        yield add
        rows.seek(0)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(names), lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(json.loads, rows))


FORMATS: Mapping[str, Callable[[Path], AbstractContextManager[Add]]] = {
    ".extxyz": as_extxyz, ".xyz": as_extxyz, ".db": as_database, ".npz": as_arrays, ".csv": as_table,
}  # fmt: skip
