"""Submits jobs that compute a run folder, and keeps in the folder what was submitted."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rootstock import __version__
from rootstock.client.own_python import own_python
from rootstock.config.job_scripts import RunJob, render_run_job
from rootstock.config.site import Site
from rootstock.errors import ConfigurationError, LockBusyError, RootstockError, SchedulerError
from rootstock.root.holder import Holder
from rootstock.simulations.claims import HeldError, claim_record, remove_record
from rootstock.simulations.output import naming
from rootstock.simulations.runs.elements import running
from rootstock.simulations.runs.engine_jobs import engine_jobs
from rootstock.simulations.runs.schedulers import Job
from rootstock.simulations.runs.submissions import (
    BadNode,
    Submission,
    bad_nodes,
    folder_of,
    numbers,
    short_names,
    submitted,
    write_submission,
)
from rootstock.simulations.submission.plan import JobPlan, without_nodes
from rootstock.simulations.submission.send import MaybeSubmittedError, submit, submit_command

_RISK = (
    "If it is lost for good, add --force. If it still runs, some structures are computed twice; no result is damaged."
)
_SUBMITTING = "submitting.json"
_PLAIN = re.compile(r"[\w./+,:=@~-]+")  # what no scheduler takes for a pattern or the end of a word


@dataclass(frozen=True)
class Prepared:
    """What would be submitted.

    Attributes
    ----------
    number : int
        The attempt.
    name : str
        Of the jobs.
    script : str
    commands : list of list of str
        What submits them; where one waits for the end of another, the job's number is left out.
    without : list of str
        Nodes on which they do not run.
    left : list of BadNode
        Nodes that should be left out, and the scheduler has no option for that.
    retries : bool
        Whether they compute structures that failed again.
    """

    number: int
    name: str
    script: str
    commands: list[list[str]]
    without: list[str]
    left: list[BadNode]
    retries: bool


def prepare(folder: Path, site: Site, plan: JobPlan, words: list[str]) -> Prepared:
    """Render the job script of a run.

    Parameters
    ----------
    folder : Path
        Of the run, which need not be there yet.
    site : Site
    plan : JobPlan
    words : list of str
        What is typed after ``rootstock`` to compute one share, without the number of the share.

    Raises
    ------
    RenderError
        If a template is wrong.
    ConfigurationError
        If the folder has a name that schedulers cannot take.
    """
    check_folder(folder, plan.scheduler)
    whole = folder.absolute()
    number = max(numbers(folder), default=0) + 1
    name = f"rs-{secrets.token_hex(4)}"
    bad = bad_nodes(folder) if folder.is_dir() else []
    without = short_names(bad)
    options = without_nodes(plan.scheduler, without)
    command, logs = [*_this_rootstock(site), *words], folder_of(whole, number)
    job = RunJob(command, plan.shares, plan.nodes, plan.seconds, plan.options, name, logs)
    script = render_run_job(site, job, version=__version__)
    command = submit_command(plan.scheduler, logs / "job.sh", options)
    return Prepared(
        number, name, script, [command] * plan.times, without if options else [], [] if options else bad,
        "retry-failed" in words[:2],
    )  # fmt: skip


def check_folder(folder: Path, scheduler: str) -> None:
    """Refuse a folder for scripts and logs whose name schedulers cannot take.

    Parameters
    ----------
    folder : Path
        It need not be there yet.
    scheduler : str

    Raises
    ------
    ConfigurationError
        With what they take.
    """
    whole = folder.absolute()
    if not _PLAIN.fullmatch(str(whole)) or (scheduler == "pbs" and ":" in str(whole)):  # what is before is a host
        raise ConfigurationError(
            f"Schedulers do not take this path for scripts and logs: {whole}",
            "Name another folder (--run FOLDER, in Python run_dir): letters, digits and . _ - + only, without spaces.",
        )


def submit_run(
    folder: Path, plan: JobPlan, prepared: Prepared, *, force: bool, tell: Callable[[str], object]
) -> Submission:
    """Submit the jobs of a run.

    Parameters
    ----------
    folder : Path
        Of the run, which is there.
    plan : JobPlan
    prepared : Prepared
    force : bool
        Whether to do so though somebody may compute the run.
    tell : callable
        Is given text for people.

    Raises
    ------
    LockBusyError
        If jobs of the run are queued or running, or may be.
    SchedulerError
        If the scheduler does not take one. Those that were submitted before it are cancelled; nothing is if nobody can
        tell whether it has.
    """
    with _alone(folder):
        refuse_computed(folder, force=force)
        place = folder_of(folder, prepared.number)
        with naming(place):
            place.mkdir(parents=True)
            (place / "job.sh").write_text(prepared.script)
        noted = Submission(
            prepared.number, plan.scheduler, prepared.name, plan.shares, plan.gpus, plan.seconds, plan.nodes.number,
            plan.times, without=prepared.without, command=shlex.join(["rootstock", *sys.argv[1:]]),
            folder=str(folder.resolve()), retries=prepared.retries,
        )  # fmt: skip
        write_submission(folder, noted)  # before: jobs can be found by their name then, whatever ends this process
        return _send(folder, noted, tell)


def _send(folder: Path, noted: Submission, tell: Callable[[str], object]) -> Submission:
    """Submit what was noted, and note the numbers as they come."""
    last: Job | None = None
    script = folder_of(folder.absolute(), noted.number) / "job.sh"
    options = without_nodes(noted.scheduler, noted.without)
    for time in range(noted.times):
        try:
            last = submit(noted.scheduler, submit_command(noted.scheduler, script, options, last))
        except MaybeSubmittedError as error:
            shown = shlex.quote(str(folder))
            error.hint = (
                f"If {noted.name} is in the queue, this shows it: rootstock run status {shown}\n"
                f"and this ends it: rootstock run cancel {shown}"
            )
            raise
        except SchedulerError as error:
            if noted.without:
                files = ", ".join(f"node-{node.host}.json" for node in bad_nodes(folder))
                error.hint += (
                    f"\nThe jobs were not to run on {', '.join(noted.without)}, where workers were given up. To "
                    f"allow it, remove from {shlex.quote(str(folder))}: {files}"
                )
            _take_back(folder, noted, error)
            raise
        noted = replace(noted, ids=[*noted.ids, last.id])
        write_submission(folder, noted)
        tell(f"{last}{' waits for the end of the one before' if time else ''}")
    return noted


def refuse_computed(folder: Path, *, force: bool, by_parsl: bool = False) -> None:
    """Refuse a run whose jobs are queued or running, or that some process computes, as far as anybody here can tell.

    Parameters
    ----------
    folder : Path
    force : bool
        Whether only processes of this node count; what others have left that says they compute is removed.
    by_parsl : bool
        Whether jobs of a Parsl that was killed do not count: the next Parsl cancels them.

    Raises
    ------
    LockBusyError
        It says who, and what to do.
    """
    shown = shlex.quote(str(folder))
    if not force:
        jobs = [f"{each}" for each in submitted(folder) if not each.ended]
        jobs += [f"{job} ({queue}), of Parsl" for job, queue in ({} if by_parsl else engine_jobs(folder)).items()]
        if jobs:
            raise LockBusyError(
                f"{folder} is being computed by {jobs[0]}.",
                f"See how far it is:  rootstock run status {shown} --watch\n"
                f"Or end it:          rootstock run cancel {shown}\n{_RISK}",
            )
    for found in running(folder):
        if found.runs is False or (force and (found.process is None or found.process.elsewhere)):
            with contextlib.suppress(OSError):
                if found.process is None:
                    found.record.unlink()
                else:  # on other nodes nobody could tell that it has ended
                    remove_record(found.record, found.process)
        else:
            raise LockBusyError(
                f"{folder} is being computed by {found.process or 'another process'}: element {found.element}.",
                f"Wait until it ends, or end it: rootstock run cancel {shown}"
                + (f"\n{_RISK}" if found.runs is None else ""),
            )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep another command from submitting at the same time."""
    record = folder / _SUBMITTING
    try:
        with naming(folder), claim_record(record, Holder.of_this_process(shlex.join(["rootstock", *sys.argv[1:]]))):
            yield
    except HeldError as error:
        raise LockBusyError(
            f"Jobs for {folder} are being submitted by {error.holder or 'another command'}.",
            f"If you know that it has ended, remove its record: rm -f {shlex.quote(str(record))}",
        ) from None


def _take_back(folder: Path, noted: Submission, error: RootstockError) -> None:
    """Cancel what was submitted before a job that the scheduler has not taken."""
    kept = []
    for number in reversed(noted.ids):
        if refused := Job(noted.scheduler, number).cancel():
            kept.append(number)
            error.hint = f"{error.hint}\nJob {number} was submitted before, and is not cancelled: {refused}".strip()
    if kept:
        write_submission(folder, replace(noted, ids=kept[::-1], times=len(kept)))
    else:
        shutil.rmtree(folder_of(folder, noted.number), ignore_errors=True)


def _this_rootstock(site: Site) -> list[str]:
    """Return the command line of this version, by its whole path: that of the root's client, if this is it."""
    script = Path(sys.executable).with_name("rootstock")
    client = site.layout.client(__version__) / "bin" / "rootstock"
    with contextlib.suppress(OSError):
        if os.path.samefile(client, script):
            return [str(client)]
    return [str(script)] if script.is_file() else own_python("rootstock.cli", "rootstock")
