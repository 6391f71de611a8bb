"""Put what was published in place of what has become of it: builds, and interpreters in the root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rootstock.admin.bundle import Bundle
from rootstock.admin.bundled_weights import Bundled
from rootstock.admin.plans import Plan
from rootstock.admin.rollback import pointers
from rootstock.builds.again import Again, as_published, aside, check_interpreter_of, check_uv_of, exchange, plan_again
from rootstock.builds.interpreters import movable_interpreter
from rootstock.builds.make import stage_locked, write_record
from rootstock.builds.root_interpreters import NewPython, install_interpreter, plan_copy
from rootstock.builds.uv import Uv, package_cache, python_downloads
from rootstock.config.environment_file import registered_names
from rootstock.config.site import Site
from rootstock.errors import BuildError, RootstockError
from rootstock.root.aliases import table_is_current
from rootstock.root.checksums import Problem
from rootstock.root.disk_usage import number_of
from rootstock.root.generations import Change, latest_number, read_generations, read_state, transaction
from rootstock.root.layout import CLIENT, STAGING, RootLayout
from rootstock.root.lock import AdminContext, Report
from rootstock.root.permissions import may_remove, remove_tree
from rootstock.root.plain_files import RECORD_LIMIT, parse_json, read_bytes
from rootstock.root.published import SealedTree, interpreters_below, sealed_trees
from rootstock.root.records import BUILD_RECORD

_SHOWN = 3
_DEVICE = "cpu"  # what references are computed on, where it is not known any more what was published


@dataclass(frozen=True)
class Mend:
    """A build or an interpreter that is damaged, and what can be done.

    Attributes
    ----------
    tree : SealedTree
    problems : tuple of Problem
    how : Again or NewPython or None
    obstacle : str
        Why nothing can be done; else empty.
    """

    tree: SealedTree
    problems: tuple[Problem, ...]
    how: Again | NewPython | None
    obstacle: str = ""

    def describe(self, root: Path) -> str:
        """Say in a line what is wrong and what is to be done."""
        shown = "; ".join(str(problem) for problem in self.problems[:_SHOWN])
        if len(self.problems) > _SHOWN:
            shown += f"; and {number_of(len(self.problems) - _SHOWN, 'file')} more"
        if isinstance(self.how, NewPython):
            return f"{self.how.describe(root)} ({shown})"
        if isinstance(self.how, Again):
            return f"make {label(self.tree)} again ({shown})"
        return f"cannot repair {label(self.tree)}: {self.obstacle} ({shown})"


@dataclass(frozen=True)
class RepairPlan(Plan):
    """Everything in a root that is damaged, and what a repair would do.

    Attributes
    ----------
    mends : tuple of Mend
        Interpreters first: builds are made on them.
    since : int
        The newest generation.
    wheels : Path or None
        A folder with all packages; None: they are fetched.
    aliases : bool
        Whether the table of aliases is to be written anew; that is a part of every change.
    """

    mends: tuple[Mend, ...]
    since: int
    wheels: Path | None
    aliases: bool

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do, or nothing that can be done."""
        return not self.aliases and all(mend.how is None for mend in self.mends)

    @property
    def hopeless(self) -> list[Mend]:
        """What cannot be repaired."""
        return [mend for mend in self.mends if mend.how is None]

    def summary_lines(self) -> list[str]:
        """Describe the plan, a line for each build and interpreter."""
        lines = [mend.describe(self.site.layout.root) for mend in self.mends]
        return [*lines, "write the table of aliases anew"] if self.aliases else lines

    def details(self) -> dict[str, Any]:
        """Return what is damaged, and what can be done about it."""
        return {
            "damaged": [
                {"kind": mend.tree.kind, "name": mend.tree.name, "folder": str(mend.tree.folder),
                 "problems": [vars(problem) for problem in mend.problems], "obstacle": mend.obstacle or None}
                for mend in self.mends
            ],
        }  # fmt: skip

    def apply(self, admin: AdminContext) -> None:
        """Repair one after the other.

        Raises
        ------
        BuildError
            If one could not be repaired, after the others are. It is as it was before.
        """
        site, layout, access = self.site, self.site.layout, self.site.access
        failed: list[tuple[Mend, RootstockError]] = []
        with transaction(layout, access, Change(self.command, site.cluster.name, self.since, always=False), admin):
            _remove_leftovers(self, layout)
            uv = Uv(package_cache(site), admin.log, access.admin_umask, self.wheels)
            try:
                for mend in self.mends:
                    try:
                        _mend(mend, site, uv, admin)
                    except RootstockError as error:
                        failed.append((mend, error))
                        admin.report(f"{label(mend.tree)}: not repaired")
            finally:
                access.share_cache(layout.uv_cache)
        if failed:
            messages = "\n".join(
                f"{label(mend.tree)} is as damaged as before: {error.message}" for mend, error in failed
            )
            raise BuildError(messages, failed[0][1].hint)


def plan_repair(site: Site, environments: Sequence[str], *, bundle: Bundle | None = None, report: Report) -> RepairPlan:
    """Compare everything that was published with what it was, and decide what can be put right.

    Parameters
    ----------
    site : Site
    environments : sequence of str
        Whose builds to look at, and their interpreters; by default all, and the clients'.
    bundle : Bundle, optional
        Where all packages and interpreters come from; nothing is fetched then.
    report : callable
        Is told what is read.
    """
    layout = site.layout
    since = latest_number(layout)
    builds = _builds(layout, environments)
    pythons = interpreters_below(layout, [tree.folder for tree in builds])
    mends: list[Mend] = []
    for tree in (*pythons, *builds):
        report(f"{label(tree)}: reading {tree.folder}")
        if problems := tuple(tree.problems()):
            try:
                how = _new_python(site, tree, bundle) if tree.kind == "interpreter" else _again(site, tree, mends)
                mends.append(Mend(tree, problems, how))
            except RootstockError as error:
                mends.append(Mend(tree, problems, None, error.message))
    aliases = not table_is_current(layout, read_state(layout).active)
    return RepairPlan(site, "repair", tuple(mends), since, bundle.wheels if bundle else None, aliases)


def label(tree: SealedTree) -> str:
    """Return a build's or an interpreter's name for people.

    Parameters
    ----------
    tree : SealedTree
    """
    return str(tree) if tree.kind == "interpreter" else f"{tree}, build {tree.folder.name}"


def _builds(layout: RootLayout, environments: Sequence[str]) -> list[SealedTree]:
    """Return the builds that are in use, and those that one can go back to."""
    in_use = sealed_trees(layout, environments or registered_names(layout), clients=not environments)
    trees = dict[Path, SealedTree]()
    for tree in in_use:
        if tree.kind != "interpreter":
            trees.setdefault(tree.folder, tree)
    states = [generation.state for generation in reversed(read_generations(layout))]
    for link, (name, digest) in (item for state in states for item in pointers(layout, state).items()):
        folder = Path(os.path.realpath(layout.build(name, digest)))
        client = name == CLIENT
        asked = not environments if client else not environments or name in environments
        # One that an admin has removed is missed by `rollback`, which says so.
        if asked and folder not in trees and (os.path.lexists(folder) or aside(folder).is_dir()):
            trees[folder] = SealedTree("client" if client else "environment", link.name if client else name, "", folder)
    return list(trees.values())


def _again(site: Site, tree: SealedTree, mends: Sequence[Mend]) -> Again:
    layout, folder = site.layout, tree.folder
    name = CLIENT if tree.kind == "client" else tree.name
    build = layout.build(name, folder.name)
    if build.resolve() != folder:
        raise BuildError("its link leads elsewhere than to a build: rootstock-site install puts the link back")
    links = (*layout.all_active.glob("[!.]*"), *layout.clients.glob("[!.]*"))
    link = next((link for link in links if os.path.realpath(link) == str(folder)), layout.active(name))
    again = plan_again(site, build, link)
    if not any(isinstance(mend.how, NewPython) for mend in mends):  # one that is yet to be mended may not run
        check_interpreter_of(again)
    return again


def _new_python(site: Site, tree: SealedTree, bundle: Bundle | None) -> NewPython:
    layout = site.layout
    if os.path.lexists(tree.folder) and not may_remove(tree.folder):
        raise BuildError("only its owner can replace it")
    for folder in bundle.pythons if bundle else ():
        if folder.name == tree.name:
            return plan_copy(movable_interpreter(folder), layout, folder.name)
    if bundle is None:
        for download in python_downloads(site.cluster, layout.python):
            if download.download == tree.name and _same_file(layout, tree.name, download.address):
                return NewPython(download)
    raise BuildError("the bundle does not hold it" if bundle else "uv does not know where to fetch it; give --bundle")


def _same_file(layout: RootLayout, name: str, address: str) -> bool:
    """Tell whether an interpreter came from there, or from a mirror of it, as far as its record can still be read."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        before = parse_json(read_bytes(layout.interpreter_record(name), RECORD_LIMIT)).get("from")
        return bool(before) and str(before).split("/")[-2:] == address.split("/")[-2:]
    return True


def _mend(mend: Mend, site: Site, uv: Uv, admin: AdminContext) -> None:
    if mend.how is None:
        return
    if not mend.tree.problems():
        admin.report(f"{label(mend.tree)}: somebody has repaired it meanwhile")
    elif isinstance(mend.how, NewPython):
        install_interpreter(site, mend.how, uv, report=admin.report)
    else:
        _make_again(mend.how, mend.tree, site, uv, admin)


def _make_again(again: Again, tree: SealedTree, site: Site, uv: Uv, admin: AdminContext) -> None:
    def report(text: str) -> None:
        admin.report(f"{label(tree)}: {text}")

    check_interpreter_of(again)
    site.access.make_folder(again.build.parent)
    uv = replace(uv, log=lambda line: admin.log(f"{label(tree)}: {line}"))
    staged = stage_locked(site, again.plan, again.lock, again.build, uv, report=report)
    assert staged.folder is not None
    try:
        if as_published(staged, again):
            (staged.folder / BUILD_RECORD).write_bytes((again.remains / BUILD_RECORD).read_bytes())
        else:
            check_uv_of(again)
            source, checks, bundled = again.plan.source, list[dict[str, Any]](), Bundled(staged.folder)
            if source is not None and source.references():
                from rootstock.admin.verify import verify

                checks = verify(site, source, staged.folder, _DEVICE, bundled, report=report)
            write_record(staged, checks, bundled.files)
        report("putting it in place")
        exchange(staged, again, site.access)
    except BaseException:
        staged.discard()
        raise
    report("as published")


def _remove_leftovers(plan: RepairPlan, layout: RootLayout) -> None:
    """Remove what a repair that was cut off has left, but for what builds are made again from."""
    needed = {mend.how.remains for mend in plan.mends if isinstance(mend.how, Again)}
    for name in {mend.how.build.parent.name for mend in plan.mends if isinstance(mend.how, Again)}:
        for path in layout.builds(name).glob(f"{STAGING}*"):
            if path not in needed and may_remove(path):
                remove_tree(path)
