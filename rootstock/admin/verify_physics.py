"""What must hold for the numbers of any potential, whoever published what.

Forces and stress are derivatives of the energy. Turning a structure turns its forces and leaves its energy; naming its
atoms in another order changes nothing else; n cells have n times the energy of one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

Compute = Callable[[Atoms, tuple[str, ...]], Mapping[str, Any]]

RATTLE_A = 0.03
# A model in single precision gives energies to about 1e-7 of their size: smaller steps would differentiate noise.
_STEP = 0.01
_AXIS, _ANGLE = (1.0, 2.0, 3.0), 40.0  # of no lattice
FINITE_DIFFERENCES = {"forces": 1e-3, "stress": 1e-3}
CONSISTENCY = {"energy": 1e-4, "forces": 1e-3}  # eV per atom, eV/Angstrom


class ConsistencyCheck(NamedTuple):
    """What was compared, on what grounds, what came out, what should have, and how far they may be apart."""

    name: str
    source: str
    value: Any
    expected: Any
    tolerance: float


def derivatives(
    compute: Compute, atoms: Atoms, properties: list[str], tolerance: Mapping[str, float]
) -> Iterator[ConsistencyCheck]:
    """Compare forces and stress with central differences of the energy, away from any symmetric position.

    Parameters
    ----------
    compute : callable
        Returns properties of atoms.
    atoms : ase.Atoms
    properties : list of str
        What the model computes.
    tolerance : Mapping[str, float]
        For ``forces`` [eV/Angstrom] and ``stress`` [eV/Angstrom^3].
    """
    atoms = atoms.copy()
    atoms.rattle(RATTLE_A, seed=0)
    source = "finite differences"
    if "forces" in properties:
        forces = compute(atoms, ("forces",))["forces"][0]
        expected = [-_slope(compute, functools.partial(_moved, atoms, axis)) for axis in range(3)]
        yield ConsistencyCheck("forces of atom 0", source, forces, expected, tolerance["forces"])
    if "stress" in properties and _is_crystal(atoms):
        stress = compute(atoms, ("stress",))["stress"]
        volume = atoms.get_volume()
        slopes = [_slope(compute, functools.partial(_strained, atoms, i)) / volume for i in range(6)]
        yield ConsistencyCheck("stress", source, stress, slopes, tolerance["stress"])


def symmetries(
    compute: Compute, atoms: Atoms, properties: list[str], tolerance: Mapping[str, float], *, rotation: bool
) -> Iterator[ConsistencyCheck]:
    """Compare energy and forces of a structure with those of the same one turned, reordered and repeated.

    Parameters
    ----------
    compute, atoms, properties
        See `derivatives`.
    tolerance : Mapping[str, float]
        For ``energy`` [eV per atom] and ``forces`` [eV/Angstrom].
    rotation : bool
        Whether the model knows that directions in space are alike; some learn it from data, and only nearly.
    """
    atoms = atoms.copy()
    atoms.rattle(RATTLE_A, seed=0)
    wanted = ("energy", "forces") if "forces" in properties else ("energy",)
    before = compute(atoms, wanted)
    whole, each = tolerance["energy"] * len(atoms), tolerance["forces"]
    if rotation:
        turned = atoms.copy()
        turned.rotate(_ANGLE, _AXIS, rotate_cell=True)
        after = compute(turned, wanted)
        yield ConsistencyCheck("energy", "rotation", after["energy"], before["energy"], whole)
        if "forces" in wanted:
            yield ConsistencyCheck("forces", "rotation", after["forces"], _turned(before["forces"]), each)
    order = np.random.default_rng(0).permutation(len(atoms))
    if len(atoms) > 1:
        after = compute(atoms[order], wanted)
        yield ConsistencyCheck("energy", "permutation", after["energy"], before["energy"], whole)
        if "forces" in wanted:
            yield ConsistencyCheck("forces", "permutation", after["forces"], before["forces"][order], each)
    if _is_crystal(atoms):
        after = compute(atoms.repeat((2, 1, 1)), ("energy",))
        yield ConsistencyCheck("energy", "supercell", after["energy"], 2 * before["energy"], 2 * whole)


def _turned(vectors: Any) -> Any:
    """Turn vectors as `ase.Atoms.rotate` turns positions."""
    arrows = Atoms(f"H{len(vectors)}", positions=vectors)
    arrows.rotate(_ANGLE, _AXIS)
    return arrows.positions


def _is_crystal(atoms: Atoms) -> bool:
    return bool(atoms.cell.rank == 3 and atoms.pbc.all())


def _slope(compute: Compute, variant: Callable[[float], Atoms]) -> float:
    """Differentiate by central differences over five points, whose error falls with the fourth power of the step."""
    far, near = (
        [compute(variant(sign * step), ("energy",))["energy"] for sign in (1, -1)] for step in (2 * _STEP, _STEP)
    )
    return float((8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * _STEP))


def _moved(atoms: Atoms, axis: int, distance: float) -> Atoms:
    atoms = atoms.copy()
    atoms.positions[0, axis] += distance
    return atoms


def _strained(atoms: Atoms, component: int, strain: float) -> Atoms:
    """Strain by a component in Voigt order; a shear is split between the two halves of the symmetric tensor."""
    i, j = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[component]
    deformation = np.eye(3)
    deformation[i, j] += strain / 2
    deformation[j, i] += strain / 2
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return atoms
