"""Relaxations that go on together, for `scale.py`: what they cost the client, and how busy they keep the workers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import ase.optimize
import numpy as np
from ase import Atoms

from rootstock import Relaxation, RootstockCalculator, relax_many
from rootstock.simulations.lockstep.live import OPTIMIZERS, Coordinates

CELLS = ("fixed", "full")
STRICT = 1e-12  # eV/Å: all take every step
START_S = 1200.0  # for which drivers wait for the first pass of the others


class Springs:
    """Forces and stress that cost nothing: the time they take is not counted."""

    name, parameters = "springs", {}
    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, images: Sequence[Atoms]) -> None:
        self._rest = {len(atoms): (atoms.positions + 0.1, atoms.cell.array.copy()) for atoms in images}
        self.seconds = 0.0

    def get_property(self, name: str, atoms: Atoms) -> Any:
        begun = time.process_time()
        positions, cell = self._rest[len(atoms)]
        away = atoms.positions - positions
        stiff = np.linspace(0.5, 5, away.size).reshape(away.shape)
        strain = 0.5 * (np.linalg.solve(cell, atoms.cell.array) - 1.01 * np.eye(3))
        found = {"energy": 0.5 * float((stiff * away * away).sum()), "forces": -stiff * away,
                 "stress": (strain + strain.T)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]}[name]  # fmt: skip
        self.seconds += time.process_time() - begun
        return found


def of_ase(optimizer: str, atoms: Atoms, springs: Springs, steps: int) -> float:
    """Return the seconds that ASE's optimizer takes for so many steps, with the rows of a cell if there is one."""
    moving = Coordinates(len(atoms) - 3)
    moving.x = atoms.positions.copy()
    begun = time.process_time() - springs.seconds
    taken = getattr(ase.optimize, optimizer)(moving, logfile=None)
    for _ in range(steps):
        moving.forces = springs.get_property("forces", Atoms(positions=moving.x, cell=atoms.cell))
        taken.step()
    return time.process_time() - springs.seconds - begun


def lockstep(root: Path, model: str, images: Sequence[Atoms], steps: int = 20) -> list[dict[str, Any]]:
    """Return what a structure's step costs the client, by optimizer and what is relaxed of the cell."""
    rows, count = [], len(images)
    with RootstockCalculator(model=model, root=root, device="cpu", threads=1) as calc:
        for optimizer, cell in itertools.product(OPTIMIZERS, CELLS):
            relaxation = Relaxation(optimizer, fmax=STRICT, steps=steps, cell=cell)
            springs = Springs(images)
            begun = time.process_time()
            done = relax_many(images, springs, relaxation)
            row = {"steps": (time.process_time() - begun - springs.seconds) / sum(each.steps for each in done)}
            of_cell = np.empty((0, 3)) if cell == "fixed" else np.eye(3)
            longer = [Atoms(positions=np.vstack([atoms.positions, of_cell]), cell=np.eye(3)) for atoms in images]
            springs = Springs(longer)
            row["ase"] = sum(of_ase(optimizer, atoms, springs, steps) for atoms in longer) / count / steps
            begun = time.process_time()
            done = relax_many(images, calc, relaxation)
            row["client"] = (time.process_time() - begun) / sum(each.steps for each in done)
            told = {what: round(1e6 * seconds) for what, seconds in row.items()}
            rows.append({"optimizer": optimizer, "cell": cell, "structures": count, **told})
    return rows


def busy(
    root: Path, model: str, device: str, images: Sequence[Atoms], drivers: int, cell: str, steps: int = 20
) -> dict[str, Any]:  # fmt: skip
    """Return for which part of the time workers compute, by what they say themselves, and how fast all of them are."""
    spawn, relaxation = get_context("spawn"), Relaxation(fmax=STRICT, steps=steps, cell=cell)
    with spawn.Manager() as manager, ProcessPoolExecutor(drivers, mp_context=spawn) as pool:
        ready = manager.Barrier(drivers, timeout=START_S)
        asked = [
            pool.submit(_drive, root, model, device, images[k::drivers], relaxation, ready) for k in range(drivers)
        ]
        errors = [error for each in asked if (error := each.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
            raise error  # the others have only waited for the one that failed
        found = [each.result() for each in asked]
    whole = max(end for _, end, _, _ in found) - min(begin for begin, *_ in found)
    return {
        "device": device, "structures": len(images), "cell": cell, "drivers": drivers,
        "busy": sum(worked for *_, worked, _ in found) / drivers / whole,
        "structure-steps/s": sum(taken for *_, taken in found) / whole,
    }  # fmt: skip


def _drive(
    root: Path, model: str, device: str, images: Sequence[Atoms], relaxation: Relaxation, ready: Any
) -> tuple[float, float, float, int]:  # fmt: skip
    """Relax once, so that compilers and sizes of batches are warm; then together with the others."""
    with RootstockCalculator(model=model, root=root, device=device, threads=1) as calc:
        try:
            relax_many(images, calc, relaxation)
            before = calc.info()["batches"]["seconds"]
        except BaseException:
            ready.abort()
            raise
        ready.wait()
        begin = time.monotonic()
        done = relax_many(images, calc, relaxation)
        end = time.monotonic()
        return begin, end, calc.info()["batches"]["seconds"] - before, sum(each.steps for each in done)
