"""``rootstock-site repair``: what is damaged is put back as it was published."""

from __future__ import annotations

from pathlib import Path

import click

from rootstock.cli.bundle import open_bundle
from rootstock.cli.command import Command
from rootstock.cli.common import show_progress, site_options
from rootstock.cli.parameter_types import ENVIRONMENT, Place
from rootstock.cli.plans import PlanOptions, plan_options, run_plan
from rootstock.config.site import Site
from rootstock.errors import BuildError


@click.command("repair", cls=Command)
@site_options
@click.option("--env", "environments", type=ENVIRONMENT, multiple=True, metavar="NAME",
              help="Environment; repeatable [default: all that are built, and the module's].")  # fmt: skip
@click.option("--bundle", type=Place(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Fetch nothing: take everything from this file, made by `bundle create`.")  # fmt: skip
@click.option("--digest", metavar="SHA256",
              help="SHA-256 that `bundle create` printed; the bundle is refused if it differs.")  # fmt: skip
@plan_options
def repair(
    site: Site, environments: tuple[str, ...], bundle: Path | None, digest: str | None, options: PlanOptions
) -> None:
    """Make damaged builds again, as they were published.

    It compares every file of the builds in use, of those that `rollback` can go back to, and of their interpreters in
    the root. A damaged one is made again from its own lock, compared with what was published, and put in its place
    by one rename; running jobs go on. A package that is damaged in uv's cache is fetched again.

    \b
    Examples:
      rootstock-site repair --dry-run
      rootstock-site repair --env mace --yes
    """
    from rootstock.admin.repair import label, plan_repair
    from rootstock.client.resolve import require_environment

    for name in environments:
        require_environment(site.layout, name)
    with show_progress() as report:
        plan = plan_repair(site, environments, bundle=open_bundle(bundle, digest), report=report)
    run_plan(plan, options)
    if plan.hopeless:
        names = "\n".join(f"Cannot repair {label(mend.tree)}: {mend.obstacle}." for mend in plan.hopeless)
        which = "".join(f" --env {name}" for name in sorted(
            {mend.tree.name for mend in plan.hopeless if mend.tree.kind == "environment"}))  # fmt: skip
        raise BuildError(
            names, f"To have others made in their place, remove their folders, then: rootstock-site install{which}"
        )
