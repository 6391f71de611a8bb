"""What a model computes of several structures together must be what it computes of each alone, up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from rootstock.admin.verify_checks import Check, compare
from rootstock.admin.verify_physics import Compute, rattled
from rootstock.client.batch_arrays import Question
from rootstock.client.batch_exchange import Exchange, Failed, Pace
from rootstock.client.connection import WorkerConnection
from rootstock.client.inputs import Inputs
from rootstock.client.shared_arrays import Result
from rootstock.errors import VerificationError
from rootstock.worker.channel.memory import PROPERTY_BITS

Together = Callable[[Sequence[Atoms], tuple[str, ...]], Sequence[Mapping[str, Any]] | None]

# eV per atom, eV/Angstrom, eV/Angstrom^3, Bohr magnetons: single precision rounds to a tenth of it.
BATCH = {"energy": 2e-5, "forces": 5e-4, "stress": 2e-5, "magmoms": 1e-3}
SINGLE_CALLS = "single calls"  # the source of what is expected
HINT = (
    "Correct calculate_batch, or remove it from the environment file: the worker then computes structures one by one."
)
_APART = 4.0  # Angstrom between two molecules
_EVERYTHING = 1e12  # in one part, whatever the unit


def compare_batch(
    alone: Compute, together: Together, atoms: Atoms, properties: Sequence[str], tolerances: Mapping[str, float]
) -> Iterator[Check]:
    """Compare structures of two sizes that are computed together with each of them alone.

    Parameters
    ----------
    alone : callable
        Returns properties of one structure.
    together : callable
        Returns properties of each of some structures; None if the model does not compute such structures together.
    atoms : ase.Atoms
        What the structures are made from.
    properties : sequence of str
        Those that the model computes.
    tolerances : Mapping[str, float]
        For ``energy`` [eV per atom], ``forces``, ``stress`` and ``magmoms``.
    """
    images = [rattled(atoms, 0), rattled(_doubled(atoms), 1), rattled(atoms, 2)]
    has_stress = atoms.cell.rank == 3 and atoms.pbc.any()
    names = tuple(name for name in tolerances if name in properties and (name != "stress" or has_stress))
    found = together(images, names)
    if found is None:
        return
    expected = [alone(image, names) for image in images]
    for name in names:
        rows = zip(images, found, expected, strict=True)
        pairs = [(_numbers(name, image, one), _numbers(name, image, other)) for image, one, other in rows]
        value, should = (np.concatenate(column) for column in zip(*pairs, strict=True))
        title = "energy per atom" if name == "energy" else name
        yield compare(f"{title} in a batch", SINGLE_CALLS, value, should, tolerances[name])


def computed_together(
    client: WorkerConnection, timeout: float, images: Sequence[Atoms], properties: tuple[str, ...]
) -> Sequence[Result] | None:
    """Have a worker compute structures together.

    Parameters
    ----------
    client : WorkerConnection
    timeout : float
        Seconds that one structure may take at most.
    images : sequence of ase.Atoms
    properties : tuple of str

    Returns
    -------
    list of dict or None
        The results of each; None if the calculator says that it has no way to compute such structures together.

    Raises
    ------
    VerificationError
        If its ``calculate_batch`` fails, and each structure alone does not.
    """
    asked = sum(PROPERTY_BITS[name] for name in properties)
    questions = []
    for number, atoms in enumerate(images):
        inputs = Inputs()
        inputs.update(atoms)
        questions.append(Question(number, inputs, asked, atoms, len(inputs)))
    exchange = Exchange(client, questions, Pace(), timeout, lambda: False)
    answer = exchange.run(alone=False, sizes={str(asked): _EVERYTHING})
    if answer.error is not None:
        raise answer.error
    results = []
    for number in range(len(questions)):
        found = answer.outcomes[number]
        if isinstance(found, Failed):
            raise found.error
        results.append(found)
    if answer.refusals:
        raise VerificationError(
            f"calculate_batch fails on structures that can be computed one by one: {answer.reason}", HINT
        )
    return results if answer.atoms else None


def _doubled(atoms: Atoms) -> Atoms:
    """Return twice as much: the next cell along a periodic direction, or a second molecule beside the first."""
    if atoms.pbc.any():
        repeated: Atoms = atoms.repeat([2 if axis == atoms.pbc.argmax() else 1 for axis in range(3)])
        return repeated
    doubled: Atoms = atoms.copy()
    other = atoms.copy()
    other.positions[:, 0] += np.ptp(atoms.positions[:, 0]) + _APART
    doubled.extend(other)
    return doubled


def _numbers(name: str, atoms: Atoms, results: Mapping[str, Any]) -> Any:
    value = np.asarray(results[name], dtype=float)
    return np.ravel(value / len(atoms) if name == "energy" else value)
