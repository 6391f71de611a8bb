"""Molecular dynamics whose steps are timed, on a calculator in this process.

`rootstock.reports.overhead` runs the same `Dynamics` twice: on a `RootstockCalculator`, and by `serve` in the
environment of the model, on the model's own calculator. What differs between the two is Rootstock.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from rootstock.worker.environment_file import call_setup, load_setup


class Dynamics:
    """Molecular dynamics at constant energy (velocity Verlet).

    Parameters
    ----------
    atoms : ase.Atoms
        With a calculator, and momenta.
    timestep : float
        In fs.
    """

    def __init__(self, atoms: Atoms, timestep: float) -> None:
        self._atoms = atoms
        self._md = VelocityVerlet(atoms, timestep * units.fs)

    def run(self, steps: int) -> float:
        """Do some steps; return the seconds that each took."""
        started = time.perf_counter()
        self._md.run(steps)
        return (time.perf_counter() - started) / steps

    def energy(self) -> float:
        """Return the potential energy in eV."""
        return float(self._atoms.get_potential_energy())


def as_arguments(atoms: Atoms) -> dict[str, Any]:
    """Return the arguments of `ase.Atoms` that make these atoms, exactly, for JSON."""
    names = {"numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array, "pbc": atoms.pbc}
    return {name: array.tolist() for name, array in names.items()} | {"momenta": atoms.get_momenta().tolist()}


def serve(environment_file: str, model: str, device: str) -> None:
    """Answer the lines of standard input: a structure first, then numbers of steps. One JSON object each.

    Parameters
    ----------
    environment_file : str
        Path of the environment file whose model computes.
    model, device : str
        Arguments of its ``setup()``.
    """
    # Model libraries print while they load: what they say goes where errors go, the answers to the pipe.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    lines = iter(sys.stdin.readline, "")
    request: Mapping[str, Any] = json.loads(next(lines))
    atoms = Atoms(**request["structure"])
    atoms.calc = call_setup(load_setup(environment_file), model, device, {})
    dynamics = Dynamics(atoms, request["timestep"])
    answer(energy=dynamics.energy())
    for line in lines:
        answer(step_s=dynamics.run(json.loads(line)["steps"]), energy=dynamics.energy())
