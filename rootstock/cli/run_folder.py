"""Computes in a run folder: shows progress, exports what it holds at the end, and says what is wrong with it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.command import INTERRUPTED
from rootstock.cli.run_line import failed, show_line
from rootstock.errors import (
    LockBusyError,
    NotConvergedError,
    OutputError,
    RootstockError,
    SomeFailedError,
    WorkerError,
)

if TYPE_CHECKING:
    from rootstock.root.lock import Report
    from rootstock.simulations.runs.elements import Element
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.progress import Progress
    from rootstock.simulations.runs.source import Source

Opened = Callable[["Report"], AbstractContextManager[tuple["RunFolder", "Source", Any]]]

_SHOWN = 5  # failures that the end of a command lists


@dataclass(frozen=True)
class Run:
    """How to compute in a run folder.

    Attributes
    ----------
    path : Path
        The folder.
    element : Element
    stop_on_error, retry_failed : bool
        As for `rootstock.simulations.runs.carry_out.carry_out`.
    out : Path or None
        Where results go at the end; None: where the run says.
    overwrite : bool
        Whether a file may be replaced that is not of this run.
    more : str
        Options that another command for this folder needs, such as the device.
    """

    path: Path
    element: Element
    stop_on_error: bool = False
    retry_failed: bool = False
    out: Path | None = None
    overwrite: bool = False
    more: str = ""

    def command(self, name: str) -> str:
        """Return a command about this folder, to be copied.

        Parameters
        ----------
        name : str
        """
        element = f" --element {self.element}" if self.element.of > 1 and name != "status" else ""
        more = self.more if name in ("continue", "retry-failed") else ""
        return f"rootstock run {name} {shlex.quote(str(self.path))}{element}{more}"


def compute(run: Run, opened: Opened) -> None:
    """Compute what is missing in a run folder, export what it holds, and end with the code that says how it went.

    Parameters
    ----------
    run : Run
    opened : callable
        Opens the folder, given what shows steps.
    """
    from rootstock.simulations.runs.carry_out import carry_out
    from rootstock.simulations.runs.folder import RunFolder

    try:
        with show_line() as line, opened(line.tell) as (folder, source, calc):
            line.begin(folder, len(folder.missing(run.element, retry_failed=run.retry_failed)))
            carry_out(
                folder, source, calc, run.element, on_recorded=line.add, stop_on_error=run.stop_on_error,
                retry_failed=run.retry_failed,
            )  # fmt: skip
    except KeyboardInterrupt:
        said = _recorded(run.path)
        click.echo(f"Interrupted.{said} Continue with: {run.command('continue')}" if said else "Interrupted.", err=True)
        click.get_current_context().exit(INTERRUPTED)
    except (WorkerError, OutputError) as error:
        if said := _recorded(run.path):
            error.hint = "\n".join(
                filter(None, (error.hint, f"{said.strip()} Continue with: {run.command('continue')}"))
            )
        raise
    except OSError as error:  # of a file of structures
        if not isinstance(error, RootstockError) and (said := _recorded(run.path)):
            click.echo(f"{said.strip()} Continue with: {run.command('continue')}", err=True)
        raise
    end(run, RunFolder.open(run.path), source.name, line.took())


def near(path: Path) -> Path:
    """Return a path as somebody here would write it.

    Parameters
    ----------
    path : Path
    """
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _recorded(path: Path) -> str:
    """Return a sentence about what a run folder holds; empty if it holds no run."""
    from rootstock.simulations.runs.folder import RunFolder

    with suppress(Exception):  # the error that is shown is another one
        progress = RunFolder.open(path).progress()
        missing = progress.counts()["missing"]
        return f" {len(progress.statuses) - missing:,} of {len(progress.statuses):,} structures are recorded."
    return ""


def end(run: Run, folder: RunFolder, name: Callable[[int], str], took: str) -> None:
    """Export the results of a run, if nothing is missing, and say what is wrong.

    Parameters
    ----------
    run : Run
    folder : RunFolder
    name : callable
        Returns file and frame of an index.
    took : str
        How long it took.

    Raises
    ------
    SomeFailedError
        If structures failed.
    NotConvergedError
        If none failed, and relaxations did not converge.
    """
    from rootstock.root.disk_usage import number_of

    progress = folder.progress()
    counts = progress.counts()
    where, damaged = f"in {run.path}", 0
    if counts["missing"]:
        click.echo(
            f"Element {run.element} is computed{took and f' ({took})'}. "
            f"Still missing {where}: {number_of(counts['missing'], 'structure')}."
        )
    elif counts["done"] + counts["not_converged"]:
        out, damaged = _export(run, folder, took)
        where = f"in {out}"
    if failed(progress) or damaged:
        raise _some_failed(run, folder, progress, damaged)
    if counts["not_converged"]:
        raise _not_converged(folder, progress, name, where)


def _export(run: Run, folder: RunFolder, took: str) -> tuple[Path, int]:
    """Write the file of results, and return it with the number of results that are damaged on disk."""
    from rootstock.simulations.claims import claim_files
    from rootstock.simulations.runs.export import export

    out = run.out or Path(folder.record.out)
    command = shlex.join(["rootstock", *sys.argv[1:]])
    try:
        with claim_files([out], command) if run.element.of > 1 else nullcontext():
            exported = export(folder, out, overwrite=run.overwrite)
            click.echo("; ".join(filter(None, (*exported.sentences(), took))))
            return out, exported.damaged
    except LockBusyError:
        if run.element.of == 1:
            raise
        click.echo(f"Another element of the run writes {out}.", err=True)
        return out, 0


def _some_failed(run: Run, folder: RunFolder, progress: Progress, damaged: int) -> SomeFailedError:
    lines = [
        f"  {failure_line(failure)}" for _, failure in zip(range(_SHOWN), folder.failures(), strict=False)
    ]  # fmt: skip
    count = failed(progress)
    if count > _SHOWN:
        lines.append(f"  and {count - _SHOWN:,} more")
    lines = [f"{count:,} of {len(progress.statuses):,} structures failed:", *lines] if count else []
    if damaged:
        lines.append(f"{damaged:,} of {len(progress.statuses):,} results are damaged on disk, and left out.")
    return SomeFailedError(
        "\n".join(lines),
        f"List all failures:       {run.command('status')} --failures\n"
        f"Compute them once more:  {run.command('retry-failed')}",
    )


def failure_line(failure: Mapping[str, Any]) -> str:
    """Return what a person wants to know of a failure, in one line.

    Parameters
    ----------
    failure : Mapping
        As `RunFolder.failures` yields it.
    """
    message = " ".join(str(failure["message"]).partition("\n")[0].split())  # what follows is what to do
    shown = message if len(message) <= 200 else f"{message[:197]}..."
    return f"{failure['structure'] or failure['index']}: {failure['class']}: {failure['error']}: {shown}"


def _not_converged(
    folder: RunFolder, progress: Progress, name: Callable[[int], str], where: str
) -> NotConvergedError:  # fmt: skip
    import numpy as np

    from rootstock.simulations.runs.index import Status

    late = np.flatnonzero(progress.statuses == Status.NOT_CONVERGED).tolist()
    settings = folder.record.settings
    more = " ..." if len(late) > 10 else ""
    return NotConvergedError(
        f"{len(late):,} of {len(progress.statuses):,} structures did not reach {settings['fmax']} eV/Å in "
        f"{settings['steps']} steps: {', '.join(map(name, late[:10]))}{more}. All are {where}.",
        "Go on from there with more --steps, in another run folder, or look at them.",
    )
