"""Submits job scripts to batch systems."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from rootstock.errors import SchedulerError
from rootstock.simulations.runs.schedulers import NAMES, Job, run_program

_SUBMIT = {  # each answers with the number of the job
    "slurm": ("sbatch", "--parsable"), "pbs": ("qsub",), "flux": ("flux", "batch"),
}  # fmt: skip
_ANSWER = {  # a line of its own, perhaps among others that a site's wrapper prints
    "slurm": r"(\d+)(?:;.*)?", "pbs": r"(\d+(?:\[\])?(?:\.[\w.-]+)?)", "flux": r"([ƒf][0-9A-Za-z]+)",
}  # fmt: skip
_LATE = re.compile(r"timed out|timeout", re.IGNORECASE)  # the server may have done what it was asked for
_AFTER = {"slurm": "--dependency=afterany:{}", "pbs": "-W depend=afterany:{}", "flux": "--dependency=afterany:{}"}
# Variables of Slurm's outrank what a script says. These hold where it does not say it; others, such as the name of the
# job, its time, or that it is an array, never.
_SBATCH = {
    "SBATCH_ACCOUNT": "--account|-A", "SBATCH_CONSTRAINT": "--constraint|-C", "SBATCH_PARTITION": "--partition|-p",
    "SBATCH_QOS": "--qos|-q", "SBATCH_RESERVATION": "--reservation", "SBATCH_WCKEY": "--wckey",
}  # fmt: skip


class MaybeSubmittedError(SchedulerError):
    """Nobody can tell whether the batch system has taken a job; if it has, the job is found by its name."""


def outranks(script: str, variable: str) -> bool:
    """Tell whether a variable would have Slurm do something else than a job script says.

    Parameters
    ----------
    script : str
    variable : str
        Its name.
    """
    own = _SBATCH.get(variable)
    return variable.startswith("SBATCH_") and (not own or bool(re.search(rf"^#SBATCH ({own})", script, re.M)))


def refusal(scheduler: str, said: str) -> SchedulerError:
    """Return the error of a batch system that does not take a job.

    Parameters
    ----------
    scheduler : {'slurm', 'pbs', 'flux'}
    said : str
        What it says; of several lines the last ones count.
    """
    return SchedulerError(
        f"{NAMES[scheduler]} has not taken the job: {_last_lines(said)}",
        "Ask for something else: --gpus, --walltime, --partition, --account, --option. The whole script: --dry-run",
    )


def submit_command(scheduler: str, script: Path, options: Iterable[str] = (), after: Job | None = None) -> list[str]:
    """Return the command that submits a job script.

    Parameters
    ----------
    scheduler : {'slurm', 'pbs', 'flux'}
    script : Path
    options : iterable of str
        Of that command.
    after : Job, optional
        The job that must have ended before, in whatever way.
    """
    wait = _AFTER[scheduler].format(after.id).split(" ", 1) if after else []
    return [*_SUBMIT[scheduler], *wait, *options, str(script)]


def submit(scheduler: str, command: list[str]) -> Job:
    """Submit a job.

    Parameters
    ----------
    scheduler : {'slurm', 'pbs', 'flux'}
    command : list of str
        As `submit_command` returns it.

    Raises
    ------
    SchedulerError
        With what the batch system says.
    MaybeSubmittedError
        If it has not answered in time, or says neither a number nor that something is wrong.
    """
    if shutil.which(command[0]) is None:
        raise SchedulerError(
            f"There is no {command[0]} here, which is how jobs are submitted.",
            "Type the command on a login node of the cluster.",
        )
    script = Path(command[-1]).read_text()
    done = run_program({scheduler: tuple(command)}, scheduler, [], partial(outranks, script))
    if done is None:
        raise MaybeSubmittedError(f"{command[0]} has not answered, so nobody can tell whether it has taken the job.")
    said = _last_lines(done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}")
    unsure = f"{command[0]} has not said the number of a job, so nobody can tell whether it has taken one: {said}"
    if done.returncode < 0 or (done.returncode and is_late(said)):
        raise MaybeSubmittedError(unsure)
    if done.returncode:
        raise refusal(scheduler, said)
    lines = [re.fullmatch(_ANSWER[scheduler], line.strip()) for line in done.stdout.split("\n")]
    if not (found := [line[1] for line in lines if line]):
        raise MaybeSubmittedError(unsure)
    return Job(scheduler, found[-1])


def is_late(said: str) -> bool:
    """Tell whether a batch system was too slow, so that it may have done all the same what it was asked for.

    Parameters
    ----------
    said : str
    """
    return bool(_LATE.search(said))


def _last_lines(said: str) -> str:
    return "; ".join(said.strip().split("\n")[-3:])
