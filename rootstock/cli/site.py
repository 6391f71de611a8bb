"""``rootstock-site``: for those who install and maintain a root."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from rootstock import __version__
from rootstock.cli.bundle import bundles, open_bundle
from rootstock.cli.check_env import check_env, new_env
from rootstock.cli.command import EXIT_CODES, Group
from rootstock.cli.common import (
    cluster_options,
    end_unhealthy,
    json_option,
    show_json,
    show_progress,
    site_of,
    site_options,
)
from rootstock.cli.lock import lock
from rootstock.cli.page import page
from rootstock.cli.parameter_types import DEVICE, ENVIRONMENT, VERSION, Place, Whole
from rootstock.cli.plans import PlanOptions, plan_options, run_plan
from rootstock.cli.render import render
from rootstock.cli.repair import repair
from rootstock.cli.shell_completion import completion_of
from rootstock.cli.verify import verify
from rootstock.cli.warm import site_warm
from rootstock.config.site import Site


@click.group(
    cls=Group,
    other="rootstock.cli.user",
    commands=[
        completion_of("rootstock-site"), bundles, check_env, lock, new_env, page, render, repair, site_warm, verify,
    ],
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
@click.version_option(__version__, prog_name="rootstock-site")
def main() -> None:
    """Install Rootstock for a cluster, and maintain it.

    \b
    Example:
      rootstock-site install --cluster local --root ~/rootstock
    """


@main.command()
@cluster_options
@click.option("--group", metavar="GROUP", help="The group of the files; --set access.writers=group makes it admins.")
@click.option("--env", "environments", type=ENVIRONMENT, multiple=True, metavar="NAME|FILE",
              help="Environment to build and to hold from now on; repeatable [default: all that were named before, "
                   "or the cluster's].")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="A setting of the cluster file, such as uv.find-links=/path or access.readers=group.")  # fmt: skip
@click.option("--template-dir", "template_dirs", multiple=True, metavar="DIR",
              type=Place(exists=True, file_okay=False, path_type=Path),
              help="Put the templates of DIR into the root: they outrank the packaged ones; repeatable.")  # fmt: skip
@click.option("--bundle", type=Place(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Fetch nothing: this file of `bundle create` has it all, and the cluster's settings.")  # fmt: skip
@click.option("--digest", metavar="SHA256",
              help="SHA-256 that `bundle create` printed; the bundle is refused if it differs.")  # fmt: skip
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="Device to verify the builds on.")
@click.option("--accelerator", type=click.Choice(["cuda", "rocm", "xpu", "cpu"]),
              help="Build for this, beside what there is for others [default: the cluster's].")  # fmt: skip
@click.option("--jobs", "-j", type=Whole(1), metavar="N",
              help="Environments to lock and build at a time [default: one per processor, at most 4].")  # fmt: skip
@click.option("--no-client", is_flag=True, help="Leave out the environment that the module puts on PATH.")
@click.option("--force", is_flag=True, help="Replace files that somebody edited; theirs are kept in ROOT/aside.")
@plan_options
def install(
    cluster: str | None, root: Path | None, group: str | None, environments: tuple[str, ...], settings: tuple[str, ...],
    template_dirs: tuple[Path, ...], bundle: Path | None, digest: str | None, device: str, accelerator: str | None,
    jobs: int | None, no_client: bool, force: bool, options: PlanOptions,
) -> None:  # fmt: skip
    """Create a root, or bring one up to date.

    That is its registry, modulefiles and environments. Every environment is built from locked requirements, checked
    file by file, verified on reference structures, and only then put to use. Running it again does what is left to
    do.

    \b
    Examples:
      rootstock-site install --cluster local --root ~/rootstock --env emt
      rootstock-site install --cluster della --env mace --dry-run
    """
    from rootstock.admin.install_plan import plan_install

    unpacked = open_bundle(bundle, digest)
    brought = unpacked.scope if unpacked else None
    site = site_of(cluster, root, settings=settings, group=group, brought=brought)
    site = replace(site, template_dirs=(*template_dirs, *site.template_dirs))
    with show_progress() as report:
        plan = plan_install(
            site, environments, device=device, accelerator=accelerator or "", client=not no_client, force=force,
            bundle=unpacked, jobs=jobs or 0, report=report,
        )  # fmt: skip
    for warning in (*plan.warnings, *(unpacked.outranked(site) if unpacked else ())):
        click.echo(f"Note: {warning}", err=True)
    for problem in plan.problems:
        click.echo(f"{problem.name} cannot be built: {problem.error.message}", err=True)
    done = run_plan(plan, options)
    if options.dry_run and not options.as_json:
        click.echo("\n".join(plan.diffs()), nl=bool(plan.diffs()))
    if not done:
        plan.refuse_problems()
    if done and not options.as_json:
        click.echo(plan.next_steps())


@main.command()
@click.argument("version", type=VERSION)
@site_options
@plan_options
def default(version: str, site: Site, options: PlanOptions) -> None:
    """Make VERSION the one that `module load rootstock` loads.

    \b
    Example:
      rootstock-site default 2026.12.0 --cluster della
    """
    from rootstock.admin.rollback import plan_default

    run_plan(plan_default(site, version), options)


@main.command()
@site_options
@click.option("--to", type=Whole(), metavar="N", help="The generation to go back to [default: the last different one].")
@plan_options
def rollback(site: Site, to: int | None, options: PlanOptions) -> None:
    """Go back to an earlier generation.

    Its builds and its default version are put to use again. Running jobs go on with what they have. The rollback is
    a generation itself, so it can be undone.

    \b
    Examples:
      rootstock-site rollback --dry-run
      rootstock-site rollback --to 4
    """
    from rootstock.admin.rollback import plan_rollback

    run_plan(plan_rollback(site, to), options)


@main.command()
@site_options
@click.option("--keep", type=Whole(1), default=3, show_default=True, metavar="N",
              help="Generations to keep, whatever their age.")  # fmt: skip
@click.option("--older-than", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="DAYS",
              help="Keep everything that was in use within the last DAYS days. Choose more than the longest job "
                   "takes.")  # fmt: skip
@click.option("--force", is_flag=True,
              help="Remove builds that processes of this machine run from as well; they then fail.")  # fmt: skip
@plan_options
def gc(site: Site, keep: int, older_than: float, force: bool, options: PlanOptions) -> None:
    """Remove builds that are no longer used.

    Packages in the root's cache that no build and no lock names go as well.

    Never removed: what is in use, what a kept generation refers to, what another command is making, and, without
    --force, what a process of this machine runs from. Processes of other machines are not seen: there it is
    --older-than that protects them.

    \b
    Examples:
      rootstock-site gc --dry-run
      rootstock-site gc --keep 3 --older-than 30 --yes
    """
    from rootstock.admin.gc import plan_gc

    plan = plan_gc(site, keep=keep, older_than=older_than, force=force, break_lock=options.break_lock)
    run_plan(plan, options, removes="Remove this?")


@main.command()
@site_options
@json_option
@click.option("--sizes", is_flag=True, help="Measure what each part takes; looks at every file.")
def status(site: Site, as_json: bool, sizes: bool) -> None:
    """Say what a root holds, and what is wrong with it.

    The last lines name what is missing, damaged, unreadable or somebody else's, a full disk, and a command that was
    killed, each with what to do; the command then ends with 10.

    \b
    Examples:
      rootstock-site status --sizes
      rootstock-site status --json | jq .room
    """
    from rootstock.reports.status import read_status

    contents = read_status(site.layout, sizes=sizes)
    if as_json:
        show_json(contents.to_json())
    else:
        click.echo("\n".join(contents.lines()))
    end_unhealthy(contents.problems)


@main.command()
@site_options
@click.option("--force", is_flag=True,
              help="Remove the root even if processes of this machine run from it; they then fail.")  # fmt: skip
@plan_options
def uninstall(site: Site, force: bool, options: PlanOptions) -> None:
    """Remove a root and everything in it. Nothing of Rootstock is left elsewhere.

    Processes of other machines that run from it are not seen.

    \b
    Example:
      rootstock-site uninstall --root ~/rootstock --dry-run
    """
    from rootstock.admin.uninstall import plan_uninstall

    question = f"Remove {site.layout.root} for good?"
    run_plan(plan_uninstall(site, force=force), options, removes=question, logged=False)
