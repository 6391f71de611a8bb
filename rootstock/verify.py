"""Check the numbers of a build: a worker computes reference structures, and its forces and stress are differentiated.

Each check is kept as it comes, with value, expected value, tolerance and source.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from ase import Atoms

from rootstock.channel.memory import PROPERTY_BITS
from rootstock.client import Client
from rootstock.errors import ConfigurationError, VerificationError, WorkerStartError
from rootstock.inputs import Inputs
from rootstock.sources import EnvironmentSource, Reference
from rootstock.spawn import Launch

_START_S, _CALL_S = 1800.0, 1800.0
_RATTLE_A = 0.03
# A model in single precision gives energies to about 1e-7 of their size: smaller steps would differentiate noise.
_STEP = 0.01
_DEFAULT_TOLERANCE = {"forces": 1e-3, "stress": 1e-3}

Check = dict[str, Any]


def verify(launch: Launch, source: EnvironmentSource, device: str, *, report: Callable[[str], None]) -> list[Check]:
    """Run the references of an environment file on a worker.

    Parameters
    ----------
    launch : Launch
        How to start the worker.
    source : EnvironmentSource
        The environment file, with its references.
    device : str
        Device to compute on.
    report : callable
        Is given a line for each structure.

    Returns
    -------
    list of dict
        One for each check: model, reference, property, source, value, expected, error, tolerance, unit, passed. A
        reference whose model has no weights here has one entry: model, reference, source, the reason, and ``passed``
        None.

    Raises
    ------
    VerificationError
        If a value misses its reference. Without references nothing is checked, and the list is empty.
    """
    checks: list[Check] = []
    references = source.references()
    for model, options in _distinct(references):
        these = [reference for reference in references if (reference.model, reference.options) == (model, options)]
        report(f"starting a worker ({device})")
        try:
            client = Client(launch, model, device, options, start_timeout=_START_S, on_progress=report)
        except WorkerStartError as error:
            # It got as far as looking for the weights, so the environment works; there are no numbers to check.
            if error.remote_type != "FileNotFoundError" or not all(reference.needs_weights for reference in these):
                raise
            report(f"not verified, for lack of weights: {', '.join(reference.name for reference in these)}")
            checks += [{**_not_run(reference, error.message), "model": model} for reference in these]
            continue
        try:
            _check_properties(client, source, model)
            for reference in these:
                report(f"verifying {reference.name}")
                checks += [{**check, "model": model} for check in _check(client, reference, source)]
        finally:
            client.close()
    missed = [check for check in checks if check["passed"] is False]
    if missed:
        lines = [
            f"  {c['reference']}: {c['property']} differs by {c['error']:.3g} {c['unit']}, "
            f"allowed is {c['tolerance']:.3g} (source: {c['source']})"
            for c in missed
        ]
        raise VerificationError(
            f"Environment {source.name!r} computes other numbers than its references say:\n" + "\n".join(lines),
            "Look at the versions that were installed; pin those that the references hold for.",
        )
    return checks


def _distinct(references: list[Reference]) -> list[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Mapping[str, Any]]] = []
    for reference in references:
        if (reference.model, reference.options) not in found:
            found.append((reference.model, reference.options))
    return found


def _check_properties(client: Client, source: EnvironmentSource, model: str) -> None:
    """Compare what the environment file says of a model with what the worker says."""
    stated = source.abilities(model).properties
    if missing := [name for name in stated if name not in client.properties]:
        raise VerificationError(
            f"{source.path.name} says that model {model or '(default)'!r} computes {', '.join(missing)}; "
            f"the worker computes {', '.join(client.properties)}.",
            f"Correct 'properties' in the header of {source.path}.",
        )


def _check(client: Client, reference: Reference, source: EnvironmentSource) -> Iterator[Check]:
    versions: Mapping[str, str] = client.ready["versions"]
    for package, specifier in reference.versions.items():
        version = versions.get(package.replace("-", "_"), "")
        if not version or not specifier.contains(version, prereleases=True):
            raise VerificationError(
                f"Reference {reference.name!r} of {source.name!r} holds for {package} {specifier}; "
                f"installed is {version or 'none'}.",
                f"Pin {package} in {source.path.name}, or give the values of the new version with their source.",
            )
    try:
        atoms = Atoms(**reference.structure)
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigurationError(f"{source.path}: reference {reference.name!r} is no structure: {error}.") from error
    elements = source.abilities(reference.model).elements
    if elements and (strange := sorted(set(atoms.get_chemical_symbols()) - {*elements})):
        raise VerificationError(
            f"{source.path.name} has no {', '.join(strange)} among its elements; its reference {reference.name!r} has.",
            f"Correct 'elements' in the header of {source.path}.",
        )
    if reference.expected:
        results = _compute(client, atoms, tuple(reference.expected))
        for name, expected in reference.expected.items():
            yield _compare(reference.name, name, reference.source, results[name], expected, reference.tolerance[name])
    yield from _differentiate(client, reference, source, atoms)


def _differentiate(client: Client, reference: Reference, source: EnvironmentSource, atoms: Atoms) -> Iterator[Check]:
    """Compare forces and stress with central differences of the energy, away from any symmetric position."""
    tolerance = {**_DEFAULT_TOLERANCE, **source.rootstock.get("finite-differences", {})}
    atoms = atoms.copy()
    atoms.rattle(_RATTLE_A, seed=0)
    if "forces" in client.properties:
        forces = _compute(client, atoms, ("forces",))["forces"][0]
        expected = [-_slope(client, functools.partial(_moved, atoms, axis)) for axis in range(3)]
        yield _compare(reference.name, "forces of atom 0", "finite differences", forces, expected, tolerance["forces"])
    if "stress" in client.properties and atoms.cell.rank == 3 and atoms.pbc.all():
        stress = _compute(client, atoms, ("stress",))["stress"]
        volume = atoms.get_volume()
        expected = [_slope(client, functools.partial(_strained, atoms, i)) / volume for i in range(6)]
        yield _compare(reference.name, "stress", "finite differences", stress, expected, tolerance["stress"])


def _slope(client: Client, variant: Callable[[float], Atoms]) -> float:
    """Differentiate by central differences over five points, whose error falls with the fourth power of the step."""
    far, near = (
        [_compute(client, variant(sign * step), ("energy",))["energy"] for sign in (1, -1)]
        for step in (2 * _STEP, _STEP)
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


def _compute(client: Client, atoms: Atoms, properties: tuple[str, ...]) -> dict[str, Any]:
    inputs = Inputs()
    inputs.update(atoms)
    return client.evaluate(inputs, sum(PROPERTY_BITS[name] for name in properties), _CALL_S)


def _not_run(reference: Reference, reason: str) -> Check:
    return {"reference": reference.name, "source": reference.source, "reason": reason, "passed": None}


def _compare(reference: str, name: str, source: str, value: Any, expected: Any, tolerance: float) -> Check:
    value, wanted = np.asarray(value, dtype=float), np.asarray(expected, dtype=float)
    error = float(np.abs(value - wanted).max()) if value.shape == wanted.shape else math.inf
    return {
        "reference": reference,
        "property": name,
        "source": source,
        "value": value.tolist(),
        "expected": wanted.tolist(),
        "error": error,
        "tolerance": float(tolerance),
        "unit": _UNITS.get(name.split()[0], ""),
        "passed": error <= tolerance,
    }


_UNITS = {"energy": "eV", "energies": "eV", "forces": "eV/Å", "stress": "eV/Å³", "magmoms": "µB"}
