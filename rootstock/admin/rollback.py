"""Change what is in use, without building anything: the default version, or a whole earlier generation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from rootstock.admin.plans import Plan
from rootstock.config.render import render_default
from rootstock.config.site import Site, installed_versions
from rootstock.errors import RootError
from rootstock.root.generations import (
    Change,
    Generation,
    State,
    latest_number,
    read_generations,
    read_state,
    transaction,
)
from rootstock.root.layout import CLIENT, RootLayout
from rootstock.root.lock import AdminContext
from rootstock.root.managed_files import FileChange, hashes_after, plan_files
from rootstock.root.records import point, read_build, read_marker, write_file
from rootstock.root.variants import environment_of

Build = tuple[str, str]  # name and digest


@dataclass(frozen=True)
class LinkChange:
    """A link to the build in use that is to lead to another one.

    Attributes
    ----------
    link : Path
    old : str
        Digest of the build that it leads to now; empty if there is none.
    new : Path or None
        The build; None: the link is to be removed.
    """

    link: Path
    old: str
    new: Path | None

    def describe(self) -> str:
        """Say in a line what is to be done."""
        if self.new is None:
            return f"take {self.link.name} out of use (build {self.old} stays)"
        return f"{self.link.name}: use build {self.new.name} instead of {self.old or 'none'}"


@dataclass(frozen=True)
class SwitchPlan(Plan):
    """Everything that a change of what is in use would do.

    Attributes
    ----------
    marker : Mapping[str, Any]
        The root's marker now.
    default : str
        Version that ``module load rootstock`` is to load.
    links : tuple of LinkChange
    files : tuple of FileChange
    since : int
        The newest generation.
    restores : int or None
        The generation that is gone back to.
    """

    marker: Mapping[str, Any]
    default: str
    links: tuple[LinkChange, ...]
    files: tuple[FileChange, ...]
    since: int
    restores: int | None

    def summary_lines(self) -> list[str]:
        """Describe the plan, a line for each change."""
        before = self.marker.get("default")
        lines = [f"make {self.default} the default version, instead of {before}"] if self.default != before else []
        lines += [link.describe() for link in self.links]
        return lines + [change.describe(self.site.layout.root) for change in self.files]

    def details(self) -> dict[str, Any]:
        """Return the default version, the generation that is gone back to, and the changes."""
        return {"default": self.default, "restores": self.restores, "changes": self.summary_lines()}

    def apply(self, admin: AdminContext) -> None:
        """Put the builds to use, the environments first, the default version last.

        Raises
        ------
        RootError
            If one of the builds was removed meanwhile.
        """
        site, layout, access = self.site, self.site.layout, self.site.access
        with transaction(layout, access, Change(self.command, site.cluster.name, self.since, self.restores), admin):
            _check_builds(layout, self.links)
            written = hashes_after(layout.root, self.marker.get("written", {}), self.files)
            marker = {**self.marker, "default": self.default, "written": written}
            for change in self.links:
                if change.new is None:
                    change.link.unlink(missing_ok=True)
                else:
                    point(change.link, change.new)
                admin.log(change.describe())
            write_file(layout.marker, tomli_w.dumps(marker).encode(), access.file)
            for file in self.files:
                file.apply(access, layout)
                admin.log(file.describe(layout.root))


def plan_default(site: Site, version: str) -> SwitchPlan:
    """Decide what to change so that ``module load rootstock`` loads another version.

    Parameters
    ----------
    site : Site
    version : str
        For example ``2026.12.0``.

    Raises
    ------
    RootError
        If the root does not hold that version.
    """
    versions = installed_versions(site.layout)
    if version not in versions:
        raise RootError(
            f"{site.layout.root} does not hold rootstock {version}; it holds {', '.join(versions)}.",
            "Install that version first, with a rootstock-site of that version.",
        )
    return _plan(site, "default", replace(read_state(site.layout), default=version), latest_number(site.layout))


def plan_rollback(site: Site, to: int | None = None) -> SwitchPlan:
    """Decide what to change so that what was in use in an earlier generation is so again.

    Environments are as they were then: those added since are taken out of use, but for pinned ones (``name@version``).
    Clients of versions that were installed since stay.

    Parameters
    ----------
    site : Site
    to : int, optional
        The generation. By default the last one before the present one where anything else was in use; gone back to
        already, it is the one before that.

    Raises
    ------
    RootError
        If there is no such generation, or one of its builds is gone.
    """
    generations, present = read_generations(site.layout), read_state(site.layout)
    target = _target(site.layout, generations, present, to)
    return _plan(site, "rollback", _restored(target.state, present), generations[-1].number, target.number)


def _target(layout: RootLayout, generations: Sequence[Generation], present: State, to: int | None) -> Generation:
    if to is not None:
        chosen = [generation for generation in generations if generation.number == to]
        missing = f"generation {to}"
        hint = f"It has {', '.join(str(generation.number) for generation in generations)}."
    else:
        # Having gone back to generation 3, the next step back is from there. That one itself counts where a change
        # since then was cut off, and is in no generation.
        start = (generations[-1].restores or generations[-1].number) if generations else 0
        others = [generation for generation in generations if _restored(generation.state, present) != present]
        chosen = [generation for generation in others if generation.number <= start]
        missing = f"generation before {start} where anything else was in use"
        hint = (
            f"Generation {others[-1].number} is later: rootstock-site rollback --root {layout.root} "
            f"--to {others[-1].number} goes forward to it."
            if others
            else "rootstock-site status shows what is in use; each change of it makes a generation."
        )
    if not chosen:
        raise RootError(f"{layout.root} has no {missing}.", hint)
    return chosen[-1]


def _restored(target: State, present: State) -> State:
    """Return what is in use after going back to `target`."""
    pinned = {name: digest for name, digest in present.active.items() if "@" in name}
    return State(target.default, {**pinned, **target.active}, {**present.clients, **target.clients})


def pointers(layout: RootLayout, state: State) -> dict[Path, Build]:
    """Return the links to builds in use, each with the build that it leads to.

    Parameters
    ----------
    layout : RootLayout
    state : State
        What is in use.
    """
    environments = {layout.active(link): (environment_of(link), digest) for link, digest in state.active.items()}
    return environments | {layout.client(link): (CLIENT, digest) for link, digest in state.clients.items()}


def _plan(site: Site, command: str, target: State, since: int, restores: int | None = None) -> SwitchPlan:
    layout, marker = site.layout, read_marker(site.layout)
    before, after = pointers(layout, read_state(layout)), pointers(layout, target)
    links = tuple(
        LinkChange(
            link, before[link][1] if link in before else "", layout.build(*after[link]) if link in after else None
        )
        for link in {**after, **before}
        if before.get(link) != after.get(link)
    )
    _check_builds(layout, links)
    texts = render_default(site, target.default)
    files = {path: None if text is None else text.encode() for path, text in texts.items()}
    # Who asks for another default means these files, whatever somebody has made of them: that goes aside.
    changes = plan_files(layout.root, files, marker.get("written", {}), forced=files)
    return SwitchPlan(site, command, marker, target.default, links, changes, since, restores)


def _check_builds(layout: RootLayout, links: Iterable[LinkChange]) -> None:
    remedy = "Choose another generation, or install what you need again."
    for build in (link.new for link in links if link.new is not None):
        title = f"The build {build.name} of {build.parent.name}"
        if read_build(build) is None:
            raise RootError(f"{title} is gone from {layout.root}: it was collected by gc.", remedy)
        python = build / "bin" / "python"
        if not python.exists():  # as after a move of the root that it was in
            raise RootError(f"{title} is made on {os.path.realpath(python)}, which is not there.", remedy)
