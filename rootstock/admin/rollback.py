"""Change what is in use, without building anything: the default version, or a whole earlier generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from rootstock.builds.plan import CLIENT
from rootstock.config.render import render_default
from rootstock.config.site import Site, installed_versions
from rootstock.errors import RootError
from rootstock.root.generations import Change, Generation, State, read_generations, read_state, transaction
from rootstock.root.layout import RootLayout, environment_of
from rootstock.root.lock import AdminContext
from rootstock.root.managed_files import FileChange, hashes_after, plan_files
from rootstock.root.records import point, read_build, read_marker, write_file


@dataclass(frozen=True)
class LinkChange:
    """A pointer to a build that is to lead to another one, or (None) to be removed."""

    link: Path
    old: str
    new: Path | None

    def describe(self) -> str:
        """Say in a line what is to be done."""
        if self.new is None:
            return f"take {self.link.name} out of use (build {self.old} stays)"
        return f"{self.link.name}: use build {self.new.name} instead of {self.old or 'none'}"


@dataclass(frozen=True)
class SwitchPlan:
    """Everything that a change of what is in use would do."""

    site: Site
    command: str
    marker: Mapping[str, Any]
    default: str
    links: tuple[LinkChange, ...]
    files: tuple[FileChange, ...]
    since: int
    restores: int | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.links or self.files or self.default != self.marker.get("default"))

    def summary_lines(self) -> list[str]:
        """Describe the plan, a line for each change."""
        found = [link.describe() for link in self.links]
        if self.default != self.marker.get("default"):
            found.insert(0, f"make {self.default} the default version, instead of {self.marker.get('default')}")
        return found + [change.describe(self.site.layout.root) for change in self.files]

    def to_json(self) -> dict[str, Any]:
        """Return the plan for programs; ``schema`` changes when a key changes its meaning."""
        return {
            "schema": 1, "command": self.command, "root": str(self.site.layout.root), "empty": self.empty,
            "default": self.default, "restores": self.restores, "changes": self.summary_lines(),
        }  # fmt: skip


def plan_default(site: Site, version: str) -> SwitchPlan:
    """Decide what to change so that ``module load rootstock`` loads `version`.

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
    wanted = replace(read_state(site.layout), default=version)
    return _plan(site, wanted, read_generations(site.layout))


def plan_rollback(site: Site, to: int | None = None) -> SwitchPlan:
    """Decide what to change so that what was in use in an earlier generation is so again.

    Environments are as they were then: those added since are taken out of use, but for pinned ones (``name@version``).
    Clients of versions that were installed since stay.

    Parameters
    ----------
    site
    to : int, optional
        The generation. By default the last one before the present one where anything else was in use; gone back to
        already, it is the one before that.

    Raises
    ------
    RootError
        If there is no such generation, or one of its builds is gone.
    """
    found, present = read_generations(site.layout), read_state(site.layout)
    target = _target(site.layout, found, present, to)
    plan = _plan(site, _wanted(target.state, present), found)
    return replace(plan, command="rollback", restores=target.number)


def _target(layout: RootLayout, found: Sequence[Generation], present: State, to: int | None) -> Generation:
    if to is not None:
        chosen = [generation for generation in found if generation.number == to]
        known = ", ".join(str(generation.number) for generation in found)
        hint = f"It has {known}."
    else:
        # Having gone back to generation 3, the next step back is from there. That one itself counts where a change
        # since then was cut off, and is in no generation.
        start = (found[-1].restores or found[-1].number) if found else 0
        before = [generation for generation in found if generation.number <= start]
        chosen = [generation for generation in before if _wanted(generation.state, present) != present]
        hint = "rootstock-site status shows what is in use; each change of it makes a generation."
    if not chosen:
        what = f"generation {to}" if to is not None else "earlier generation where anything else was in use"
        raise RootError(f"{layout.root} has no {what}.", hint)
    return chosen[-1]


def _wanted(target: State, present: State) -> State:
    """Return what is in use after going back to `target`."""
    pinned = {name: digest for name, digest in present.active.items() if "@" in name}
    return State(target.default, {**pinned, **target.active}, {**present.clients, **target.clients})


def _plan(site: Site, wanted: State, found: Sequence[Generation]) -> SwitchPlan:
    layout = site.layout
    marker, present = read_marker(layout), read_state(layout)
    links = [
        *(_link(layout, name, present.active.get(name, ""), digest, layout.active(name))
          for name, digest in wanted.active.items()),
        *(LinkChange(layout.active(name), old, None)
          for name, old in present.active.items() if name not in wanted.active),
        *(_link(layout, CLIENT, present.clients.get(version, ""), digest, layout.client(version))
          for version, digest in wanted.clients.items()),
    ]  # fmt: skip
    texts = render_default(site, wanted.default)
    files = {path: None if text is None else text.encode() for path, text in texts.items()}
    return SwitchPlan(
        site=site,
        command="default",
        marker=marker,
        default=wanted.default,
        links=tuple(link for link in links if link is not None),
        files=plan_files(layout.root, files, marker.get("written", {})),
        since=found[-1].number if found else 0,
    )


def _link(layout: RootLayout, name: str, old: str, digest: str, link: Path) -> LinkChange | None:
    if old == digest:
        return None
    build = layout.build(environment_of(name), digest)
    if read_build(build) is None:
        raise RootError(
            f"The build {digest} of {name} is gone from {layout.root}: it was collected by gc.",
            "Choose another generation, or install what you need again.",
        )
    return LinkChange(link, old, build)


def apply(plan: SwitchPlan, admin: AdminContext) -> None:
    """Carry out a plan: the environments first, the default version last."""
    site, layout, access = plan.site, plan.site.layout, plan.site.access
    with transaction(layout, access, Change(plan.command, site.cluster.name, plan.since, plan.restores), admin):
        for change in plan.links:
            if change.new is not None and read_build(change.new) is None:
                raise RootError(f"{change.new} is gone: it was collected by gc meanwhile.", "Run the command again.")
        written = hashes_after(layout.root, plan.marker.get("written", {}), plan.files)
        marker = {**plan.marker, "default": plan.default, "written": written}
        for change in plan.links:
            if change.new is None:
                change.link.unlink(missing_ok=True)
            else:
                point(change.link, change.new)
            admin.log(change.describe())
        write_file(layout.marker, tomli_w.dumps(marker).encode(), access.file)
        for file in plan.files:
            file.apply(access.at(file.path, layout).file)
            admin.log(file.describe(layout.root))
