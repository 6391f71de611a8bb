"""``rootstock run status``: how far a run is, once or until it ends."""

from __future__ import annotations

import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.common import json_option
from rootstock.cli.job_logs import last_words
from rootstock.cli.parameter_types import Place
from rootstock.cli.run_end import failure_line, near, state
from rootstock.cli.run_line import pace_words, states_words
from rootstock.cli.simulations import Simulation
from rootstock.errors import ConfigurationError, RootstockError

if TYPE_CHECKING:
    from rootstock.simulations.runs.folder import RunFolder

_SHOWN = 5  # failures that are listed
_LOOK_S = 10.0  # between two looks of --watch: each asks the scheduler, too
_TOLD_S = 60.0  # between two lines where there is no terminal
_PACE_S = 600.0  # by which the pace is measured


@click.command(cls=Simulation)
@click.argument("folder", type=Place(readable=False, path_type=Path))
@click.option("--failures", is_flag=True, help="List every structure that failed.")
@click.option(
    "--watch", is_flag=True,
    help="Look again every 10 seconds, until all is computed or nothing computes any more. This works on a login node.",
)  # fmt: skip
@json_option
def status(folder: Path, failures: bool, watch: bool, as_json: bool) -> None:
    """Show how far the run in FOLDER is.

    The command reads what is recorded on disk, and asks the scheduler about jobs that compute; it starts nothing. A
    failure of class structure is final. One of class resource is computed again on a GPU of another kind.

    \b
    Examples:
      rootstock run status screening
      rootstock run status screening --watch
      rootstock run status screening --failures --json | jq -r '.failures[] | .structure'
    """
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.submissions import go_on_command

    opened = RunFolder.open(folder)
    if watch:
        if as_json:
            raise ConfigurationError("--watch is for people, and --json for programs.", "Leave one of them out.")
        _watch(opened)
    said = state(opened)
    if as_json:
        from rootstock.cli.common import show_json

        show_json({**said, **({"failures": list(opened.failures())} if failures else {})})
        return
    if not watch:
        click.echo("\n".join(_lines(folder, said)))
    if any(said["failed"].values()) or failures:
        for listed, failure in enumerate(opened.failures(), 1):
            if not failures and listed > _SHOWN:
                click.echo(f"    ... all of them: rootstock run status {shlex.quote(str(folder))} --failures")
                break
            click.echo(f"    {failure_line(failure)}")
    if watch and said["missing"]:
        plain = f"rootstock run continue {shlex.quote(str(folder))}"
        raise RootstockError(
            f"Nothing computes {folder} any more, and {said['missing']:,} of its structures are missing.",
            "\n".join([
                *last_words(folder),
                f"To compute them (add --partition, --account ... if you used them): {go_on_command(folder) or plain}",
            ]),
        )  # fmt: skip
    if watch and _unwritten(folder, said):
        raise RootstockError(
            f"All of {folder} is computed, and nothing has written {said['out']}.",
            "\n".join([*last_words(folder), f"Write it: {_write_command(folder, said)}"]),
        )


def _lines(folder: Path, said: Mapping[str, Any]) -> list[str]:
    """Return what is shown of a run."""
    build = f", build {said['environment']}/{said['build']}" if said["build"] else ""
    lines = [f"{folder}: {said['kind']} with {said['model']}{build}"]
    lines += [f"  {words}" for words in _jobs(said)]
    for process in said["running"]:
        where = f"process {process['pid']} on {process['host']}" if "pid" in process else "a process"
        rate, left = process["structures_per_s"], process["seconds_left"]
        pace = f", {pace_words(rate, left)}" if rate else ""
        workers = f"; {states_words(process['workers'])}" if process["workers"] else ""
        lines.append(f"  element {process['element']}: {process['state']}, {where}{pace}{workers}")
    if not said["running"]:
        lines += _at_rest(folder, said)
    for node in said["bad_nodes"]:
        places = "; ".join(f"{place}: {said[:100]}" for place, said in node["places"].items())
        lines.append(
            f"  on {node['host']} workers were given up, and jobs that are yet to be submitted do not run there"
        )
        lines.append(f"    {places}")
    rows = [
        ("structures", said["structures"], ""),
        ("done", said["done"], ""),
        ("not converged", said["not_converged"], "" if said["kind"] == "relax" else None),
        ("missing", said["missing"], f"{said['partial']:,} of them begun" if said["partial"] else ""),
        ("computed twice", said["computed_twice"], "the first result counts" if said["computed_twice"] else None),
        ("damaged records", said["damaged_records"], "computed again" if said["damaged_records"] else None),
        ("failed", sum(said["failed"].values()), _failed_words(said)),
    ]
    shown = [(f"  {name:<16}{count:>12,}", remark) for name, count, remark in rows if remark is not None]
    return lines + [f"{row}  {remark}" if remark else row for row, remark in shown]


def _at_rest(folder: Path, said: Mapping[str, Any]) -> list[str]:
    """Return what is said of a run that no process computes."""
    if not said["missing"]:
        where = f"not written; write them: {_write_command(folder, said)}" if _unwritten(folder, said) else ""
        return [f"  all is computed; results: {where or near(Path(said['out']))}"]
    if _jobs(said):
        return ["  no process computes it yet"]
    return ["  no process computes it", *(f"    {line}" for line in last_words(folder))]


def _unwritten(folder: Path, said: Mapping[str, Any]) -> bool:
    """Tell whether there are results of all structures, and no file of them, nor a job that may yet write it."""
    from rootstock.simulations.runs.export import are_written

    if said["missing"] or not said["done"] + said["not_converged"]:
        return False
    return not any(map(_may_compute, said["jobs"])) and not are_written(folder, Path(said["out"]))


def _write_command(folder: Path, said: Mapping[str, Any]) -> str:
    return f"rootstock run export {shlex.quote(str(folder))} {shlex.quote(str(near(Path(said['out']))))}"


def _failed_words(said: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} of class {name}" for name, count in said["failed"].items() if count)


def _may_compute(job: Mapping[str, Any]) -> bool:
    """Tell whether something of a job is queued or running, or nobody can tell."""
    return job["running"] is None or bool(job["running"] or job["waiting"])


def _jobs(said: Mapping[str, Any]) -> list[str]:
    """Return what is queued or running, in words."""
    from rootstock.root.disk_usage import number_of

    words = [_job_words(job) for job in said["jobs"] if _may_compute(job)]
    if by_engine := said["engine_jobs"]:
        words.append(f"{number_of(len(by_engine), 'job')} of Parsl: {_queue_of(by_engine)}")
    return words


def _job_words(job: Mapping[str, Any]) -> str:
    if job["running"] is None:
        return f"job {job['id']}: nobody here can tell whether it runs"
    of = f", of {job['shares']:,}" if job["nodes"] == 1 else f", on {job['nodes']:,} nodes"
    return f"job {job['id']}: {_queue_of([job])}{of}"


def _queue_of(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Return how much of some jobs runs and waits, in words."""
    from rootstock.simulations.runs.schedulers import Queue

    running, waiting, ending = (sum(job[key] for job in jobs) for key in ("running", "waiting", "ending"))
    why = "; ".join(dict.fromkeys(job["why"] for job in jobs if job["why"]))
    return str(Queue(running, waiting, why, ending))


# -- until the end


def _watch(folder: RunFolder) -> None:
    """Show how far a run is until all is computed, or nothing computes any more."""
    looks: deque[tuple[float, int]] = deque()
    try:
        with _shown() as show:
            while True:
                said, now = state(folder), time.monotonic()
                looks.append((now, said["structures"] - said["missing"]))
                while len(looks) > 2 and now - looks[0][0] > _PACE_S:
                    looks.popleft()
                last = not _goes_on(folder.path, said)
                pace = "" if last else _pace(said, looks)
                show([*_lines(folder.path, said), *([f"  {pace}"] if pace else [])], _line(said, pace), last)
                if last:
                    return
                time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        click.echo("What computes goes on.", err=True)
        raise


def _goes_on(path: Path, said: Mapping[str, Any]) -> bool:
    """Tell whether a run is being computed, or a job of it may yet write the results."""
    from rootstock.simulations.runs.export import is_exported

    jobs = [job for job in said["jobs"] if _may_compute(job)]
    states = {each["state"] for each in said["running"]}
    if said["missing"]:
        return bool(jobs or said["engine_jobs"] or states - {"ended"})
    if "running" in states or any(job["retries"] for job in jobs):
        return True
    return any(job["running"] for job in jobs) and not is_exported(path, Path(said["out"]))


def _pace(said: Mapping[str, Any], looks: deque[tuple[float, int]]) -> str:
    """Return how fast a run is by several looks at it, and how long the rest takes; empty if nobody can tell yet."""
    from rootstock.simulations.runs.progress import can_foresee

    (first, before), (last, after) = looks[0], looks[-1]
    if after <= before:
        return ""
    rate = (after - before) / (last - first)
    left = said["missing"] / rate if can_foresee(said["kind"], after, said["structures"]) else 0.0
    return pace_words(rate, left)


def _line(said: Mapping[str, Any], pace: str) -> str:
    """Return how far a run is, in a line."""
    failed = sum(said["failed"].values())
    words = _failed_words(said)
    parts = [f"{said['structures'] - said['missing']:,} of {said['structures']:,} computed, {failed:,} failed"]
    parts[0] += f" ({words})" if words else ""
    return "; ".join([*parts, *_jobs(said), *([pace] if pace else [])])


@contextmanager
def _shown() -> Iterator[Callable[[list[str], str, bool], None]]:
    """Yield what shows a look: all lines on a terminal, in place of those before; elsewhere one, now and then."""
    if not sys.stdout.isatty():
        told = [-_TOLD_S]

        def tell(lines: list[str], line: str, last: bool) -> None:  # noqa: ARG001  # as on a terminal
            if last or time.monotonic() - told[0] >= _TOLD_S:
                told[0] = time.monotonic()
                click.echo(f"{time.strftime('%H:%M:%S')} {line}")

        yield tell
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False) as live:
        yield lambda lines, _, __: live.update(Text("\n".join(lines)), refresh=True)
