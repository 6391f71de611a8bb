"""What a command about a run folder says at its end: what is wrong, what to do, and all of it as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootstock.cli.run_line import failed
from rootstock.errors import NotConvergedError, SomeFailedError

if TYPE_CHECKING:
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.progress import Progress
    from rootstock.simulations.runs.records import RunRecord

_SHOWN = 5  # failures that are listed
_OF_SUBMISSION = ("name", "shares", "nodes", "gpus", "seconds", "submitted", "retries")
_OF_QUEUE = ("running", "waiting", "ending", "why")


def near(path: Path) -> Path:
    """Return a path as somebody here would write it.

    Parameters
    ----------
    path : Path
    """
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def recorded(path: Path) -> str:
    """Return a sentence about what a run folder holds; empty if it holds no run.

    Parameters
    ----------
    path : Path
    """
    from rootstock.simulations.runs.folder import RunFolder

    with suppress(Exception):  # the error that is shown is another one
        progress = RunFolder.open(path).progress()
        missing = progress.counts()["missing"]
        return f" {len(progress.statuses) - missing:,} of {len(progress.statuses):,} structures are recorded."
    return ""


def some_failed(
    folder: RunFolder, progress: Progress, damaged: int, command: Callable[[str], str], name: Callable[[int], str]
) -> SomeFailedError:  # fmt: skip
    """Return the error of a run of which structures failed.

    Parameters
    ----------
    folder : RunFolder
    progress : Progress
    damaged : int
        How many results are damaged on disk.
    command : callable
        Returns a command about this folder, given its name.
    name : callable
        Returns file and frame of an index.
    """
    lines = [
        f"  {failure_line(failure)}" for _, failure in zip(range(_SHOWN), folder.failures(), strict=False)
    ]  # fmt: skip
    count = failed(progress)
    if count > _SHOWN:
        lines.append(f"  and {count - _SHOWN:,} more")
    lines = [f"{count:,} of {len(progress.statuses):,} structures failed:", *lines] if count else []
    if late := _late(folder, progress, name):
        lines.append(f"{late}.")
    if damaged:
        lines.append(f"{damaged:,} of {len(progress.statuses):,} results are damaged on disk, and left out.")
    hint = f"List all failures:  {command('status')} --failures" if count else ""
    if final := progress.failed()["structure"]:
        hint += f"\n{final:,} of class structure: the model fails for them each time. Look at the structures."
    if tight := progress.failed()["resource"]:
        hint += f"\n{tight:,} of class resource, on a GPU with more memory: {command('retry-failed')}"
    if damaged:
        hint += f"\nCompute the damaged ones again: {command('retry-failed')}"
    return SomeFailedError("\n".join(lines), hint.strip())


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


def steps_words(progress: Progress, name: Callable[[int], str]) -> str:
    """Return how many steps relaxations took; empty if there are none.

    Parameters
    ----------
    progress : Progress
    name : callable
        Returns file and frame of an index.
    """
    import numpy as np

    steps = progress.steps[progress.steps > 0]
    if not len(steps) or steps.min() == steps.max():
        return ""
    most = int(progress.steps.argmax())
    return f"{steps.min():,} to {steps.max():,} steps, {np.median(steps):,.0f} by median; the most: {name(most)}"


def not_converged(
    folder: RunFolder, progress: Progress, name: Callable[[int], str], where: str, out: Path
) -> NotConvergedError:  # fmt: skip
    """Return the error of a run of which relaxations did not converge.

    Parameters
    ----------
    folder : RunFolder
    progress : Progress
    name : callable
        Returns file and frame of an index.
    where : str
        Where all of them are, in words.
    out : Path
        The exported file.
    """
    return NotConvergedError(
        f"{_late(folder, progress, name)}. All are {where}.",
        "Look at them; or relax what is exported further, in a run folder of its own, with more --steps:\n"
        f"  {_further(folder.path, folder.record, out)}",
    )


def _late(folder: RunFolder, progress: Progress, name: Callable[[int], str]) -> str:
    """Return which relaxations did not converge, in words; empty if all did."""
    import numpy as np

    from rootstock.simulations.runs.index import Status

    late = np.flatnonzero(progress.statuses == Status.NOT_CONVERGED).tolist()
    if not late:
        return ""
    settings, more = folder.record.settings, " ..." if len(late) > 10 else ""
    return (
        f"{len(late):,} of {len(progress.statuses):,} structures did not reach {settings['fmax']} eV/Å in "
        f"{settings['steps']} steps: {', '.join(map(name, late[:10]))}{more}"
    )


def _further(path: Path, record: RunRecord, out: Path) -> str:
    """Return the commands that relax the results of a run further."""
    from rootstock.simulations.runs.command_words import relaxation_words

    settings = record.settings
    words = ["rootstock", "relax", record.model]
    before = ""
    if out.suffix.lower() not in (".extxyz", ".db"):  # which hold structures
        out = Path(f"{path.name}-relaxed.extxyz")
        before = shlex.join(["rootstock", "run", "export", str(path), str(out)]) + " && "
    words += [str(out), *relaxation_words({**settings, "steps": 10 * max(settings["steps"], 1)})]
    words += ["--calc-kwargs", str(record.setup_kwargs)] if record.setup_kwargs else []
    words += ["--device", record.device] if record.device != "cuda" else []
    return before + shlex.join([*words, "--run", str(path.with_name(f"{path.name}-further"))])


def state(folder: RunFolder) -> dict[str, Any]:
    """Return what a run is bound to, how far it is, and who computes it, as JSON can hold it.

    Parameters
    ----------
    folder : RunFolder
    """
    from rootstock.simulations.runs.elements import running
    from rootstock.simulations.runs.engine_jobs import engine_jobs
    from rootstock.simulations.runs.submissions import bad_nodes, submitted
    from rootstock.simulations.runs.worker_states import read_states

    progress = folder.progress()
    record, counts = folder.record, progress.counts()
    keys = ("kind", "model", "environment", "build", "root", "settings", "out", "created", "earlier", "threads")
    processes = [
        {
            "element": str(found.element), "state": found.state, **(asdict(found.process) if found.process else {}),
            **folder.pace(progress, found),
            "workers": read_states(folder.path, found.element, found.process) if found.process and found.runs else {},
        }
        for found in running(folder.path)
    ]  # fmt: skip
    jobs = [
        {
            "attempt": each.submission.number, "scheduler": each.job.scheduler, "id": each.job.id,
            **{key: getattr(each.submission, key) for key in _OF_SUBMISSION},
            **{key: getattr(each.queue, key, None) for key in _OF_QUEUE},
        }
        for each in submitted(folder.path)
    ]  # fmt: skip
    of_engine = [
        {"scheduler": job.scheduler, "id": job.id, **asdict(queue)} for job, queue in engine_jobs(folder.path).items()
    ]  # fmt: skip
    return {
        "schema": 1, "folder": str(folder.path.resolve()), **{key: getattr(record, key) for key in keys},
        "structures": record.structures, "done": counts["done"], "not_converged": counts["not_converged"],
        "failed": progress.failed(), "missing": counts["missing"], "partial": progress.partial,
        "computed_twice": progress.twice, "damaged_records": progress.damaged, "running": processes,
        "jobs": jobs, "engine_jobs": of_engine, "bad_nodes": [asdict(node) for node in bad_nodes(folder.path)],
    }  # fmt: skip
