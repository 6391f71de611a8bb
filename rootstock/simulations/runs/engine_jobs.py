"""Jobs that an engine, Parsl, has submitted for a run: the engine notes their numbers, for whoever comes after it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rootstock.simulations.runs.copies import is_copied
from rootstock.simulations.runs.schedulers import Job, Queue, queues_of

FOLDER = "engine"  # in the run folder: what belongs to the engine, and holds no results
_JOBS = "jobs"  # a line for each job: the batch system, the number, and the whole path of the folder that holds this


def note_engine_job(folder: Path, job: Job) -> None:
    """Note a job that was submitted.

    Parameters
    ----------
    folder : Path
        Of this time that the engine runs.
    job : Job
    """
    with contextlib.suppress(OSError), (folder / _JOBS).open("a", encoding="utf-8") as file:
        file.write(f"{job.scheduler} {job.id} {folder.resolve()}\n")


def engine_jobs(folder: Path) -> dict[Job, Queue]:
    """Return the jobs that are queued or running, as far as the batch system says so.

    Parameters
    ----------
    folder : Path
        Of the run.
    """
    jobs = []
    for noted in sorted((folder / FOLDER).glob(f"*/{_JOBS}")):
        with contextlib.suppress(OSError, ValueError):
            for line in noted.read_text(encoding="utf-8").splitlines():
                scheduler, number, where = line.split(" ", 2)
                if not is_copied(folder, str(Path(where).parents[1])):
                    jobs.append(Job(scheduler, number))
    return {job: queue for job, queue in queues_of(jobs).items() if queue}


def forget_engine_jobs(folder: Path) -> None:
    """Forget the jobs of engines that have ended.

    Parameters
    ----------
    folder : Path
        Of the run, or of the only time.
    """
    for noted in (folder / _JOBS, *(folder / FOLDER).glob(f"*/{_JOBS}")):
        with contextlib.suppress(OSError):
            noted.unlink(missing_ok=True)
