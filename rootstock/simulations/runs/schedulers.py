"""Batch systems: in which job this process runs, which jobs are queued or running, and how one is cancelled."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_ASKED_S = 60
_NAMES = {"slurm": "Slurm", "pbs": "PBS", "flux": "Flux"}
_ENVIRONMENT = {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID", "flux": "FLUX_JOB_ID"}  # Flux runs within the others
_AT_ONCE = 500  # jobs that a program is asked about
_ASK = {  # each answers with a line for a job that it knows, which begins with the job's number
    "slurm": ("squeue", "-h", "-r", "-o", "%i", "-j"),  # and takes numbers with commas
    "pbs": ("qstat",),
    "flux": ("flux", "jobs", "-n", "--format={id.f58} {state}"),
}
_CANCEL = {"slurm": ("scancel",), "pbs": ("qdel",), "flux": ("flux", "cancel")}
_UNKNOWN = re.compile(r"invalid job id|unknown job|job has finished|no such job|not found", re.IGNORECASE)
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
        return f"job {self.id} of {_NAMES.get(self.scheduler, self.scheduler)}"

    @classmethod
    def of_this_process(cls) -> Job | None:
        """Return the job that this process is part of; None outside of jobs."""
        for scheduler, variable in _ENVIRONMENT.items():
            if number := os.environ.get(variable, ""):
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

    def cancel(self) -> str:
        """Cancel the job.

        Returns
        -------
        str
            What the batch system says against it; empty if it has done so.
        """
        done = _run(_CANCEL, self.scheduler, [self.id]) if _ID.fullmatch(self.id) else None
        if done is None:
            return f"no {_CANCEL[self.scheduler][0]} here that answers" if self.scheduler in _CANCEL else "unknown"
        return "" if not done.returncode else (done.stderr.strip() or f"exit code {done.returncode}")


def which_are_there(jobs: Iterable[Job]) -> dict[Job, bool | None]:
    """Ask the batch systems which jobs are queued or running; None of those that nobody can tell about.

    Parameters
    ----------
    jobs : iterable of Job
        All of one batch system are asked about at once.
    """
    found: dict[Job, bool | None] = dict.fromkeys(jobs)
    for scheduler in _ASK:
        its = [job for job in found if job.scheduler == scheduler and _ID.fullmatch(job.id)]
        for begin in range(0, len(its), _AT_ONCE):
            found |= _ask(scheduler, its[begin : begin + _AT_ONCE])
    return found


def _ask(scheduler: str, jobs: list[Job]) -> dict[Job, bool | None]:
    ids = [job.id for job in jobs]
    done = _run(_ASK, scheduler, [",".join(ids)] if scheduler == "slurm" else ids)
    if done is None:
        return dict.fromkeys(jobs)
    there = _listed(scheduler, done.stdout)
    refused = [line for line in (done.stderr + done.stdout).split("\n") if _UNKNOWN.search(line)]
    found: dict[Job, bool | None] = {}
    for job in jobs:
        named = any(re.search(rf"(?<!\w){re.escape(_number(job.id))}(?!\w)", line) for line in refused)
        gone = not done.returncode or named or (refused and len(jobs) == 1)
        found[job] = True if _number(job.id) in there else False if gone else None
    return found


def _listed(scheduler: str, text: str) -> set[str]:
    """Return the numbers of the jobs in what a program has printed, less those that have ended."""
    rows = [line.split() for line in text.split("\n") if line.strip()]
    if scheduler == "pbs":  # a table: the fifth column is the state; Torque shows jobs that have ended
        rows = [row for row in rows if len(row) == 6 and row[0][:1].isdigit() and row[4] not in ("C", "F", "X")]
    return {_number(row[0]) for row in rows if row[-1] != "INACTIVE"}


def _number(name: str) -> str:
    """Return what tells a job from others of its batch system; PBS's table cuts the name of the server."""
    return name.partition(".")[0].replace("ƒ", "f")


def _short(host: str) -> str:
    return host.partition(".")[0].lower()


def _run(
    programs: dict[str, tuple[str, ...]], scheduler: str, words: list[str]
) -> subprocess.CompletedProcess[str] | None:
    """Run one of a batch system's programs; None if it is not there or does not answer."""
    if scheduler not in programs:
        return None
    try:
        return subprocess.run(
            [*programs[scheduler], *words],
            capture_output=True, text=True, errors="replace", timeout=_ASKED_S, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
