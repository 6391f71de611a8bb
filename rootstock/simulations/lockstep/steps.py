"""The next step of many relaxations, those of their cells all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ase.units import GPa

from rootstock.client.evaluated import Evaluated
from rootstock.errors import RootstockError
from rootstock.simulations.lockstep.frechet import Cells, place
from rootstock.simulations.lockstep.live import Live
from rootstock.simulations.lockstep.relaxed import Relaxed
from rootstock.simulations.relax import Relaxation


def advance(answers: Sequence[tuple[Live, Evaluated]], relaxation: Relaxation, calculator: Any) -> list[Relaxed]:
    """Take the next step of some relaxations.

    Parameters
    ----------
    answers : sequence of (Live, Evaluated)
        Each with what was computed for its atoms as they are.
    relaxation : Relaxation
    calculator : ase.calculators.calculator.Calculator
        What computed.

    Returns
    -------
    list of Relaxed
        Those that have come to their end.
    """
    finished: list[Relaxed] = []
    going: list[Live] = []
    for live, answer in answers:
        if (relaxed := live.answered(answer)) is not None:
            finished.append(relaxed)
        else:
            going.append(live)
    if relaxation.cell != "fixed":
        going = _with_forces_on_cells(going, relaxation, finished)
    moved = []
    for live in going:
        try:
            converged = live.step()
            if converged is None:
                moved.append(live)
            else:
                finished.append(live.finished(calculator, converged=converged))
        except RootstockError as error:
            finished.append(live.failed(error, None))
    if relaxation.cell != "fixed":
        _place(moved, finished)
    return finished


def _with_forces_on_cells(going: Sequence[Live], relaxation: Relaxation, finished: list[Relaxed]) -> list[Live]:
    """Give each its coordinates and the forces on them; return those of which no constraint raised an error."""
    ready, forces, stresses = [], [], []
    for live in going:
        try:
            of_live = live.atoms.get_forces(), live.atoms.get_stress()
        except Exception as error:  # noqa: BLE001  # whatever a constraint raises: the others go on
            finished.append(live.failed(live.gave_up(error), None))
        else:
            ready.append(live)
            forces.append(of_live[0])
            stresses.append(of_live[1])
    if ready:
        cells = Cells([live.atoms for live in ready], [live.original for live in ready])
        on_all = cells.forces(forces, stresses, relaxation.pressure * GPa, shape=relaxation.cell == "full")
        for live, x, on_each in zip(ready, cells.coordinates(), on_all, strict=True):
            assert live.coordinates is not None
            live.coordinates.x, live.coordinates.forces = x, on_each
    return ready


def _place(moved: Sequence[Live], finished: list[Relaxed]) -> None:
    """Let atoms and cells follow their coordinates."""
    coordinates = [live.coordinates.x for live in moved if live.coordinates is not None]
    if moved:
        errors = place([live.atoms for live in moved], [live.original for live in moved], coordinates)
        for k, error in errors.items():
            finished.append(moved[k].failed(moved[k].gave_up(error), None))
