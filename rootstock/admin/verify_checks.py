"""A check of a model's numbers: what is kept of it, and what is said of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rootstock.config.references import Reference

Check = dict[str, Any]

UNITS = {"energy": "eV", "energies": "eV", "forces": "eV/Å", "stress": "eV/Å³", "magmoms": "µB"}


def head(reference: Reference, device: str) -> Check:
    """Return the part of a check that says what was computed."""
    return {"model": reference.model, "device": device, "reference": reference.name, "source": reference.source}


def compare(name: str, source: str, value: Any, expected: Any, tolerance: float) -> Check:
    """Return the part of a check that says how a property came out."""
    value, wanted = np.asarray(value, dtype=float), np.asarray(expected, dtype=float)
    error = float(np.abs(value - wanted).max()) if value.shape == wanted.shape else math.inf
    return {
        "property": name,
        "source": source,
        "value": value.tolist(),
        "expected": wanted.tolist(),
        "error": error,
        "tolerance": float(tolerance),
        "unit": UNITS.get(name.split()[0], ""),
        "passed": error <= tolerance,
    }


def describe(check: Check) -> str:
    """Say in a line how a check came out."""
    what = f"{check['reference']}{', model ' + check['model'] if check['model'] else ''}"
    if "property" not in check:
        return f"{what}: {check['reason']}"
    return (
        f"{what}: {check['property']} differs by {check['error']:.3g} {check['unit']}, "
        f"allowed is {check['tolerance']:.3g} (source: {check['source']})"
    )
