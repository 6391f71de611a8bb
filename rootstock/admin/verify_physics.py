"""What must hold for the numbers of any potential, whoever published what.

Forces and stress are derivatives of the energy. Turning a structure turns its forces and leaves its energy; naming its
atoms in another order changes nothing else; n cells have n times the energy of one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from rootstock.admin.verify_checks import Check, compare

Compute = Callable[[Atoms, tuple[str, ...]], Mapping[str, Any]]

RATTLE_A = 0.03
# A model in single precision gives energies to about 1e-7 of their size: smaller steps would differentiate noise.
_STEP = 0.01
_AXIS, _ANGLE = (1.0, 2.0, 3.0), 40.0  # of no lattice
FINITE_DIFFERENCES = {"forces": 1e-3, "stress": 1e-3}
CONSISTENCY = {"energy": 1e-4, "forces": 1e-3}  # eV per atom, eV/Angstrom


def derivatives(
    compute: Compute, atoms: Atoms, properties: Sequence[str], tolerances: Mapping[str, float]
) -> Iterator[Check]:
    """Compare forces and stress with central differences of the energy, away from any symmetric position.

    Parameters
    ----------
    compute : callable
        Returns properties of atoms.
    atoms : ase.Atoms
    properties : sequence of str
        Those that the model computes.
    tolerances : Mapping[str, float]
        For ``forces`` [eV/Angstrom] and ``stress`` [eV/Angstrom^3].
    """
    atoms = rattled(atoms)
    source = "finite differences"
    if "forces" in properties:
        forces = compute(atoms, ("forces",))["forces"][0]
        expected = [-_slope(compute, functools.partial(_moved, atoms, axis)) for axis in range(3)]
        yield compare("forces of atom 0", source, forces, expected, tolerances["forces"])
    if "stress" in properties and _is_crystal(atoms):
        stress = compute(atoms, ("stress",))["stress"]
        volume = atoms.get_volume()
        slopes = [_slope(compute, functools.partial(_strained, atoms, i)) / volume for i in range(6)]
        yield compare("stress", source, stress, slopes, tolerances["stress"])


def symmetries(
    compute: Compute, atoms: Atoms, properties: Sequence[str], tolerances: Mapping[str, float], *, rotation: bool
) -> Iterator[Check]:
    """Compare energy and forces of a structure with those of the same one turned, reordered and repeated.

    Parameters
    ----------
    compute, atoms, properties
        See `derivatives`.
    tolerances : Mapping[str, float]
        For ``energy`` [eV per atom] and ``forces`` [eV/Angstrom].
    rotation : bool
        Whether the model is rotationally equivariant; some learn it from data, and only nearly.
    """
    atoms = rattled(atoms)
    names = ("energy", "forces") if "forces" in properties else ("energy",)
    limits = {"energy": tolerances["energy"] * len(atoms), "forces": tolerances["forces"]}
    before = compute(atoms, names)

    def compare_with(variant: Atoms, source: str, change: Callable[[Any], Any]) -> Iterator[Check]:
        """Compare with a variant, whose forces must be those before after a `change`."""
        after = compute(variant, names)
        for name in names:
            expected = change(before[name]) if name == "forces" else before[name]
            yield compare(name, source, after[name], expected, limits[name])

    if rotation:
        turned = atoms.copy()
        turned.rotate(_ANGLE, _AXIS, rotate_cell=True)
        yield from compare_with(turned, "rotation", _turn)
    if len(atoms) > 1:
        order = np.random.default_rng(0).permutation(len(atoms))
        yield from compare_with(atoms[order], "permutation", lambda forces: forces[order])
    if _is_crystal(atoms):
        energy = compute(atoms.repeat((2, 1, 1)), ("energy",))["energy"]
        yield compare("energy", "supercell", energy, 2 * before["energy"], 2 * limits["energy"])


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    """Return atoms away from any symmetric position.

    Parameters
    ----------
    atoms : ase.Atoms
    seed : int
        Others give other positions.
    """
    atoms = atoms.copy()
    atoms.rattle(RATTLE_A, seed=seed)
    return atoms


def _turn(vectors: Any) -> Any:
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
