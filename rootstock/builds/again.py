"""Make a published build again, whose files are no longer those that were published.

A build is named by what it was made from. So wherever its recipe, its lock and its environment file are found, in what
is left of it or in the root, that name says whether they are the right ones.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from rootstock.builds.interpreters import Interpreter, find_interpreter
from rootstock.builds.lock_scope import scope_of
from rootstock.builds.make import Staged
from rootstock.builds.plan import CLIENT, LOCK, RECIPE, BuildPlan, build_digest, content_digest
from rootstock.builds.root_interpreters import root_interpreters
from rootstock.builds.uv import uv_version
from rootstock.builds.uv_scripts import recipe_text
from rootstock.config.environment_file import EnvironmentSource, read_source
from rootstock.config.site import Site
from rootstock.errors import BuildError, LaterRecordError, RootError, RootstockError
from rootstock.root.checksums import hash_file, read_contents, read_sums
from rootstock.root.layout import STAGING, VARIANT
from rootstock.root.managed_files import sha256
from rootstock.root.permissions import Access, may_remove, remove_tree
from rootstock.root.plain_files import RECORD_LIMIT, read_text
from rootstock.root.reachability import owner
from rootstock.root.records import BUILD_SOURCE, BuildRecord, read_build

_SHOWN = 3


@dataclass(frozen=True)
class Again:
    """A published build that is to be made again.

    Attributes
    ----------
    plan : BuildPlan
    lock : str
    uv : str
        The version of uv that it was made with.
    build : Path
        Its place.
    remains : Path
        What is left of it.
    record : BuildRecord or None
        What it says of itself; None if that is damaged.
    """

    plan: BuildPlan
    lock: str
    uv: str
    build: Path
    remains: Path
    record: BuildRecord | None


def aside(build: Path) -> Path:
    """Return where a damaged build is while another one takes its place, and where it is left if that is cut off.

    Parameters
    ----------
    build : Path
    """
    return build.with_name(f"{STAGING}{build.name}")


def plan_again(site: Site, build: Path, link: Path) -> Again:
    """Find what a build was made from.

    Parameters
    ----------
    site : Site
    build : Path
        Its place in the root.
    link : Path
        What points to it, or would if it were in use.

    Raises
    ------
    BuildError
        If it cannot be made here; it says why.
    """
    name = build.parent.name
    remains = build if os.path.lexists(build) or not aside(build).is_dir() else aside(build)
    if os.path.lexists(remains) and not may_remove(remains):
        raise BuildError(f"only {owner(remains)} can replace it")
    record = _record(remains, build.name)
    sources: Sequence[EnvironmentSource | None] = [None] if name == CLIENT else [*_sources(site, remains, name)]
    for source in sources:
        for python, version in _pythons(site, remains, record, source):
            for accelerator, uv in itertools.product(_accelerators(site, record, link), _uvs(remains, record)):
                inputs = {
                    "source_sha256": source.sha256 if source else "", "interpreter": python, "python": version,
                    "platform": record.platform if record else platform.machine(), "accelerator": accelerator,
                    "uv": uv,
                }  # fmt: skip
                for lock in _locks(site, remains):
                    for recipe in _recipes(site, remains, source, accelerator, lock):
                        if build_digest({**inputs, "recipe_sha256": sha256(recipe.encode())}, lock) == build.name:
                            plan = BuildPlan(
                                name, source, recipe, Interpreter(python, version, ""), inputs["platform"],
                                accelerator, link, site.layout.lock_file(name),
                            )  # fmt: skip
                            return _possible(Again(plan, lock, uv, build, remains, record))
    if not os.path.lexists(remains):
        raise BuildError("it is not there, nor what it was made from: rootstock-site install puts the link back")
    raise BuildError("what it was made from is damaged too, and is nowhere else in the root")


def _record(remains: Path, digest: str) -> BuildRecord | None:
    """Return what a build says of itself, if that makes its name."""
    try:
        record = read_build(remains)
    except LaterRecordError as error:
        raise BuildError(error.hint) from error
    except RootError:
        return None
    if record is None or record.digest != digest:
        return None
    keys = ("source_sha256", "recipe_sha256", "interpreter", "python", "platform", "accelerator", "uv", "lock_sha256")
    return record if content_digest({key: getattr(record, key) for key in keys}) == digest else None


def _possible(again: Again) -> Again:
    """Refuse what this machine or this version of Rootstock cannot make."""
    if again.plan.platform != platform.machine():
        raise BuildError(f"it is for {again.plan.platform}: run this on a machine with such a processor")
    if again.record is None:
        check_uv_of(again)
    return again


def check_uv_of(again: Again) -> None:
    """Refuse a build that this version of uv does not make, where nothing says what it held.

    Raises
    ------
    BuildError
    """
    if again.uv != uv_version():
        raise BuildError(f"its records are damaged, and it was made with uv {again.uv}; this is uv {uv_version()}")


def check_interpreter_of(again: Again) -> None:
    """Refuse a build whose interpreter is not the one any more that it was made on.

    Raises
    ------
    BuildError
    """
    wanted = again.plan.interpreter
    try:
        found = find_interpreter(SpecifierSet(), [wanted.path], "owner").version
    except BuildError:
        found = ""
    if found != wanted.version:
        raise BuildError(f"its Python {wanted.version} at {wanted.path} is {found or 'gone'}")


def as_published(staged: Staged, again: Again) -> bool:
    """Tell whether a build that was made again holds what was published; what only the old one has is taken from there.

    That is what another version of uv writes otherwise, and what packages have left in their own folder.

    Parameters
    ----------
    staged : Staged
    again : Again

    Raises
    ------
    BuildError
        If it is known what was published, and this is something else.
    """
    folder, record = staged.folder, again.record
    assert folder is not None
    if record is None:
        return False
    contents = read_contents(folder, staged.contents)
    published = read_sums(again.remains, record.files_sha256)
    if published is None:
        return contents.write(folder) == record.files_sha256 and contents.links == record.links
    differ = {path for path in {*published, *contents.hashes} if published.get(path) != contents.hashes.get(path)}
    for path in differ:
        (folder / path).unlink(missing_ok=True)  # a copy in its place: it may be uv's, too
        if path in published and hash_file(f"{again.remains}/{path}") == published[path]:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(again.remains / path, folder / path)
    hashes = {path: digest for path, digest in contents.hashes.items() if path not in differ}
    contents = read_contents(folder, type(contents)(hashes, {}, 0, 0))
    missing = sorted(published.keys() - contents.hashes.keys())
    if missing or contents.links != record.links:
        shown = ", ".join(missing[:_SHOWN]) or "its links"
        raise BuildError(f"{again.build} cannot be made again: {shown} came out otherwise than they were published.")
    contents.write(folder)
    return True


def exchange(staged: Staged, again: Again, access: Access) -> None:
    """Put a build that was made again into the place of the damaged one.

    Parameters
    ----------
    staged : Staged
    again : Again
    access : Access
        Who may read it.
    """
    folder, doomed = staged.folder, aside(again.build)
    assert folder is not None
    access.make_immutable(folder)
    if os.path.lexists(again.build):
        remove_tree(doomed)
        again.build.rename(doomed)
    try:
        folder.rename(again.build)
    except BaseException:
        if os.path.lexists(doomed) and not os.path.lexists(again.build):
            doomed.rename(again.build)
        raise
    with contextlib.suppress(OSError):  # a file that somebody has open keeps its folder on NFS; `gc` removes it
        remove_tree(doomed)


def _different(*values: str) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _texts(*paths: Path) -> Iterator[str]:
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            yield read_text(path, RECORD_LIMIT)


def _sources(site: Site, remains: Path, name: str) -> Iterator[EnvironmentSource]:
    for path in (remains / BUILD_SOURCE, site.layout.environment_file(name)):
        with contextlib.suppress(RootstockError):
            yield read_source(path, name)


def _recipes(site: Site, remains: Path, source: EnvironmentSource | None, accelerator: str, lock: str) -> Iterable[str]:
    yield from _texts(remains / RECIPE)
    if source is not None:
        with contextlib.suppress(RootstockError):
            yield recipe_text(source.header, site.cluster, accelerator, scope_of(lock))


def _locks(site: Site, remains: Path) -> list[str]:
    layout, name = site.layout, remains.parent.name
    kept = layout.runtimes.glob("*/client.lock") if name == CLIENT else layout.environments.glob(f"{name}*.py.lock")
    return _different(*_texts(remains / LOCK, *sorted(kept)))


def _pythons(
    site: Site, remains: Path, record: BuildRecord | None, source: EnvironmentSource | None
) -> Iterator[tuple[str, str]]:
    """Yield what a build may have been made on: program and version."""
    if record:
        yield record.interpreter, record.python
    settings: tuple[str, ...] = site.cluster.interpreters
    with contextlib.suppress(OSError):
        program = os.readlink(remains / "bin" / "python")
        yield program, _setting(remains, "version_info")
        settings = (program, *settings)
    with contextlib.suppress(RootstockError):
        requires = source.requires_python if source else SpecifierSet()
        found = find_interpreter(requires, settings, site.cluster.readers, root_interpreters(site))
        yield found.path, found.version


def _accelerators(site: Site, record: BuildRecord | None, link: Path) -> list[str]:
    named = link.name.partition(VARIANT)[2].rpartition("-")[2]
    return _different(record.accelerator if record else "", named, site.cluster.accelerator)


def _uvs(remains: Path, record: BuildRecord | None) -> list[str]:
    return _different(record.uv if record else "", _setting(remains, "uv"), uv_version())


def _setting(remains: Path, key: str) -> str:
    """Return what uv has noted of an environment."""
    text = next(_texts(remains / "pyvenv.cfg"), "")
    found = re.search(rf"^{key} = (\S+)$", text, re.MULTILINE)
    return found[1] if found else ""
