"""What commands say about jobs that they submit, or would submit."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rootstock.cli.jobs import AskedJobs
    from rootstock.config.site import Site
    from rootstock.simulations.submission.plan import JobPlan
    from rootstock.simulations.submission.submit import Prepared

_SHORT_S = 240  # of which the end is a good part


def tell_plan(asked: AskedJobs, plan: JobPlan, prepared: Prepared) -> None:
    """Print how many jobs there are, and what in them is not as somebody would expect.

    Parameters
    ----------
    asked : AskedJobs
    plan : JobPlan
    prepared : Prepared
    """
    click.echo(f"{plan}")
    for note in (*_notes(asked, plan), *_about_nodes(prepared)):
        click.echo(f"Note: {note}", err=True)


def show_jobs(asked: AskedJobs, plan: JobPlan, prepared: Prepared, todo: int) -> None:
    """Print what would be submitted.

    Parameters
    ----------
    asked : AskedJobs
    plan : JobPlan
    prepared : Prepared
    todo : int
        How many structures are to be computed; for none, nothing is.
    """
    if todo:
        tell_plan(asked, plan, prepared)
        click.echo(f"\n{prepared.script.rstrip()}\n")
        for time, command in enumerate(prepared.commands):
            click.echo(f"{'then, after the end of the one before: ' if time else ''}{shlex.join(command)}")
    click.echo("Nothing was submitted.")


def show_parsl(asked: AskedJobs, site: Site, todo: int) -> None:
    """Print what Parsl would submit.

    Parameters
    ----------
    asked : AskedJobs
    site : Site
    todo : int
        How many structures are to be computed; for none, nothing is.
    """
    from rootstock.simulations.parsl_engine.cluster_config import blocks
    from rootstock.simulations.parsl_engine.providers import job_options

    if todo:
        plan = blocks(site.cluster, asked.request, todo)
        click.echo(f"by Parsl, from this process: {plan.jobs}")
        for note in _notes(asked, plan):
            click.echo(f"Note: {note}", err=True)
        click.echo("Each job asks for:\n  " + "\n  ".join(job_options(site.cluster, plan)))
    click.echo("Nothing was submitted.")


def _notes(asked: AskedJobs, plan: JobPlan) -> list[str]:
    from rootstock.root.disk_usage import number_of

    notes, gpus = [], asked.request.gpus
    if plan.gpus > gpus:
        notes.append(f"jobs get whole nodes here, so {plan.gpus} GPUs compute.")
    elif plan.gpus < gpus:
        compute = "1 GPU computes" if plan.gpus == 1 else f"{plan.gpus} GPUs compute"
        notes.append(f"{compute}, not {gpus}: with more, the largest share would be no smaller.")
    if plan.seconds < _SHORT_S:
        notes.append("up to half a minute of each job is kept to record results; of longer jobs that is less.")
    threads = click.get_current_context().params["threads"] or 0
    each = max(1, plan.nodes.cpus // (plan.nodes.gpus * asked.workers_per_gpu))
    if threads > each:
        has = number_of(each, "processor")
        notes.append(f"each worker computes with {threads} threads on {has} (jobs.batch.cpus-per-gpu).")
    return notes


def _about_nodes(prepared: Prepared) -> list[str]:
    notes = []
    if prepared.without:
        notes.append(f"not on {', '.join(prepared.without)}, where workers were given up (rootstock run status).")
    for node in prepared.left:
        notes.append(
            f"jobs may run on {node.host}, where workers were given up: this scheduler has no option against a node."
        )
    return notes
