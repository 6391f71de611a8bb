"""Structures that models are tried with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms


def rock_salt(elements: Sequence[str] = ("Na", "Cl")) -> Atoms:
    """Return eight atoms that are not quite in their places."""
    first, second = elements
    corners = [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1], [0, 1, 0]]
    atoms = Atoms(
        [first] * 4 + [second] * 4, cell=[5.64] * 3, pbc=True, scaled_positions=np.array(corners) / 2
    )  # fmt: skip
    atoms.rattle(0.1, seed=7)
    return atoms


def water() -> Atoms:
    """Return two molecules in a periodic box, for models of molecules and for methods that are self-consistent."""
    positions = [
        [0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48], [2.8, 0.3, 1.6], [3.6, 0.7, 1.3], [2.5, -0.4, 1.0],
    ]  # fmt: skip
    return Atoms("OH2OH2", positions, cell=[6.0, 5.6, 5.2], pbc=True)


def ionic_water() -> Atoms:
    """Return the same two molecules with the charge and the spin that a model asks for."""
    atoms = water()
    atoms.info.update(charge=0, spin=1)
    return atoms


def simulation(start: Atoms, molecule: int = 0) -> list[Atoms]:
    """Return structures that differ from the one before in every way that a worker is told of.

    Of molecules, of so many atoms each, a whole one goes, and atoms change their order rather than their elements.
    """
    moved = start.copy()
    moved.rattle(0.05, seed=1)
    strained = moved.copy()
    strained.set_cell(strained.cell.array * [1.02, 0.99, 1.0] + [[0, 0.1, 0], [0, 0, 0], [0, 0, 0]], scale_atoms=True)
    swapped = strained[::-1] if molecule else strained.copy()
    if not molecule:
        swapped.numbers = swapped.numbers[::-1]
    grown = start.repeat((2, 1, 1))
    grown.rattle(0.05, seed=2)
    vacancy = start[molecule or 1 :]
    return [start, moved, strained, swapped, grown, vacancy, start]


def varied(elements: Sequence[str], unknown: str, start: Atoms | None = None, molecule: int = 0) -> list[Atoms]:
    """Return structures of different sizes, boundary conditions and contents; the last is the first with a charge."""
    first, second = elements
    crystal = rock_salt(elements) if start is None else start
    double = crystal.repeat((2, 1, 1))
    double.rattle(0.05, seed=2)
    slab = crystal.copy()
    slab.cell[2, 2] = 15.0
    slab.pbc = (True, True, False)
    cluster = crystal.copy()
    cluster.pbc = False
    charged = crystal[molecule or 1 :]
    charged.info.update(charge=1, spin=2, note="vacancy")
    charged.set_tags(range(len(charged)))
    ion = crystal.copy()
    ion.info.update(charge=2, spin=3)
    pair = {"positions": [[0, 0, 0], [0, 0, 2.5]]}
    return [
        crystal,
        Atoms(first, cell=[3.5] * 3, pbc=True),  # a neighbour of itself
        slab,
        double,
        Atoms(first, cell=[20] * 3, pbc=True),  # without neighbours
        Atoms(elements, cell=[20] * 3, pbc=True, **pair),  # without angles
        charged,
        *([Atoms([first, unknown], cell=[6] * 3, pbc=True, **pair)] if unknown else []),
        cluster,
        Atoms([first, second, first], positions=[[0, 0, 0], [0, 0, 2.5], [0, 2.5, 2.5]]),
        ion,
    ]


def has_stress(atoms: Atoms) -> bool:
    return bool(atoms.cell.rank == 3 and atoms.pbc.any())
