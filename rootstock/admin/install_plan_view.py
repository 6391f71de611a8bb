"""The plan of an installation: what would change, for people and for programs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock.builds.plan import BuildPlan
from rootstock.builds.room_needed import PYTHON, room_needed
from rootstock.builds.root_interpreters import NewPython
from rootstock.config.environment_file import registered_names
from rootstock.config.site import Site
from rootstock.root.disk_usage import DiskUsage, free_space, megabytes
from rootstock.root.managed_files import FileChange
from rootstock.root.permissions import ModeChange
from rootstock.root.records import active_build

_SHOWN = 5  # changes of modes


@dataclass(frozen=True)
class InstallPlan:
    """Everything that an installation would change.

    Attributes
    ----------
    files : tuple of FileChange
    modes : tuple of ModeChange
        Folders to create, and what has other modes than the cluster's settings say.
    reseal : bool
        Whether the settings for readers have changed, so that the builds' modes must.
    builds : tuple of BuildPlan
    warnings : tuple of str
        What the admin should know; it keeps nothing from being done.
    since : int
        The newest generation.
    unrecorded : bool
        Whether something was changed that no generation tells of.
    wheels : Path or None
        A folder with all packages; None: they are fetched.
    pythons : tuple of NewPython
        Interpreters that are to be put into the root.
    """

    site: Site
    created: bool
    marker: Mapping[str, Any]
    new_marker: Mapping[str, Any]
    files: tuple[FileChange, ...]
    modes: tuple[ModeChange, ...]
    reseal: bool
    warnings: tuple[str, ...]
    since: int
    unrecorded: bool
    builds: tuple[BuildPlan, ...] = ()
    device: str = "cpu"
    wheels: Path | None = None
    pythons: tuple[NewPython, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (
            self.created or self.files or self.modes or self.reseal or self.builds or self.unrecorded
            or self.pythons
            or self.new_marker != self.marker
        )  # fmt: skip

    def summary_lines(self) -> list[str]:
        """Describe the plan, a line for each change."""
        root = self.site.layout.root
        found = [f"create the root {root} for cluster {self.site.cluster.name}"] if self.created else []
        if not self.created:
            found += [change.describe(root) for change in self.modes[:_SHOWN]]
        if not self.created and len(self.modes) > _SHOWN:
            found.append(f"... and so for {len(self.modes) - _SHOWN} more files and folders (--json names them)")
        if self.reseal:
            found.append(f"change the modes of all builds: readable by {self.site.access.readers}")
        found += [change.describe(root) for change in self.files]
        found += [f"{python.describe(root)}, {_about(PYTHON)}" for python in self.pythons]
        for plan in self.builds:
            interpreter, room = plan.interpreter, room_needed(plan)
            takes = f", {_about(room)}" if room else ""
            found.append(
                f"build {plan.label} with Python {interpreter.version} at {interpreter.path} ({plan.reason}){takes}"
            )
        if not found and not self.empty:
            found.append("record the present state as a generation")
        return found

    def diffs(self) -> list[str]:
        """Return the unified diff of each file that changes."""
        return [text for change in self.files if (text := change.diff(self.site.layout.root))]

    def to_json(self) -> dict[str, Any]:
        """Return the plan for programs; ``schema`` changes when a key changes its meaning."""
        root = self.site.layout.root
        left = free_space(root)
        return {
            "schema": 1,
            "command": "install",
            "root": str(root),
            "cluster": self.site.cluster.name,
            "created": self.created,
            "empty": self.empty,
            "changes": self.summary_lines(),
            "modes": [change.to_json(root) for change in self.modes],
            "files": [change.to_json(root) for change in self.files],
            "builds": [
                {"name": plan.name, "platform": plan.platform, "accelerator": plan.accelerator, "main": plan.main,
                 "reason": plan.reason, "python": plan.interpreter.version,
                 "interpreter": plan.interpreter.path, "room": vars(room) if (room := room_needed(plan)) else None}
                for plan in self.builds
            ],
            "pythons": [
                {"version": python.interpreter.version, "path": str(python.target),
                 "from": python.interpreter.address or str(python.source), "room": vars(PYTHON)}
                for python in self.pythons
            ],
            "room": {"bytes": left.bytes, "files": left.files},
            "warnings": list(self.warnings),
        }  # fmt: skip

    def next_steps(self) -> str:
        """Say what a user does now."""
        layout = self.site.layout
        built = [build.source.name for build in self.builds if build.source]
        there = [name for name in registered_names(layout) if active_build(layout.active(name))]
        steps = (
            f"Done. To use it:\n  module use {shlex.quote(str(layout.modulepath))}\n  module load rootstock\n"
            f"or without modules:\n  . {shlex.quote(str(layout.activation('sh')))}\n"
        )
        if not (built or there):
            return f"{steps}It has no model yet. To build one: rootstock-site install --root {layout.root} --env NAME"
        return f'{steps}then in Python:\n  RootstockCalculator(model="{[*built, *there][0]}", device="cpu")'


def _about(room: DiskUsage) -> str:
    return f"about {megabytes(room.bytes)} and {room.files} files"
