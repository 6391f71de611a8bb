"""Restart files of simulations: everything that the next step depends on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase import Atoms
from ase.io.jsonio import decode, encode

from rootstock.errors import ConfigurationError, RootstockError
from rootstock.root.record_files import parse_record
from rootstock.simulations.output import naming, replacing

_FORMAT = 1
_ANOTHER = (
    "Begin another simulation with --file-prefix. It can begin with a frame of this one, such as "
    "'PREFIX-traj.extxyz@-1', which has its velocities, too."
)


@dataclass(frozen=True, kw_only=True)
class Restart:
    """What a restart file holds; ASE's JSON can hold it.

    Attributes
    ----------
    settings : dict
        Of the simulation, and what its calculator computes.
    step : int
    start : str
        The `fingerprint` of the structure that it began with; empty in older files.
    atoms : dict
        As `ase.Atoms.todict` returns them.
    random : str
        The state of the generator of random numbers, as JSON.
    integrator : dict
        As `integrator_state` returns it.
    sizes : dict of str to int
        How many bytes the other files have.
    """

    settings: dict[str, Any]
    step: int
    start: str = ""
    atoms: dict[str, Any]
    random: str
    integrator: dict[str, Any]
    sizes: dict[str, int]


def write_restart(path: Path, restart: Restart) -> None:
    """Write a restart file in one step: a reader sees the old one or the new one.

    Parameters
    ----------
    path, restart

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    text = encode({"format": _FORMAT, "ase": ase.__version__, **vars(restart)})
    with replacing(path) as fresh:
        fresh.write_text(text)


def read_restart(path: Path) -> Restart:
    """Read a restart file.

    Raises
    ------
    ConfigurationError
        If it cannot be read, or is none of this version of Rootstock.
    """
    with reading_restart(path):
        data = decode(path.read_text())
        restart = parse_record(Restart, data) if isinstance(data, dict) and data.get("format") == _FORMAT else None
    if restart is None:
        raise ConfigurationError(f"{path} is no restart file of this version of Rootstock.", _ANOTHER)
    return restart


@contextmanager
def reading_restart(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a damaged restart file into one error.

    Raises
    ------
    ConfigurationError
        It names the file, and says how to go on.
    """
    try:
        yield
    except RootstockError:
        raise
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error
    except Exception as error:  # ASE checks nothing of what it makes objects from
        raise ConfigurationError(f"{path} is no restart file: {error or type(error).__name__}.", _ANOTHER) from error


def cut_back(restart: Path, sizes: Mapping[Path, int]) -> None:
    """Cut off what was written to other files after a restart file.

    Parameters
    ----------
    restart : Path
        The restart file, for messages.
    sizes : Mapping[Path, int]
        How many bytes each had when the restart file was written.

    Raises
    ------
    ConfigurationError
        If a file is missing or shorter.
    """
    for path, size in sizes.items():
        if not path.exists() or path.stat().st_size < size:
            raise ConfigurationError(
                f"{path} is shorter than {restart} says: something is missing.",
                f"If you have moved it, put it back. {_ANOTHER}",
            )
        with naming(path):
            os.truncate(path, size)


def fingerprint(atoms: Atoms) -> str:
    """Return what tells the structure that a simulation begins with from others."""
    parts = (atoms.numbers.astype("i8"), atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_momenta())
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def identity(calculator: Any) -> dict[str, Any]:
    """Return what must be the same when a simulation goes on, as it is read again."""
    return dict(decode(encode({name: calculator.parameters.get(name) for name in ("model", "setup_kwargs")})))


def integrator_state(integrator: Any) -> dict[str, Any]:
    """Return every number that an integrator keeps."""
    kinds = (bool, int, float, np.floating, np.ndarray)
    return {
        f"{part}.{name}": float(value) if isinstance(value, np.floating) else value
        for part, owner in _parts(integrator)
        for name, value in vars(owner).items()
        if isinstance(value, kinds) and name not in ("max_steps", "nsteps")
    }


def restore_integrator(integrator: Any, state: dict[str, Any]) -> None:
    """Give an integrator the numbers that another one kept.

    Parameters
    ----------
    integrator : ase.md.md.MolecularDynamics
    state : dict
        As `integrator_state` returned it.

    Raises
    ------
    ConfigurationError
        If it keeps other numbers.
    """
    if integrator_state(integrator).keys() - state.keys():  # there may be more, which each step computes anew
        raise ConfigurationError(
            "The restart file is of another version of ASE, whose integrator kept other numbers.", _ANOTHER
        )
    for part, owner in _parts(integrator):
        for name in [name for name in vars(owner) if f"{part}.{name}" in state]:
            setattr(owner, name, state[f"{part}.{name}"])


def _parts(integrator: Any) -> list[tuple[str, Any]]:
    """Return what has numbers of its own: the integrator, thermostat and barostat."""
    inner = [(name, getattr(integrator, name, None)) for name in ("_thermostat", "_barostat")]
    return [("", integrator), *((name, part) for name, part in inner if part is not None)]
