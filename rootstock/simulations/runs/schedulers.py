"""Batch systems: in which job this process runs, which jobs are queued or running, and how one is cancelled."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_ASKED_S = 60
NAMES = {"slurm": "Slurm", "pbs": "PBS", "flux": "Flux"}
_ENVIRONMENT = {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID", "flux": "FLUX_JOB_ID"}  # Flux runs within the others
_OUTER = "ROOTSTOCK_JOB_ID"  # says our job script: of Flux's instances, the inner one has numbers of its own
_AT_ONCE = 500  # jobs that a program is asked about
_ASK = {  # each answers with a line for a job that it knows, which begins with the job's number
    "slurm": ("squeue", "-h", "-r", "-o", "%i %T %r", "-j"),  # and takes numbers with commas
    "pbs": ("qstat",),
    "flux": ("flux", "jobs", "-n", "--format={id.f58} {state}"),
}
FILTERS = ("SQUEUE_", "SCANCEL_")  # options of Slurm's programs, such as states, users and partitions
_EXCLUDED = {"slurm": ("squeue", "-h", "-t", "PENDING", "-o", "no:%x", "-j")}  # nodes on which what waits is not to run
_EXCLUDE = {"slurm": ("scontrol", "update")}
_CANCEL = {"slurm": ("scancel",), "pbs": ("qdel",), "flux": ("flux", "cancel")}
_ENDED = (
    "INACTIVE", "C", "F", "X",  # of Flux, Torque and PBS
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
)  # fmt: skip
_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RUN", "CLEANUP", "R", "E", "S")  # and those of _ENDING
_ENDING = ("COMPLETING", "E", "CLEANUP")
_NO_REASON = ("", "None")
_ARRAY = "B"  # of PBS, which lists an array before its tasks
_TASKS = {"slurm": (), "pbs": ("-t",), "flux": ()}  # how each is told to list the tasks of an array
_UNKNOWN = re.compile(r"invalid job id|unknown job|job has finished|no such job|\bjob\b.*not found", re.IGNORECASE)
_ID = re.compile(r"\w[\w.\[\]-]*")  # what a program cannot take for an option


@dataclass(frozen=True)
class Job:
    """A job of a batch system.

    Attributes
    ----------
    scheduler : {'slurm', 'pbs', 'flux'}
    id : str
        As its commands take it.
    restart : str
        How often it was begun again, where the batch system says so: processes of the time before have ended.
    tasks : int
        How many tasks the array has of which it is one, where the batch system says so.
    """

    scheduler: str
    id: str
    restart: str = ""
    tasks: int = 0

    def __str__(self) -> str:
        return f"job {self.id} of {NAMES.get(self.scheduler, self.scheduler)}"

    @classmethod
    def of_this_process(cls) -> Job | None:
        """Return the job that this process is part of; None outside of jobs."""
        for scheduler, variable in _ENVIRONMENT.items():
            outer = os.environ.get(_OUTER, "") if scheduler == "flux" else ""
            if number := outer or os.environ.get(variable, ""):
                if scheduler != "slurm":
                    return cls(scheduler, number)
                array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID", "") for name in ("JOB", "TASK"))
                restart, tasks = (os.environ.get(f"SLURM_{name}_COUNT", "0") for name in ("RESTART", "ARRAY_TASK"))
                if not (array and task):
                    return cls(scheduler, number, restart)
                return cls(scheduler, f"{array}_{task}", restart, int(tasks) if tasks.isdecimal() else 0)
        return None

    @property
    def array(self) -> Job:
        """The array of which it is a task."""
        return Job(self.scheduler, self.id.partition("_")[0])

    def was_begun_again(self, before: Job, host: str) -> bool | None:
        """Tell whether this process's job is one of before that was begun again; None if nobody knows.

        Parameters
        ----------
        before : Job
            That of a process on another node, with the same number.
        host : str
            The node.
        """
        if self.scheduler == "slurm":
            return True if self.restart != before.restart else None
        # PBS does not count. A job that runs on that node, too, may have both processes; Flux begins no job again.
        try:
            nodes = Path(os.environ["PBS_NODEFILE"]).read_text().split() if self.scheduler == "pbs" else None
        except (KeyError, OSError, ValueError):
            nodes = None
        return True if nodes and _short(host) not in map(_short, nodes) else None

    @property
    def whole(self) -> Job:
        """The array of which it is a task, or the job itself, as it was named when it was submitted."""
        if self.scheduler == "slurm":
            return self.array
        return Job(self.scheduler, re.sub(r"\[\d+\]", "[]", self.id))

    def cancel(self) -> str:
        """Cancel the job.

        Returns
        -------
        str
            What the batch system says against it; empty if it has done so.
        """
        done = run_program(_CANCEL, self.scheduler, [self.id]) if _ID.fullmatch(self.id) else None
        if done is None:
            return f"no {_CANCEL[self.scheduler][0]} here that answers" if self.scheduler in _CANCEL else "unknown"
        return "" if not done.returncode else (done.stderr.strip() or f"exit code {done.returncode}")

    def keep_off(self, nodes: Iterable[str]) -> None:
        """Have what waits of the job not run on some nodes, where the batch system lets one say so later: Slurm does.

        Parameters
        ----------
        nodes : iterable of str
            As the batch system calls them.
        """
        waits = run_program(_EXCLUDED, self.scheduler, [self.id]) if _ID.fullmatch(self.id) else None
        if before := waits.stdout.split() if waits is not None else []:
            excluded = {line.partition(":")[2] for line in before} - {""}
            every = ",".join(sorted({*nodes} | excluded))  # the new list replaces the one before
            run_program(_EXCLUDE, self.scheduler, [f"JobId={self.id}", f"ExcNodeList={every}"])


def which_are_there(jobs: Iterable[Job]) -> dict[Job, bool | None]:
    """Ask the batch systems which jobs are queued or running; None of those that nobody can tell about.

    Parameters
    ----------
    jobs : iterable of Job
        All of one batch system are asked about at once.
    """
    return {job: None if listed is None else bool(listed) for job, listed in _ask_about(jobs).items()}


@dataclass(frozen=True)
class Queue:
    """How much of a job there is: tasks of an array, or the job itself.

    Attributes
    ----------
    running, waiting : int
    ending : int
        How many of those that run have been asked to end, or have ended but for what the batch system does afterwards.
    why : str
        Why some wait, in the batch system's words; empty where it does not say (PBS, Flux).
    """

    running: int
    waiting: int
    why: str = ""
    ending: int = 0

    def __bool__(self) -> bool:
        return bool(self.running or self.waiting)

    def __str__(self) -> str:
        words = f"{self.running - self.ending:,} running, {self.waiting:,} waiting"
        return words + (f" ({self.why})" if self.why else "") + (f", {self.ending:,} ending" if self.ending else "")


def queues_of(jobs: Iterable[Job]) -> dict[Job, Queue | None]:
    """Ask the batch systems how much of some jobs is queued or running; None of those that nobody can tell about.

    Parameters
    ----------
    jobs : iterable of Job
        Of arrays, each the whole one. All of one batch system are asked about at once.
    """
    found: dict[Job, Queue | None] = {}
    for job, listed in _ask_about(jobs, whole=True).items():
        tasks = None if listed is None else [each for each in listed if each.state != _ARRAY] or listed[:1]
        waiting = [each.why for each in tasks or () if each.state not in _RUNNING]
        why = "; ".join(dict.fromkeys(text for text in waiting if text not in _NO_REASON))
        ending = sum(each.state in _ENDING for each in tasks or ())
        found[job] = None if tasks is None else Queue(len(tasks) - len(waiting), len(waiting), why, ending)
    return found


_NAMED = {"slurm": ("squeue", "-h", "-o", "%A", "-n"), "pbs": ("qselect", "-N"), "flux": ("flux", "jobs", "-n",
          "--format={id.f58}", "--name")}  # fmt: skip


def jobs_named(scheduler: str, name: str) -> list[Job] | None:
    """Return the jobs of a name that are queued or running; None if nobody answers.

    Parameters
    ----------
    scheduler : {'slurm', 'pbs', 'flux'}
    name : str
    """
    done = run_program(_NAMED, scheduler, [name])
    if done is None or done.returncode:
        return None
    return [Job(scheduler, number) for number in dict.fromkeys(done.stdout.split()) if _ID.fullmatch(number)]


class _Listed(NamedTuple):
    """A line in which a batch system lists a job, or a task of an array."""

    name: str
    state: str
    why: str = ""


def _ask_about(jobs: Iterable[Job], *, whole: bool = False) -> dict[Job, list[_Listed] | None]:
    """Return what the batch systems list of each job, or of the tasks of each array; None if nobody can tell."""
    found: dict[Job, list[_Listed] | None] = dict.fromkeys(jobs)
    for scheduler in _ASK:
        its = [job for job in found if job.scheduler == scheduler and _ID.fullmatch(job.id)]
        for begin in range(0, len(its), _AT_ONCE):
            found |= _ask(scheduler, its[begin : begin + _AT_ONCE], whole)
    return found


def _ask(scheduler: str, jobs: list[Job], whole: bool) -> dict[Job, list[_Listed] | None]:
    ids = [
        *(_TASKS[scheduler] if whole else ()),
        *([",".join(job.id for job in jobs)] if scheduler == "slurm" else (job.id for job in jobs)),
    ]
    done = run_program(_ASK, scheduler, ids)
    if done is None:
        return dict.fromkeys(jobs)
    there: dict[str, list[_Listed]] = {}
    for each in _listed(scheduler, done.stdout):
        each = each._replace(state=_ARRAY) if whole and "[]" in each.name else each
        there.setdefault(_number(Job(scheduler, each.name).whole.id if whole else each.name), []).append(each)
    refused = [line for line in (done.stderr + done.stdout).split("\n") if _UNKNOWN.search(line)]
    found: dict[Job, list[_Listed] | None] = {}
    for job in jobs:
        named = any(re.search(rf"(?<!\w){re.escape(_number(job.id))}(?!\w)", line) for line in refused)
        gone = not done.returncode or named or (refused and len(jobs) == 1)
        found[job] = there.get(_number(job.id), [] if gone else None)
    return found


def _listed(scheduler: str, text: str) -> list[_Listed]:
    """Return the jobs in what a program has printed, less those that have ended."""
    rows = [line.split() for line in text.split("\n") if line.strip()]
    if scheduler == "pbs":  # a table: the fifth column is the state; Torque shows jobs that have ended
        rows = [[row[0], row[4]] for row in rows if len(row) == 6 and row[0][:1].isdigit()]
    listed = [_Listed(row[0], "".join(row[1:2]), " ".join(row[2:])) for row in rows]
    return [each for each in listed if each.state not in _ENDED]


def _number(name: str) -> str:
    """Return what tells a job from others of its batch system; PBS's table cuts the name of the server."""
    return name.partition(".")[0].replace("ƒ", "f")


def _short(host: str) -> str:
    return host.partition(".")[0].lower()


def run_program(
    programs: Mapping[str, tuple[str, ...]], scheduler: str, words: list[str],
    without: Callable[[str], bool] = lambda _: False,
) -> subprocess.CompletedProcess[str] | None:  # fmt: skip
    """Run one of a batch system's programs; None if it is not there or does not answer.

    Parameters
    ----------
    programs : mapping of str to tuple of str
        The program of each batch system, and its first words.
    scheduler : str
    words : list of str
        The others.
    without : callable, optional
        Tells which variables it does not get. Never does it get those that would have it leave jobs out.
    """
    if scheduler not in programs:
        return None
    name, *fixed = programs[scheduler]
    if scheduler == "flux" and _OUTER in os.environ:
        fixed = ["--parent", *fixed]
    variables = {key: text for key, text in os.environ.items() if not key.startswith(FILTERS) and not without(key)}
    try:
        return subprocess.run(
            [name, *fixed, *words], env=variables,
            capture_output=True, text=True, errors="replace", timeout=_ASKED_S, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
