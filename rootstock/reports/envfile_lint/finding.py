"""What is found wrong with an environment file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes
    ----------
    severity : str
        ``error``, or ``warning`` for what can be meant.
    text : str
    line : int or None
        Where in the file, from 1; None for the file as a whole.
    """

    severity: str
    text: str
    line: int | None = None


Findings = Iterator[Finding]
