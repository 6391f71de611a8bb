"""Generations: a numbered record of what was in use after each change of a root.

``{root}/generations/<n>.json`` is written last and never changed. The newest one is the present; going back to an
older one makes a new one that says which it restores.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rootstock.errors import LockBusyError, RootError, RootstockError, SiteError
from rootstock.root.aliases import write_table
from rootstock.root.hooks import check_hook, run_hook
from rootstock.root.layout import RootLayout
from rootstock.root.lock import AdminContext, admin_lock
from rootstock.root.ownership import check_caller, give_to_owner
from rootstock.root.permissions import Access
from rootstock.root.reachability import cause
from rootstock.root.record_files import Record, read_record
from rootstock.root.records import now, read_marker, user_name, write_file


@dataclass(frozen=True)
class State:
    """What is in use.

    Attributes
    ----------
    default : str
        The version that ``module load rootstock`` loads.
    active : Mapping[str, str]
        Environment -> digest of its build.
    clients : Mapping[str, str]
        Version -> digest of the build of its client.
    """

    default: str
    active: Mapping[str, str]
    clients: Mapping[str, str]


@dataclass(frozen=True)
class Generation(Record):
    """A state, and who made it when and how. `restores` is the number of the generation that it went back to."""

    number: int
    at: str
    by: str
    on: str
    command: str
    state: State
    restores: int | None = None


def read_state(layout: RootLayout) -> State:
    """Return what is in use now."""
    default = read_marker(layout).get("default", "")
    return State(default, _links(layout.all_active), _links(layout.clients))


def _links(folder: Path) -> dict[str, str]:
    """Return the name of each link in a folder with the name of what it points to."""
    if not folder.is_dir():
        return {}
    links = (entry for entry in os.scandir(folder) if entry.is_symlink() and not entry.name.startswith("."))
    return {entry.name: os.path.basename(os.readlink(entry.path)) for entry in sorted(links, key=lambda e: e.name)}


def read_generations(layout: RootLayout) -> list[Generation]:
    """Return all generations, oldest first.

    Raises
    ------
    RootError
        If one cannot be read.
    """
    records = map(read_generation, generation_files(layout))
    return [generation for generation in records if generation is not None]


def generation_files(layout: RootLayout) -> list[Path]:
    """Return the records of all generations, oldest first."""
    paths = [path for path in layout.generations.glob("*.json") if path.stem.isdigit()]
    return sorted(paths, key=lambda path: int(path.stem))


def read_generation(path: Path) -> Generation | None:
    """Return the generation in a file; None if there is no file. Errors are those of `read_generations`."""
    place = shlex.quote(str(path))
    remedy = f"What is in use now is not in it. An admin moves it away: mv {place} {place}.damaged"
    return read_record(Generation, path, remedy)


def latest(layout: RootLayout) -> Generation | None:
    """Return the newest generation. Errors are those of `read_generations`."""
    return next((read_generation(path) for path in reversed(generation_files(layout))), None)


def latest_number(layout: RootLayout) -> int:
    """Return the number of the newest generation; 0 if there is none."""
    newest = latest(layout)
    return newest.number if newest else 0


def unrecorded(layout: RootLayout) -> bool:
    """Tell whether a change was cut off before its generation was written."""
    newest = latest(layout)
    return newest is None or newest.state != read_state(layout)


@dataclass(frozen=True)
class Change:
    """A change of a root that was decided upon.

    Attributes
    ----------
    command : str
        The name of the command, which the site's hooks are named after.
    cluster : str
    since : int
        The newest generation at the time of the decision; 0 if there was none.
    restores : int, optional
        The generation that is gone back to.
    always : bool
        Whether it is a generation even if the same is in use as before.
    """

    command: str
    cluster: str
    since: int
    restores: int | None = None
    always: bool = True


@contextlib.contextmanager
def transaction(layout: RootLayout, access: Access, change: Change, admin: AdminContext) -> Iterator[None]:
    """Change a root: under its lock, between the site's hooks, and with a generation at the end.

    Parameters
    ----------
    layout : RootLayout
    access : Access
        Modes of the generation's file.
    change : Change
        What was decided upon.
    admin : AdminContext
        Who changes it, and who is told.

    Raises
    ------
    LockBusyError
        If another admin is at work, or has been since the decision.
    HookError
        If a hook fails, or somebody else could have written it.
    RootError
        If the root is somebody else's.
    SiteError
        If the file system refuses something.
    """
    check_caller(layout, change.command, access)
    with friendly_os_errors(layout), admin_lock(layout, admin):
        newest = latest(layout)
        if newest is not None and newest.number != change.since:
            raise LockBusyError(
                f"{newest.by} on {newest.on} has changed {layout.root} meanwhile ({newest.command}).",
                "Run the command again: it will say what is left to do.",
            )
        for moment in ("pre", "post"):  # before anything is done
            check_hook(layout, layout.hook(moment, change.command))
        run_hook(layout, "pre", change.command, change.cluster, admin)
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError, RootError):  # the error that stopped us is the one to report
                if unrecorded(layout):
                    _record(layout, access, f"{admin.command} (did not end well)", change.restores)
                write_table(layout, read_state(layout).active, access.file)
            raise
        if change.always or unrecorded(layout):
            _record(layout, access, admin.command, change.restores)
        write_table(layout, read_state(layout).active, access.file)  # last: readers can do without
        run_hook(layout, "post", change.command, change.cluster, admin)


def _record(layout: RootLayout, access: Access, command: str, restores: int | None) -> None:
    number = latest_number(layout) + 1
    generation = Generation(number, now(), user_name(), platform.node(), command, read_state(layout), restores)
    write_file(layout.generation(number), generation.to_json().encode(), access.file)
    give_to_owner(layout.generation(number), layout)


@contextlib.contextmanager
def friendly_os_errors(layout: RootLayout) -> Iterator[None]:
    """Turn an error of the file system into one that says what to do.

    Raises
    ------
    RootError
        If this user may not do what the block does.
    SiteError
        If the file system refuses it for another reason.
    """
    try:
        yield
    except RootstockError:  # some are errors of the system as well, for those who catch them as such
        raise
    except PermissionError as error:
        raise RootError(
            f"You may not change {error.filename or layout.root}.", "Do this as one of the root's admins."
        ) from error
    except OSError as error:
        raise SiteError(
            f"Cannot write {error.filename or layout.root}: {cause(error)}.",
            "What was installed before is untouched. Run the same command again when this is mended.",
        ) from error
