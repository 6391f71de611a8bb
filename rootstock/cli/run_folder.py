"""Computes in a run folder: shows progress, exports what it holds at the end, and says what is wrong with it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.command import INTERRUPTED
from rootstock.cli.common import show_json
from rootstock.cli.progress_line import stop_gently
from rootstock.cli.run_end import not_converged, recorded, some_failed, state, steps_words
from rootstock.cli.run_line import Line, beginning, failed, failed_of, show_line
from rootstock.cli.run_workers import AskedWorkers, compute_with, estimate
from rootstock.errors import ConfigurationError, LockBusyError, OutputError, RootstockError, WorkerError

if TYPE_CHECKING:
    from rootstock.cli.jobs import AskedJobs
    from rootstock.root.lock import Report
    from rootstock.simulations.pool.slots import Slot
    from rootstock.simulations.runs.elements import Element
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.source import Source

Announce = Callable[["RunFolder | None", int], object]
Opened = Callable[["Report", Announce], AbstractContextManager[tuple["RunFolder", "Source", Any]]]


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
    model : str
        For people.
    as_json : bool
        Whether standard output is for a program: people are told on standard error, and at the end comes `state`.
    workers : AskedWorkers or None
        None: this process has the only one.
    places : sequence of Slot
        Where workers compute.
    jobs : AskedJobs or None
        By which Parsl's workers compute it.
    """

    path: Path
    element: Element
    stop_on_error: bool = False
    retry_failed: bool = False
    out: Path | None = None
    overwrite: bool = False
    more: str = ""
    model: str = ""
    as_json: bool = False
    workers: AskedWorkers | None = None
    places: Sequence[Slot] = ()
    jobs: AskedJobs | None = None

    def say(self, text: str) -> None:
        """Tell a person something.

        Parameters
        ----------
        text : str
        """
        click.echo(text, err=self.as_json)

    def announce(self, folder: RunFolder | None, structures: int) -> None:
        """Say how much there is to do, before anything else takes time.

        Parameters
        ----------
        folder : RunFolder or None
            None of a run that is being made.
        structures : int
            How many it has.
        """
        owned = todo = len(range(self.element.number - 1, structures, self.element.of))
        lost = 0
        if folder is not None:
            todo = len(folder.missing(self.element, retry_failed=self.retry_failed))
            if not self.retry_failed:
                lost = failed_of(folder.progress().statuses[folder.owned(self.element)])
        click.echo(beginning(self.path, self.element, self.model, owned, todo, lost), err=True)

    def command(self, name: str) -> str:
        """Return a command about this folder, to be copied.

        Parameters
        ----------
        name : str
        """
        element = f" --element {self.element}" if self.element.of > 1 and name != "status" else ""
        more = ""
        if name in ("continue", "retry-failed"):
            more = self.more + (self.workers.words() if self.workers else "") + (self.jobs.same() if self.jobs else "")
        return f"rootstock run {name} {shlex.quote(str(self.path))}{element}{more}"

    def again(self) -> str:
        """Return the command that goes on; in a job of ours it is one for whoever has submitted it."""
        from rootstock.simulations.runs.schedulers import Job
        from rootstock.simulations.runs.submissions import go_on_command

        return (Job.of_this_process() and go_on_command(self.path)) or self.command("continue")


def compute(run: Run, opened: Opened) -> None:
    """Compute what is missing in a run folder, export what it holds, and end with the code that says how it went.

    Parameters
    ----------
    run : Run
    opened : callable
        Opens the folder, given what shows steps, and what is told before the worker starts.
    """
    from rootstock.simulations.runs.begin import find_run
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.source import Source

    if (held := find_run(run.path)) and not os.access(run.path, os.W_OK):  # nothing is missing, or it was refused
        end(run, RunFolder(run.path, held), Source(run.path, held.input).name, "")
        return
    begun = False
    try:
        with show_line() as line, opened(line.tell, run.announce) as (folder, source, calc):
            begun = True
            _compute(run, line, folder, source, calc)
    except KeyboardInterrupt:
        said = recorded(run.path)
        click.echo(f"Interrupted.{said} Continue with: {run.again()}" if said else "Interrupted.", err=True)
        click.get_current_context().exit(INTERRUPTED)
    except (ConfigurationError, WorkerError, OutputError) as error:
        # What is wrong with the command does not go away by itself; what is wrong with a structure is recorded.
        if (begun or not isinstance(error, ConfigurationError)) and (said := recorded(run.path)):
            error.hint = "\n".join(filter(None, (error.hint, f"{said.strip()} Continue with: {run.again()}")))
        raise
    except OSError as error:  # of a file of structures
        if not isinstance(error, RootstockError) and (said := recorded(run.path)):
            click.echo(f"{said.strip()} Continue with: {run.again()}", err=True)
        raise
    limit = run.workers.limit if run.workers is not None else None
    if limit is not None and _show_trial(run, folder, line, limit):
        return
    end(run, RunFolder.open(run.path), source.name, line.took())


def _compute(run: Run, line: Line, folder: RunFolder, source: Source, calc: Any) -> None:
    """Compute what is missing, in this process or with several workers."""
    from rootstock.simulations.pool.run import PoolRun, Workers
    from rootstock.simulations.runs.carry_out import carry_out

    if run.jobs is not None:
        calc.close()  # each worker of Parsl's makes one of its own
        pool = PoolRun(folder, calc, Workers(), run.element, run.retry_failed)
        line.begin(folder, todo := len(pool.todo("any other")))
        ended = bool(todo) and not run.jobs.compute(pool, line, stop_on_error=run.stop_on_error)
    elif run.workers is not None:
        calc.close()  # each driver makes one of its own
        pool = PoolRun(folder, calc, run.workers.settings(), run.element, run.retry_failed)
        line.begin(folder, todo := len(pool.todo("any other")))
        ended = bool(todo) and not compute_with(pool, run.places[:todo], line, stop_on_error=run.stop_on_error)
    else:
        line.begin(folder, len(folder.missing(run.element, retry_failed=run.retry_failed)))
        # A simulation ends after its step, and writes where it is; all else is interrupted at once.
        with stop_gently() if folder.record.kind == "md" else nullcontext(lambda: False) as stopped:
            carry_out(
                folder, source, calc, run.element, on_recorded=line.add, stop_on_error=run.stop_on_error,
                retry_failed=run.retry_failed, stopped=stopped,
            )  # fmt: skip
        ended = stopped() and bool(len(folder.missing(run.element)))
    if ended:
        raise KeyboardInterrupt


def _show_trial(run: Run, folder: RunFolder, line: Line, limit: int) -> bool:
    """Say how long the rest takes, if some structures were left out, and tell whether they were."""
    left = len(folder.missing(run.element, retry_failed=run.retry_failed))
    done, seconds = line.trial()
    if not left or not done:
        return False
    run.say(f"{line.took()}. {estimate(done, seconds, left, run.places, min(limit, len(run.places)))}.")
    run.say(f"Compute the rest: {run.command('continue')}")
    return True


def refuse_read_only(path: Path, element: Element, *, retry_failed: bool = False, out: Path | None = None) -> None:
    """Refuse to compute in a run folder that this user cannot write, unless all that is left to do is an export.

    Parameters
    ----------
    path : Path
    element : Element
    retry_failed : bool
    out : Path or None
        The file for results that somebody has named.

    Raises
    ------
    ConfigurationError
        With how to get what the folder holds.
    """
    from rootstock.root.disk_usage import number_of
    from rootstock.simulations.runs.folder import RunFolder

    if os.access(path, os.W_OK):
        return
    missing = len(RunFolder.open(path).missing(element, retry_failed=retry_failed))
    if missing or out is None:
        what = f"{number_of(missing, 'structure')} cannot be computed there" if missing else "nothing is missing in it"
        raise ConfigurationError(
            f"You cannot write into the run folder {path}; {what}.",
            f"What it holds can be had all the same: rootstock run export {shlex.quote(str(path))} FILE",
        )


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
    from rootstock.simulations.runs.export import is_exported

    progress = folder.progress()
    counts = progress.counts()
    where, damaged = f"in {run.path}", 0
    if counts["missing"]:
        run.say(
            f"Element {run.element} is computed{took and f' ({took})'}. "
            f"Still missing {where}: {number_of(counts['missing'], 'structure')}."
        )
    elif run.element.of > 1 and is_exported(folder.path, run.out or Path(folder.record.out)):
        run.say(f"All is computed{took and f' ({took})'}, and {run.out or folder.record.out} holds it.")
    elif counts["done"] + counts["not_converged"]:
        out, damaged = _export(run, folder, took)
        where = f"in {out}"
        if folder.record.kind == "relax" and (steps := steps_words(progress, name)):
            run.say(steps)
    if run.as_json:
        show_json(state(folder))
    if failed(progress) or damaged:
        raise some_failed(folder, progress, damaged, run.command, name)
    if counts["not_converged"]:
        raise not_converged(folder, progress, name, where, run.out or Path(folder.record.out))


def _export(run: Run, folder: RunFolder, took: str) -> tuple[Path, int]:
    """Write the file of results, and return it with the number of results that are damaged on disk."""
    from rootstock.simulations.runs.elements import claim_out
    from rootstock.simulations.runs.export import export

    out = run.out or Path(folder.record.out)
    command = shlex.join(["rootstock", *sys.argv[1:]])
    try:
        with claim_out(out, command) if run.element.of > 1 else nullcontext():
            exported = export(folder, out, overwrite=run.overwrite)
            run.say("; ".join(filter(None, (*exported.sentences(), took))))
            return out, exported.damaged
    except LockBusyError as error:
        if run.element.of == 1:
            raise
        click.echo(f"Not written by this element: {error.message}", err=True)
        return out, 0
