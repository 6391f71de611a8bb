"""Ends the processes that compute a run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from rootstock.simulations.runs.elements import Computing, Found, running
from rootstock.simulations.runs.engine_jobs import engine_jobs
from rootstock.simulations.runs.schedulers import Job
from rootstock.simulations.runs.submissions import Submitted, submitted


def cancel(folder: Path) -> list[tuple[Found | Submitted | Job, str]]:
    """End what computes a run: its jobs, also those that have not begun; processes of this node by SIGTERM.

    Of an array with as many tasks as the run has shares, each task computes one. All of them are cancelled, also those
    that have not begun.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of (Found or Submitted or Job, str)
        What was done about each, in words. The jobs are those of an engine that was killed: one that runs ends its own.
    """
    ours = [each for each in submitted(folder) if not each.ended]
    ending = [found for found in running(folder) if found.runs is not False]
    arrays = {array: array.cancel() for array in dict.fromkeys(found.array for found in ending) if array}
    # What waits for the end of another one is cancelled before that ends.
    arrays |= {each.job: each.job.cancel() for each in reversed(ours) if each.job not in arrays}
    left = {} if ending else {job: job.cancel() for job in engine_jobs(folder)}
    said: list[tuple[Found | Submitted | Job, str]] = [(each, _cancelled(each.job, arrays)) for each in ours]
    said += [(job, _cancelled(job, left)) for job in left]
    gone = {each.job for each in ours if not arrays[each.job]}
    return said + [(found, _end(found, arrays)) for found in ending if _job_of(found) not in gone]


def _job_of(found: Found) -> Job | None:
    return found.process.job.whole if found.process is not None and found.process.job is not None else None


def _cancelled(job: Job, arrays: dict[Job, str]) -> str:
    refused = arrays[job]
    return f"was not cancelled: {refused}" if refused else "was cancelled"


def _end(found: Found, arrays: dict[Job, str]) -> str:
    """End a process, and say how; of jobs is known what speaks against it, or nothing if they were cancelled."""
    process = found.process
    if process is None:
        return f"its record {found.record} is damaged: nothing was done"
    if (array := found.array) and not arrays[array]:
        return f"{array} was cancelled, with its tasks that have not begun"
    if not process.elsewhere:
        return _terminate(process)
    if process.job is None:
        return f"nothing was done: it runs on {process.host}, where this ends it: kill {process.pid}"
    refused = process.job.cancel()
    return f"{process.job} was not cancelled: {refused}" if refused else f"{process.job} was cancelled"


def _terminate(process: Computing) -> str:
    """Send SIGTERM to a process of this node, and to no later one with its number."""
    try:
        descriptor = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else -1
    except OSError:
        return "it has ended meanwhile"
    try:
        if process.ended:
            return "it has ended meanwhile"
        if descriptor >= 0:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        else:
            os.kill(process.pid, signal.SIGTERM)
    except OSError as error:
        return f"it was not ended: {error.strerror}"
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return "was sent SIGTERM; it records what it has computed, and ends"
