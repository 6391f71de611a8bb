"""``rootstock run``: what a run folder holds, and how to go on with it."""

from __future__ import annotations

import collections
import os
import shlex
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.command import Group
from rootstock.cli.common import cluster_options, json_option, named_cluster, options, show_json
from rootstock.cli.parameter_types import Place
from rootstock.cli.run_end import failure_line, near, state
from rootstock.cli.run_folder import Run, compute, refuse_read_only
from rootstock.cli.run_line import pace_words, states_words
from rootstock.cli.run_options import claim_outputs, claim_results, device_words, element_option, stop_option
from rootstock.cli.run_workers import AskedWorkers, show_plan, workers_options
from rootstock.cli.simulations import Simulation, device_option, overwrite_option, threads_option

if TYPE_CHECKING:
    from rootstock.simulations.pool.slots import Slot
    from rootstock.simulations.runs.progress import Damaged

_SHOWN = 5  # failures that status lists
_folder = click.argument("folder", type=Place(readable=False, path_type=Path))
_go_on_options = options(
    element_option,
    stop_option,
    click.option("--out", "-o", type=Place(dir_okay=False, path_type=Path), metavar="FILE",
                 help="Output file: .extxyz, .db, .npz or .csv [default: that of the first command]."),
    overwrite_option,
    cluster_options,
    device_option(None, "that of the first command"),
    threads_option,
    workers_options,
    json_option,
)  # fmt: skip


@click.group("run", cls=Group)
def run() -> None:
    """Inspect, continue and export run folders.

    A run folder holds the results of many structures. 'rootstock singlepoint', 'rootstock relax' and 'rootstock md'
    make one, with --run.
    """


@run.command(cls=Simulation)
@_folder
@click.option("--failures", is_flag=True, help="List every structure that failed.")
@json_option
def status(folder: Path, failures: bool, as_json: bool) -> None:
    """Show how far the run in FOLDER is.

    The command reads what is recorded on disk; it starts nothing. A failure of class structure is final. One of class
    resource is computed again on a GPU of another kind.

    \b
    Examples:
      rootstock run status screening
      rootstock run status screening --failures --json | jq -r '.failures[] | .structure'
    """
    from rootstock.simulations.runs.folder import RunFolder

    opened = RunFolder.open(folder)
    said = state(opened)
    if as_json:
        show_json({**said, **({"failures": list(opened.failures())} if failures else {})})
        return
    _show_status(folder, said)
    if any(said["failed"].values()) or failures:
        for listed, failure in enumerate(opened.failures(), 1):
            if not failures and listed > _SHOWN:
                click.echo(f"    ... all of them: rootstock run status {shlex.quote(str(folder))} --failures")
                break
            click.echo(f"    {failure_line(failure)}")


def _show_status(folder: Path, said: Mapping[str, Any]) -> None:
    build = f", build {said['environment']}/{said['build']}" if said["build"] else ""
    click.echo(f"{folder}: {said['kind']} with {said['model']}{build}")
    rows = [
        ("structures", said["structures"], ""),
        ("done", said["done"], ""),
        ("not converged", said["not_converged"], "" if said["kind"] == "relax" else None),
        ("missing", said["missing"], f"{said['partial']:,} of them begun" if said["partial"] else ""),
        ("computed twice", said["computed_twice"], "the first result counts" if said["computed_twice"] else None),
        ("damaged records", said["damaged_records"], "computed again" if said["damaged_records"] else None),
        (
            "failed",
            sum(said["failed"].values()),
            ", ".join(f"{count:,} of class {name}" for name, count in said["failed"].items() if count),
        ),
    ]
    for process in said["running"]:
        where = f"process {process['pid']} on {process['host']}" if "pid" in process else "a process"
        rate, left = process["structures_per_s"], process["seconds_left"]
        pace = f", {pace_words(rate, left)}" if rate else ""
        workers = f"; {states_words(process['workers'])}" if process["workers"] else ""
        click.echo(f"  element {process['element']}: {process['state']}, {where}{pace}{workers}")
    if not said["running"]:
        click.echo("  no process computes it")
    for name, count, remark in rows:
        if remark is not None:
            click.echo(f"  {name:<16}{count:>12,}{f'  {remark}' if remark else ''}")


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
    _go_on(folder, retry_failed=False, rebase=rebase, **rest)


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
    _go_on(folder, retry_failed=True, rebase=False, **rest)


def _go_on(
    folder: Path, *, retry_failed: bool, rebase: bool, element: str | None, stop_on_error: bool, out: Path | None,
    overwrite: bool, cluster: str | None, root: Path | None, device: str | None, threads: int | None, as_json: bool,
    workers: AskedWorkers | None,
) -> None:  # fmt: skip
    from rootstock.simulations.runs.begin import naming_rebase, resume
    from rootstock.simulations.runs.elements import Element
    from rootstock.simulations.runs.export import check_export
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.input_table import read_sizes
    from rootstock.simulations.runs.records import read_run

    record = read_run(folder)
    share = Element.parse(element) if element else Element()
    refuse_read_only(folder, share, retry_failed=retry_failed, out=out)
    out = out or near(Path(record.out))
    check_export(folder, out, overwrite=overwrite)
    claim_results(folder, share, out)
    place = {"cluster": named_cluster(cluster), "root": root} if cluster or root else {"root": record.root or None}

    def make(build: str | None) -> Any:
        from rootstock.interfaces.calculator import RootstockCalculator

        return RootstockCalculator(
            model=record.model, setup_kwargs=record.setup_kwargs, device=device or record.device, threads=threads,
            build=build, **place,
        )  # fmt: skip

    places: list[Slot] = []
    missing = len(RunFolder(folder, record).missing(share, retry_failed=retry_failed))
    if workers is not None and missing:
        with naming_rebase(folder, record), closing(make(None if rebase else record.build)) as calc:
            places = workers.find_places(calc)
    if workers is not None and workers.dry_run:
        show_plan(folder, record.model, read_sizes(folder, record.structures), missing, places, out)
        return
    more = device_words(record.device)
    asked = Run(
        folder, share, stop_on_error, retry_failed, out, overwrite, more, record.model, as_json, workers, places
    )  # fmt: skip
    compute(asked, lambda _, announce: resume(folder, make, accept_other_build=rebase, announce=announce))


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

    What they have computed is recorded before they end. 'rootstock run continue' computes the rest.
    If the tasks of a Slurm array compute the shares of the run, those that have not begun are cancelled, too.

    \b
    Example:
      rootstock run cancel screening
    """
    from rootstock.simulations.runs.cancel import cancel as end
    from rootstock.simulations.runs.folder import RunFolder

    RunFolder.open(folder)
    ended = end(folder)
    if as_json:
        shown = [
            {"element": str(found.element), **(asdict(found.process) if found.process else {}), "done": said}
            for found, said in ended
        ]
        show_json({"schema": 1, "folder": str(folder.resolve()), "processes": shown})
    else:
        for found, said in ended:
            click.echo(f"element {found.element}, {found.process or 'a process'}: {said}")
        if not ended:
            click.echo(f"No process computes {folder}.")
