"""What every plan of a change says of itself, to people and to programs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from rootstock.config.site import Site
from rootstock.root.lock import AdminContext


@dataclass(frozen=True)
class Plan:
    """Base of plans: what a command is going to change in a root. To make one only reads.

    Attributes
    ----------
    site : Site
    command : str
        Name of the command.
    """

    site: Site
    command: str

    def summary_lines(self) -> list[str]:
        """Describe the plan, a line for each change."""
        raise NotImplementedError

    @functools.cached_property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.summary_lines()

    def details(self) -> dict[str, Any]:
        """Return what `to_json` says of this kind of plan only."""
        raise NotImplementedError

    def apply(self, admin: AdminContext) -> None:
        """Carry the plan out."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the plan for programs; ``schema`` changes when a key changes its meaning."""
        root = str(self.site.layout.root)
        return {"schema": 1, "command": self.command, "root": root, "empty": self.empty, **self.details()}
