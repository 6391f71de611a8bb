"""A check of a model's numbers: what is recorded, and how it is described."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rootstock.config.references import Reference

Check = dict[str, Any]

UNITS = {"energy": "eV", "energies": "eV", "forces": "eV/Å", "stress": "eV/Å³", "magmoms": "µB"}


def head(reference: Reference, device: str) -> Check:
    """Return the part of a check that says what was computed.

    Parameters
    ----------
    reference : Reference
        The structure, and the model that computed it.
    device : str
        Where.
    """
    return {"model": reference.model, "device": device, "reference": reference.name, "source": reference.source}


def compare(name: str, source: str, value: Any, expected: Any, tolerance: float) -> Check:
    """Return the part of a check that says how far a property is from what it should be.

    Parameters
    ----------
    name : str
        The property, which may be followed by the part of it that is compared.
    source : str
        Where the expected value comes from.
    value, expected : array-like
        Computed and expected value; of another shape, they are infinitely far apart.
    tolerance : float
        Largest deviation of any number that passes.
    """
    value, expected = np.asarray(value, dtype=float), np.asarray(expected, dtype=float)
    error = float(np.abs(value - expected).max()) if value.shape == expected.shape else math.inf
    return {
        "property": name,
        "source": source,
        "value": value.tolist(),
        "expected": expected.tolist(),
        "error": error,
        "tolerance": float(tolerance),
        "unit": UNITS.get(name.split()[0], ""),
        "passed": error <= tolerance,
    }


def describe(check: Check) -> str:
    """Say in a line how a check came out."""
    title = f"{check['reference']}{', model ' + check['model'] if check['model'] else ''}"
    if "property" not in check:
        return f"{title}: {check['reason']}"
    return (
        f"{title}: {check['property']} differs by {check['error']:.3g} {check['unit']}, "
        f"allowed is {check['tolerance']:.3g} (source: {check['source']})"
    )
