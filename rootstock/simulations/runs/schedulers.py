"""Batch systems: in which job this process runs, whether a job is still queued or running, and how it is cancelled."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

_ASKED_S = 60
_NAMES = {"slurm": "Slurm", "pbs": "PBS", "flux": "Flux"}
_ENVIRONMENT = {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID", "flux": "FLUX_JOB_ID"}  # Flux runs within the others
_ASK = {
    "slurm": ("squeue", "-h", "-j"),
    "pbs": ("qstat",),
    "flux": ("flux", "jobs", "-n", "--format={state}"),
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
    """

    scheduler: str
    id: str
    restart: str = ""

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
                restart = os.environ.get("SLURM_RESTART_COUNT", "0")
                return cls(scheduler, f"{array}_{task}" if array and task else number, restart)
        return None

    def is_there(self) -> bool | None:
        """Ask the batch system whether the job is queued or running; None if nobody can be asked."""
        done = self._run(_ASK)
        if done is None:
            return None
        if done.returncode:
            return False if _UNKNOWN.search(done.stderr + done.stdout) else None
        lines = done.stdout.split("\n")
        if self.scheduler == "pbs":  # a table: the fifth column is the state; Torque shows jobs that have ended
            rows = [line.split() for line in lines if line[:1].isalnum() and len(line.split()) == 6]
            return any(row[4] not in ("C", "F", "X") for row in rows if row[0] != "Job")
        return any(line.strip() and line.strip() != "INACTIVE" for line in lines)

    def cancel(self) -> str:
        """Cancel the job.

        Returns
        -------
        str
            What the batch system says against it; empty if it has done so.
        """
        done = self._run(_CANCEL)
        if done is None:
            return f"no {_CANCEL[self.scheduler][0]} here that answers" if self.scheduler in _CANCEL else "unknown"
        return "" if not done.returncode else (done.stderr.strip() or f"exit code {done.returncode}")

    def _run(self, programs: dict[str, tuple[str, ...]]) -> subprocess.CompletedProcess[str] | None:
        """Run one of the batch system's programs with the job's number; None if it is not there or does not answer."""
        if self.scheduler not in programs or not _ID.fullmatch(self.id):
            return None
        try:
            return subprocess.run(
                [*programs[self.scheduler], self.id],
                capture_output=True, text=True, errors="replace", timeout=_ASKED_S, stdin=subprocess.DEVNULL,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
