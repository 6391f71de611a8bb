"""``rootstock run``: what a run folder holds, and how to go on with it."""

from __future__ import annotations

import collections
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.command import Group
from rootstock.cli.common import cluster_options, json_option, options, show_json
from rootstock.cli.jobs import jobs_options
from rootstock.cli.parameter_types import Place
from rootstock.cli.run_arguments import claim_outputs
from rootstock.cli.run_go_on import go_on
from rootstock.cli.run_options import element_option, stop_option
from rootstock.cli.run_status import status
from rootstock.cli.run_workers import workers_options
from rootstock.cli.simulations import Simulation, device_option, exit_zero_option, overwrite_option, threads_option
from rootstock.errors import SchedulerError

if TYPE_CHECKING:
    from rootstock.simulations.runs.progress import Damaged

_folder = click.argument("folder", type=Place(readable=False, path_type=Path))
_go_on_options = options(
    element_option,
    exit_zero_option,
    stop_option,
    click.option("--out", "-o", type=Place(dir_okay=False, path_type=Path), metavar="FILE",
                 help="Output file: .extxyz, .db, .npz or .csv [default: that of the first command]."),
    overwrite_option,
    cluster_options,
    device_option(None, "that of the first command"),
    threads_option,
    workers_options,
    jobs_options,
    json_option,
)  # fmt: skip


@click.group("run", cls=Group)
def run() -> None:
    """Inspect, continue and export run folders.

    A run folder holds the results of many structures. 'rootstock singlepoint', 'rootstock relax' and 'rootstock md'
    make one, with --run.
    """


run.add_command(status)


@run.command("continue", cls=Simulation)
@_folder
@click.option("--rebase", is_flag=True, help="Compute the rest with the build in use now, and record the change.")
@_go_on_options
def continue_(folder: Path, rebase: bool, **rest: Any) -> None:
    """Compute what is missing in FOLDER.

    The build that the run began with computes, also if another one is in use now; in the root and on the device of the
    first command, unless others are given. Structures that failed are not computed again: see retry-failed. When
    nothing is missing, results are exported, as at the end of the first command. With --json, standard output is what
    'rootstock run status --json' prints then.

    \b
    Examples:
      rootstock run continue screening
      rootstock run continue screening --device cuda:1 --element 2/4
    """
    go_on(folder, retry_failed=False, rebase=rebase, **rest)


@run.command("retry-failed", cls=Simulation)
@_folder
@_go_on_options
def retry_failed(folder: Path, **rest: Any) -> None:
    """Compute the failed structures in FOLDER again.

    This is for failures that were not the structure's: of class resource, on a GPU with more memory; or of a node that
    was at fault; or after 'rootstock run continue --rebase', which takes another build. The same model fails for a
    structure of class structure again. What is missing, and results that are damaged on disk, are computed as well.

    \b
    Example:
      rootstock run retry-failed screening --device cuda:1
    """
    from rootstock.root.disk_usage import number_of
    from rootstock.simulations.runs.folder import RunFolder

    opened = RunFolder.open(folder)
    damaged: list[Damaged] = []
    collections.deque(opened.frames(damaged), maxlen=0)
    if damaged and os.access(folder, os.W_OK):
        opened.discard(damaged)
        click.echo(f"{number_of(len(damaged), 'result')} damaged on disk: computed again.", err=True)
    go_on(folder, retry_failed=True, rebase=False, **rest)


@run.command(cls=Simulation)
@_folder
@click.argument("out", type=Place(dir_okay=False, path_type=Path))
@overwrite_option
@json_option
def export(folder: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    """Write the results in FOLDER to the file OUT.

    Results are in the order of the input. The ending of OUT selects the format: .extxyz, .db (ASE database), .npz
    (arrays) or .csv (a table). A run that is not complete can be exported; the command says what is missing.

    \b
    Examples:
      rootstock run export screening results.extxyz
      rootstock run export screening table.csv --overwrite
    """
    from rootstock.simulations.runs.export import check_export
    from rootstock.simulations.runs.export import export as write
    from rootstock.simulations.runs.folder import RunFolder

    opened = RunFolder.open(folder)
    check_export(folder, out, overwrite=overwrite)
    claim_outputs(out)
    exported = write(opened, out, overwrite=overwrite)
    if as_json:
        show_json({"schema": 1, **asdict(exported), "path": str(exported.path)})
    else:
        click.echo("; ".join(exported.sentences()))


@run.command(cls=Simulation)
@_folder
@json_option
def cancel(folder: Path, as_json: bool) -> None:
    """End the processes and jobs that compute the run in FOLDER.

    What they have computed is recorded before they end. 'rootstock run continue' computes the rest. Jobs that were
    submitted with --gpus are cancelled whole, with what has not begun of them; and so are Slurm arrays whose tasks
    compute the shares of the run.

    \b
    Example:
      rootstock run cancel screening
    """
    from rootstock.simulations.runs.cancel import cancel as end
    from rootstock.simulations.runs.elements import Found
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.submissions import Submitted

    RunFolder.open(folder)
    ended = end(folder)
    jobs = [(each, said) for each, said in ended if not isinstance(each, Found)]
    processes = [(each, said) for each, said in ended if isinstance(each, Found)]
    if as_json:
        shown = [
            {"element": str(found.element), **(asdict(found.process) if found.process else {}), "done": said}
            for found, said in processes
        ]
        named = [(each.job if isinstance(each, Submitted) else each, said) for each, said in jobs]
        cancelled = [{"scheduler": job.scheduler, "id": job.id, "done": said} for job, said in named]
        show_json({"schema": 1, "folder": str(folder.resolve()), "processes": shown, "jobs": cancelled})
    else:
        for each, said in jobs:
            click.echo(f"{each} {said}")
        for found, said in processes:
            click.echo(f"element {found.element}, {found.process or 'a process'}: {said}")
        if not ended:
            click.echo(f"Nothing computes {folder}.")
        elif any(each.queue and each.queue.running for each, _ in jobs if isinstance(each, Submitted)):
            command = f"rootstock run status {shlex.quote(str(folder))}"
            click.echo(f"Jobs that run record what they have, and end. See when they have: {command}")
    if any("was not cancelled" in said for _, said in ended):
        click.get_current_context().exit(SchedulerError.exit_code)
