"""Begins a run, or goes on with it: what a command asks for, what the folder is bound to, and which build computes."""

from __future__ import annotations

import errno
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootstock.errors import ConfigurationError, LockBusyError, RootError
from rootstock.simulations.runs.export import check_no_input
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.making import preparing_run
from rootstock.simulations.runs.records import (
    RunRecord,
    check_same_run,
    read_run,
    rebase,
    run_file,
)
from rootstock.simulations.runs.source import Source, asked_input, index_input

_WAIT_S = 0.5
_MAKING_S = 600.0  # how long the making of a large run may take before others give up

Report = Callable[[str], object]
Announce = Callable[[RunFolder | None, int], object]
# Returns a calculator for a build; None: for the one that is in use.
Make = Callable[[str | None], Any]


@dataclass(frozen=True)
class Asked:
    """What a command line asks for.

    Attributes
    ----------
    kind : {'singlepoint', 'relax', 'md'}
    model : str
    names : sequence of str
        Files of structures.
    format : str or None
        Their format, where somebody named it.
    settings : mapping
        Of `Relaxation` or `Dynamics`, or ``properties``.
    setup_kwargs : mapping
    device : str
    out : Path
        Where results are exported to at the end.
    drawn : mapping
        Further settings, which nobody asked for: those of the command that makes the run hold for all others.
    """

    kind: str
    model: str
    names: Sequence[str]
    format: str | None
    settings: Mapping[str, Any]
    setup_kwargs: Mapping[str, Any]
    device: str
    out: Path
    drawn: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def begin(
    path: Path, asked: Asked, make: Make, report: Report, announce: Announce = lambda *_: None,
    identify: Callable[[Any], Mapping[str, Any]] | None = None,
) -> Iterator[tuple[RunFolder, Source, Any]]:  # fmt: skip
    """Make a run, or open the one that the same command has begun; yield it with a calculator, which is closed then.

    Parameters
    ----------
    path : Path
        The run folder.
    asked : Asked
    make : callable
        Returns a calculator for a build.
    report : callable
        Is told what is being done.
    announce : callable, optional
        Is given the folder, None while it is being made, and how many structures there are, before a worker starts.
    identify : callable, optional
        Returns what a run is bound to, given the calculator. By default a worker is started, which says it.

    Raises
    ------
    ConfigurationError
        If the folder holds another run, its input was changed, or the model does not compute what is asked for.
    LockBusyError
        If another process makes the run, and is not done in ten minutes.
    """
    deadline = time.monotonic() + _MAKING_S
    made: tuple[RunFolder, Source, Any] | None = None
    while not run_file(path).exists():
        try:
            with preparing_run(path):
                if not run_file(path).exists():
                    made = _make(path, asked, make, report, announce, identify)
        except LockBusyError as error:
            if time.monotonic() > deadline:
                raise
            report(f"waiting: {error.message}")
            time.sleep(_WAIT_S)
    if made is not None:
        with closing(made[2]):
            yield made
            made[1].check_unchanged()
        return
    record = read_run(path)
    check_asked(path, record, asked)
    with resume(path, make, announce=announce) as found:
        yield found


@contextmanager
def resume(
    path: Path, make: Make, *, accept_other_build: bool = False, announce: Announce = lambda *_: None
) -> Iterator[tuple[RunFolder, Source, Any]]:  # fmt: skip
    """Go on with a run; yield it with a calculator of the build that it is bound to.

    Parameters
    ----------
    path : Path
    make : callable
        Returns a calculator for a build.
    accept_other_build : bool
        Whether to bind the run to the build that is in use now.
    announce : callable, optional
        As for `begin`.

    Raises
    ------
    ConfigurationError
        If the input was changed, or another model computes.
    RootError
        If the build is gone.
    """
    folder = RunFolder.open(path)
    record = folder.record
    source = Source(path, record.input)
    source.check_unchanged()
    with naming_rebase(path, record):
        calc = make(None if accept_other_build else record.build)
    with closing(calc):
        announce(folder, record.structures)
        if accept_other_build:
            folder = RunFolder(path, rebase(path, calc.info()))
        yield folder, source, calc
        source.check_unchanged()


@contextmanager
def naming_rebase(path: Path, record: RunRecord | None) -> Iterator[None]:
    """Let the error about a build that is gone say how to go on.

    Parameters
    ----------
    path : Path
    record : RunRecord or None
        None of a run that is yet to be made.
    """
    try:
        yield
    except (RootError, ConfigurationError) as error:
        if record is not None and record.build and record.build in error.message:
            error.hint = (
                "Install that build again; or go on with the build that is in use now, which the folder then records: "
                f"rootstock run continue --rebase {shlex.quote(str(path))}"
            )
        raise


def find_run(path: Path) -> RunRecord | None:
    """Return what the run in a folder is bound to; None if the folder is not there, or holds no run yet.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ConfigurationError
        If it can be no run folder.
    """
    try:
        os.stat(run_file(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "is not a folder" if error.errno == errno.ENOTDIR else f"cannot be a run folder: {error.strerror}"
        raise ConfigurationError(
            f"{path} {why}.", "Name a new folder, or one that holds a run: --run FOLDER"
        ) from error
    return read_run(path)


def check_asked(path: Path, record: RunRecord, asked: Asked) -> None:
    """Refuse to go on with a run by another command than it began with.

    Parameters
    ----------
    path : Path
    record : RunRecord
    asked : Asked

    Raises
    ------
    ConfigurationError
        It names the first difference.
    """
    settings = {name: record.settings[name] for name in asked.drawn if name in record.settings} | {**asked.settings}
    check_same_run(
        path, record,
        {"kind": asked.kind, "model": asked.model, "settings": settings, "setup_kwargs": asked.setup_kwargs},
    )  # fmt: skip
    before = {"asked": record.input["asked"], "format": record.input["format"]}
    now = asked_input(asked.names, asked.format)
    if before == now:
        return
    files_before, files_now = ([f"{file}@{selection}" for file, selection in each["asked"]] for each in (before, now))
    changes = [f"{name} is new" for name in files_now if name not in files_before]
    changes += [f"{name} is missing" for name in files_before if name not in files_now]
    changes += ["the order of files or their format is another"]
    raise ConfigurationError(
        f"{path} holds a run of other structures: {changes[0]}.",
        "Give this one a folder of its own, with --run; or go on with what the folder holds: "
        f"rootstock run continue {shlex.quote(str(path))}",
    )


def _make(
    path: Path, asked: Asked, make: Make, report: Report, announce: Announce,
    identify: Callable[[Any], Mapping[str, Any]] | None,
) -> tuple[RunFolder, Source, Any]:  # fmt: skip
    """Fill a new folder."""
    said = index_input(path, asked.names, asked.format, report)
    source = Source(path, said)
    calc = make(None)
    try:
        announce(None, len(source))
        if identify is None:
            report("starting the model")
        info = calc.info() if identify is None else identify(calc)
        properties, known = asked.settings.get("properties") or (), info["properties"]
        if unknown := [name for name in properties if known and name not in known]:
            raise ConfigurationError(f"The model does not compute {unknown[0]}; it computes {', '.join(known)}.")
        record = RunRecord(
            kind=asked.kind, settings={**asked.settings, **asked.drawn}, model=asked.model, structures=len(source),
            input=said, root=info["root"], environment=info["environment"],
            environment_sha256=info["environment_sha256"], build=info["build"], weights=info["weights"] or [],
            setup_kwargs=dict(asked.setup_kwargs), device=asked.device, out=os.path.realpath(asked.out),
        )  # fmt: skip
        return RunFolder.create(path, record), source, calc
    except BaseException:
        calc.close()
        raise


def check_out(out: Path, names: Sequence[str]) -> None:
    """Refuse to export to a file that the run reads.

    Parameters
    ----------
    out : Path
    names : sequence of str
        Files of structures.

    Raises
    ------
    ConfigurationError
        If it is one of them.
    """
    check_no_input(out, (file for file, _ in asked_input(names, None)["asked"]))
