"""Goes on with a run folder: ``rootstock run continue`` and ``retry-failed``."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.common import named_cluster
from rootstock.cli.job_plans import show_jobs, show_parsl
from rootstock.cli.jobs import AskedJobs
from rootstock.cli.run_arguments import claim_results, device_words
from rootstock.cli.run_end import near
from rootstock.cli.run_folder import Run, compute, refuse_read_only
from rootstock.cli.run_workers import AskedWorkers, show_plan, show_what

if TYPE_CHECKING:
    from rootstock.simulations.pool.slots import Slot
    from rootstock.simulations.runs.records import RunRecord


def go_on(
    folder: Path, *, retry_failed: bool, rebase: bool, element: str | None, stop_on_error: bool, out: Path | None,
    overwrite: bool, cluster: str | None, root: Path | None, device: str | None, threads: int | None, as_json: bool,
    workers: AskedWorkers | None, jobs: AskedJobs | None,
) -> None:  # fmt: skip
    """Compute what is missing in a run folder, here or by jobs.

    Parameters
    ----------
    folder : Path
    retry_failed : bool
        Whether structures that failed are computed again.
    rebase : bool
        Whether the build in use now computes the rest.
    element, stop_on_error, out, overwrite, cluster, root, device, threads, as_json, workers, jobs
        As click passes them.

    Raises
    ------
    ConfigurationError
        If the run cannot go on as it is asked for.
    """
    from rootstock.simulations.runs.begin import naming_rebase, resume
    from rootstock.simulations.runs.elements import Element
    from rootstock.simulations.runs.export import check_export
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.input_table import read_sizes
    from rootstock.simulations.runs.records import read_run
    from rootstock.simulations.runs.schedulers import Job
    from rootstock.simulations.runs.submissions import go_on_command

    record = read_run(folder)
    share = Element.parse(element) if element else Element()
    refuse_read_only(folder, share, retry_failed=retry_failed, out=out)
    out, out_named = out or near(Path(record.out)), out is not None
    check_export(folder, out, overwrite=overwrite)
    place = {"cluster": named_cluster(cluster), "root": root} if cluster or root else {"root": record.root or None}

    def make(build: str | None) -> Any:
        from rootstock.interfaces.calculator import RootstockCalculator

        return RootstockCalculator(
            model=record.model, setup_kwargs=record.setup_kwargs, device=device or record.device, threads=threads,
            build=build, **place,
        )  # fmt: skip

    missing = len(RunFolder(folder, record).missing(share, retry_failed=retry_failed))
    more = device_words(record.device)
    if jobs is not None and (missing or jobs.dry_run):
        asked = Run(folder, share, stop_on_error, retry_failed, out, overwrite, more, record.model, jobs=jobs)
        _submit(jobs, asked, record, make, missing, rebase=rebase, other_file=out_named)
        return
    if missing and not Job.of_this_process() and (command := go_on_command(folder)):
        click.echo(f"Note: this computes here, on {platform.node()}. By jobs as before: {command}", err=True)
    claim_results(folder, share, out)
    places: list[Slot] = []
    if workers is not None and missing:
        with naming_rebase(folder, record), closing(make(None if rebase else record.build)) as calc:
            places = workers.find_places(calc)
    if workers is not None and workers.dry_run:
        show_plan(folder, record.model, read_sizes(folder, record.structures), missing, places, out)
        return
    asked = Run(
        folder, share, stop_on_error, retry_failed, out, overwrite, more, record.model, as_json, workers, places
    )  # fmt: skip
    compute(asked, lambda _, announce: resume(folder, make, accept_other_build=rebase, announce=announce))


def _submit(
    jobs: AskedJobs, run: Run, record: RunRecord, make: Callable[[str | None], Any], missing: int, *, rebase: bool,
    other_file: bool,
) -> None:  # fmt: skip
    """Have jobs compute what is missing."""
    from rootstock.config.site import users_site
    from rootstock.root.layout import RootLayout
    from rootstock.simulations.runs.begin import naming_rebase, resume
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.input_table import read_sizes
    from rootstock.simulations.runs.records import rebase as bind_again
    from rootstock.simulations.submission.identity import identity
    from rootstock.simulations.submission.submit import refuse_computed

    folder, out = run.path, run.out or near(Path(record.out))
    with naming_rebase(folder, record), closing(make(None if rebase else record.build)) as calc:
        site = users_site(RootLayout(Path(calc.parameters["root"])), strict=True)
        jobs.check(site, folder, calc.parameters["device"])
        model = identity(calc)
    elsewhere = ["--root", str(site.layout.root)] if str(site.layout.root) != record.root else []
    words = partial(jobs.words, run, other_file=other_file)
    held = RunFolder(folder, record)
    places = held.places(held.missing(retry_failed=run.retry_failed))
    plan, prepared = jobs.prepare(site, folder, places, lambda grace: [*words(grace), *elsewhere])
    if jobs.dry_run:
        show_what(folder, record.model, read_sizes(folder, record.structures), missing, out)
        show_parsl(jobs, site, missing) if jobs.by_parsl else show_jobs(jobs, plan, prepared, missing)
        return
    if missing and not jobs.by_parsl:
        run.announce(held, record.structures)
    if rebase:
        refuse_computed(folder, force=jobs.request.force)
        bind_again(folder, model)
    if jobs.by_parsl:
        claim_results(folder, run.element, out)
        compute(run, lambda _, announce: resume(folder, make, announce=announce))
    else:
        jobs.submit(held, plan, prepared, out)
