"""``rootstock-site lock``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from rootstock.cli.command import PENDING, Command
from rootstock.cli.common import cluster_options, show_progress, site_of
from rootstock.cli.plans import PlanOptions, plan_options, run_plan


@click.command(cls=Command)
@cluster_options
@click.option(
    "--env",
    "environments",
    multiple=True,
    metavar="NAME|FILE",
    help="Environment to lock; repeatable [default: all of the root]. A FILE has its lock beside it.",
)
@click.option("--check", is_flag=True, help=f"Write nothing; end with {PENDING} if a lock is missing or does not fit.")
@click.option("--upgrade", multiple=True, is_flag=False, flag_value="*", metavar="[PACKAGE]",
              help="Take the newest versions that fit; of PACKAGE only, if one is named (repeatable).")  # fmt: skip
@click.option("--accelerator", type=click.Choice(["cuda", "rocm", "xpu", "cpu"]),
              help="Lock for this [default: all that the environment is built for, or the cluster's].")  # fmt: skip
@plan_options
def lock(
    cluster: str | None, root: Path | None, environments: tuple[str, ...], check: bool, upgrade: tuple[str, ...],
    accelerator: str | None, options: PlanOptions,
) -> None:  # fmt: skip
    """Write or check the locks of environments.

    They lie beside the environment files; nothing is built. A lock fixes the version and the hashes of every
    package. What it says is kept as long as it fits; `install` builds what it says.

    \b
    Examples:
      rootstock-site lock --root ~/rootstock --check
      rootstock-site lock --root ~/rootstock --env mace --upgrade mace-torch
      rootstock-site lock --cluster local --env ./mymodel.py
    """
    from rootstock.admin.asked_for import failure
    from rootstock.admin.lock import plan_locks
    from rootstock.root.records import read_marker

    options = replace(options, dry_run=check or options.dry_run, only_looks=check)
    site = site_of(cluster, root)
    if not all(name.endswith(".py") for name in environments) or not environments:
        read_marker(site.layout)
    with show_progress() as report:
        plan = plan_locks(
            site, environments, accelerator=accelerator or "", upgrade=upgrade, writes=not options.dry_run,
            report=report,
        )  # fmt: skip
    if plan.changes or options.as_json or not plan.problems:
        run_plan(plan, options, place=plan.place, logged=plan.place is None)
    if plan.problems:
        raise failure(plan.problems, plan.number, "locks", "checked" if options.dry_run else "up to date")
    if check:
        sys.exit(0 if plan.empty else PENDING)
