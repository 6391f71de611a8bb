"""Where two values of JSON differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the name and both values of what differs in two values of JSON.

    Parameters
    ----------
    old, new
    name : str
        What holds them.

    >>> list(differences({"fmax": 0.1, "steps": 5}, {"fmax": 0.05, "steps": 5}, "settings"))
    [('settings.fmax', 0.1, 0.05)]
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name, old, new
