"""The plan of an installation: what would change, for people and for programs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock import __version__
from rootstock.admin.asked_for import Problem, failure
from rootstock.admin.plans import Plan
from rootstock.builds.own_wheel import WHEEL_NAME
from rootstock.builds.plan import BuildPlan
from rootstock.builds.room_needed import PYTHON, in_words, room_needed
from rootstock.builds.root_interpreters import NewPython
from rootstock.config.environment_file import registered_names
from rootstock.config.render import example_name
from rootstock.config.site import has_client
from rootstock.root.aliases import table_is_current
from rootstock.root.disk_usage import DiskUsage, free_space
from rootstock.root.generations import read_state
from rootstock.root.managed_files import FileChange
from rootstock.root.modes import ModeChange

_SHOWN = 5  # changes of modes


@dataclass(frozen=True)
class InstallPlanView(Plan):
    """Everything that an installation would change: what is shown of it.

    Attributes
    ----------
    created : bool
        Whether the root is yet to be made.
    marker, new_marker : Mapping[str, Any]
        The root's marker now (empty before there is one), and afterwards.
    files : tuple of FileChange
    modes : tuple of ModeChange
        Folders to create, and what has other modes than the cluster's settings say.
    reseal : bool
        Whether the settings for readers have changed, so that the builds' modes must.
    warnings : tuple of str
        Notes for the admin; they keep nothing from being done.
    since : int
        The newest generation.
    unrecorded : bool
        Whether something was changed that no generation records.
    builds : tuple of BuildPlan
    device : str
        Device to verify the builds on.
    wheels : Path or None
        A folder with all packages; None: they are fetched.
    pythons : tuple of NewPython
        Interpreters that are to be put into the root.
    problems : tuple of Problem
        What cannot be built, though the root is asked to hold it; the rest is done.
    """

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
    problems: tuple[Problem, ...] = ()

    @property
    def runs_uv(self) -> bool:
        """Whether it takes uv, and so a package cache that can be used."""
        return bool(self.builds or self.pythons)

    def summary_lines(self) -> list[str]:
        """Describe the plan, a line for each change."""
        root = self.site.layout.root
        if self.created:
            lines = [f"create the root {root} for cluster {self.site.cluster.name}"]
        else:
            lines = [change.describe(root) for change in self.modes[:_SHOWN]]
            if len(self.modes) > _SHOWN:
                lines.append(f"... and so for {len(self.modes) - _SHOWN} more files and folders (--json names them)")
        if self.reseal:
            lines.append(f"change the modes of all builds: readable by {self.site.access.readers}")
        lines += [change.describe(root) for change in self.files]
        lines += [python.describe(root) + _about(PYTHON) for python in self.pythons]
        lines += [
            f"use build {build.published} of {build.label}"
            if build.published
            else f"build {build.label} with Python {build.interpreter.version} at {build.interpreter.path} "
            f"({build.reason}){_about(room_needed(build))}"
            for build in self.builds
        ]
        if not lines and (self.unrecorded or self.new_marker != self.marker):
            lines.append("record the present state as a generation")
        layout = self.site.layout
        if not lines and self.marker and not table_is_current(layout, read_state(layout).active):
            lines.append("write the table of aliases anew")  # as a part of any change
        return lines

    def diffs(self) -> list[str]:
        """Return the unified diff of each file that changes."""
        return [text for change in self.files if (text := change.diff(self.site.layout.root))]

    def details(self) -> dict[str, Any]:
        """Return the changes, and the room that they take and that there is."""
        root = self.site.layout.root
        return {
            "cluster": self.site.cluster.name,
            "created": self.created,
            "changes": self.summary_lines(),
            "modes": [change.to_json(root) for change in self.modes],
            "files": [change.to_json(root) for change in self.files],
            "builds": [
                {"name": build.name, "platform": build.platform, "accelerator": build.accelerator, "main": build.main,
                 "reason": build.reason, "python": build.interpreter.version,
                 "interpreter": build.interpreter.path, "room": vars(room) if (room := room_needed(build)) else None}
                for build in self.builds
            ],
            "pythons": [
                {"version": python.interpreter.version, "path": str(python.target),
                 "from": python.interpreter.address or str(python.source), "room": vars(PYTHON)}
                for python in self.pythons
            ],
            "problems": [problem.to_json() for problem in self.problems],
            "room": vars(free_space(root)),
            "warnings": list(self.warnings),
        }  # fmt: skip

    def refuse_problems(self) -> None:
        """Raise one error for all that cannot be built; nothing if there is no such thing."""
        if self.problems:
            raise failure(self.problems, len(self.problems))

    def next_steps(self) -> str:
        """Say what a user does now."""
        layout = self.site.layout
        names = [build.source.name for build in self.builds if build.source]
        names += [name for name in registered_names(layout) if layout.active(name).is_symlink()]
        if loads := has_client(layout, self.new_marker["default"]):
            steps = (
                f"Done. To use it:\n  module use {shlex.quote(str(layout.modulepath))}\n  module load rootstock\n"
                f"or without modules:\n  . {shlex.quote(str(layout.activation('sh')))}\n"
            )
        else:
            steps = (
                "Done. It has no client (--no-client), so no module to load. To use it from a Python that has ASE:\n"
                f"  python -m pip install --no-deps {shlex.quote(str(layout.runtime(__version__) / WHEEL_NAME))}\n"
            )
        if not names:
            root = shlex.quote(str(layout.root))
            return f"{steps}It has no model yet. To build one: rootstock-site install --root {root} --env NAME"
        where = "" if loads else f", root={str(layout.root)!r}"
        return f'{steps}then in Python:\n  RootstockCalculator(model="{example_name(names)}"{where}, device="cpu")'


def _about(room: DiskUsage | None) -> str:
    return f", {in_words([room])}" if room else ""
