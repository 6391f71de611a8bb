"""What a run folder holds about jobs that were submitted to compute it, and about nodes that could not."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rootstock.errors import RootError
from rootstock.root.record_files import Record, read_record
from rootstock.root.records import now, user_name
from rootstock.simulations.output import replacing
from rootstock.simulations.runs.copies import is_copied
from rootstock.simulations.runs.engine_jobs import engine_jobs
from rootstock.simulations.runs.schedulers import Job, Queue, jobs_named, queues_of

_FOLDER, _RECORD = "jobs", "submission.json"
_NUMBER = re.compile(r"\d{4,9}", re.ASCII)


@dataclass(frozen=True)
class Submission(Record):
    """Jobs that one command has submitted.

    Attributes
    ----------
    number : int
        From 1: the attempt.
    scheduler : {'slurm', 'pbs', 'flux'}
    name : str
        Of the jobs.
    shares : int
        How many shares of the run they compute.
    gpus : int
        How many compute at a time.
    seconds : int
        How long each job may take.
    nodes : int
        Of each job.
    times : int
        How many jobs, or arrays of them, were to be submitted, one after the end of the other.
    ids : list of str
        Their numbers. They are fewer than `times` if something has ended the command between.
    without : list of str
        Nodes on which they do not run.
    command, user, submitted : str
    folder : str
        Of the run, by its whole path.
    retries : bool
        Whether they compute structures that failed again.
    """

    number: int
    scheduler: str
    name: str
    shares: int
    gpus: int
    seconds: int
    nodes: int = 1
    times: int = 1
    ids: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    command: str = ""
    user: str = field(default_factory=user_name)
    submitted: str = field(default_factory=now)
    folder: str = ""
    retries: bool = False

    def jobs(self) -> list[Job]:
        """Return the jobs; those that nobody has noted are asked for by their name."""
        jobs = [Job(self.scheduler, number) for number in self.ids]
        if len(jobs) >= self.times:
            return jobs
        if (named := jobs_named(self.scheduler, self.name)) is None:
            named = [Job(self.scheduler, f"named {self.name}")]  # if it is there: of no number can anybody tell
        return [*dict.fromkeys([*jobs, *named])]


@dataclass(frozen=True)
class Submitted:
    """A job that was submitted, and how much of it there is.

    Attributes
    ----------
    submission : Submission
    job : Job
    queue : Queue or None
        None if nobody here can tell.
    """

    submission: Submission
    job: Job
    queue: Queue | None

    @property
    def ended(self) -> bool:
        """Whether it is certain that nothing of it is queued or running."""
        return self.queue is not None and not self.queue

    def __str__(self) -> str:
        return f"{self.job} ({self.queue or 'nobody here can tell whether it runs'})"


def folder_of(folder: Path, number: int) -> Path:
    """Return the folder for the script, the logs and the record of a submission.

    Parameters
    ----------
    folder : Path
        Of the run.
    number : int
    """
    return folder / _FOLDER / f"{number:04}"


def write_submission(folder: Path, submission: Submission) -> None:
    """Write the record of a submission.

    Parameters
    ----------
    folder : Path
        Of the run.
    submission : Submission
    """
    with replacing(folder_of(folder, submission.number) / _RECORD) as file:
        file.write_text(submission.to_json())


def numbers(folder: Path) -> list[int]:
    """Return the numbers of the folders of submissions, also of those that came to nothing.

    Parameters
    ----------
    folder : Path
        Of the run.
    """
    with contextlib.suppress(FileNotFoundError):
        return sorted(int(each.name) for each in (folder / _FOLDER).iterdir() if _NUMBER.fullmatch(each.name))
    return []


def submissions(folder: Path) -> list[Submission]:
    """Return what was submitted for a run, oldest first.

    Parameters
    ----------
    folder : Path
        Of the run.
    """
    found: list[Submission] = []
    for number in numbers(folder):
        with contextlib.suppress(RootError):  # damaged, as nothing of ours leaves one
            record = read_record(Submission, folder_of(folder, number) / _RECORD, "")
            found += [record] if record is not None else []
    return found


def submitted(folder: Path) -> list[Submitted]:
    """Return the jobs that were submitted for a run, and how much of each is queued or running.

    Jobs of a run folder of which this is a copy compute that one.

    Parameters
    ----------
    folder : Path
        Of the run.
    """
    own = [each for each in submissions(folder) if not is_copied(folder, each.folder)]
    jobs = [(submission, job) for submission in own for job in submission.jobs()]
    queues = queues_of([job for _, job in jobs])
    return [Submitted(submission, job, queues[job]) for submission, job in jobs]


def go_on_command(folder: Path) -> str | None:
    """Return the command that goes on with a run as its jobs were submitted last; None if none were.

    Parameters
    ----------
    folder : Path
        Of the run.
    """
    if not (before := submissions(folder)):
        return None
    return f"rootstock run continue {shlex.quote(str(folder))} --gpus {before[-1].gpus}"


@dataclass(frozen=True)
class BadNode(Record):
    """A node on which places to compute were given up.

    Attributes
    ----------
    host : str
    places : dict
        What was said of each place.
    since : str
    """

    host: str
    places: dict[str, str]
    since: str = field(default_factory=now)


def note_bad_node(folder: Path, host: str, places: dict[str, str]) -> None:
    """Keep in mind that places of a node were given up; the next jobs do not run there.

    Parameters
    ----------
    folder : Path
        Of the run.
    host : str
    places : dict
        By their names, what was said of each.
    """
    if re.fullmatch(r"[\w.-]{1,200}", host, re.ASCII):
        before = {place: said for node in bad_nodes(folder) if node.host == host for place, said in node.places.items()}
        with contextlib.suppress(OSError), replacing(folder / f"node-{host}.json") as file:
            file.write_text(BadNode(host, before | places).to_json())  # those of other jobs, too


def keep_off_bad_nodes(folder: Path) -> None:
    """Have jobs of a run that wait not run on nodes that somebody has noted: these would take one after the other.

    Parameters
    ----------
    folder : Path
        Of the run.
    """
    if nodes := short_names(bad_nodes(folder)):
        for job, queue in ({each.job: each.queue for each in submitted(folder)} | engine_jobs(folder)).items():
            if queue and queue.waiting:
                job.keep_off(nodes)


def bad_nodes(folder: Path) -> list[BadNode]:
    """Return the nodes that somebody has noted, by their names.

    Parameters
    ----------
    folder : Path
        Of the run.
    """
    found = []
    for path in sorted(folder.glob("node-*.json")):
        with contextlib.suppress(RootError):
            node = read_record(BadNode, path, "")
            if node is not None and path.name == f"node-{node.host}.json":
                found.append(node)
    return found


def short_names(nodes: Iterable[BadNode]) -> list[str]:
    """Return what schedulers call some nodes.

    Parameters
    ----------
    nodes : iterable of BadNode
    """
    return sorted({node.host.partition(".")[0] for node in nodes})
