"""``rootstock-site``: for those who install and maintain a root."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from rootstock import __version__
from rootstock.cli.common import Group, Progress, cluster_options, log_file


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rootstock-site")
def main() -> None:
    """Install Rootstock for a cluster, and maintain it.

    \b
    Example:
      rootstock-site install --cluster local --root ~/rootstock
    """


@main.command()
@cluster_options
@click.option("--env", "environments", multiple=True, help="Environment to build; repeatable [default: the cluster's].")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="A setting of the cluster file, such as uv.find-links=/path or access.readers=group.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="Device to verify the builds on.")
@click.option("--no-client", is_flag=True, help="Leave out the environment that the module puts on PATH.")
@click.option("--dry-run", "-n", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--wait", default=0.0, metavar="SECONDS", help="How long to wait for another admin.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def install(
    cluster: str | None, root: Path | None, environments: tuple[str, ...], settings: tuple[str, ...], device: str,
    no_client: bool, dry_run: bool, yes: bool, wait: float, as_json: bool,
) -> None:  # fmt: skip
    """Create a root, or bring one up to date: registry, modulefiles, environments.

    Every environment is built from locked requirements, checked file by file, verified on reference structures, and
    only then put to use. Running it again does what is left to do.

    \b
    Examples:
      rootstock-site install --cluster local --root ~/rootstock --env emt
      rootstock-site install --cluster della --env mace --dry-run
    """
    from rootstock.install import apply, plan_install, site_cluster

    found, path = site_cluster(cluster, root, settings)
    plan = plan_install(found, path, environments or found.environments, device=device, client=not no_client)
    if as_json:
        click.echo(json.dumps({"root": str(path), "cluster": found.name, "changes": plan.lines()}, indent=1))
    elif plan.empty:
        click.echo(f"{path}: nothing to do.")
    else:
        click.echo(f"{path}:\n" + "\n".join(f"  {line}" for line in plan.lines()))
    if plan.empty or dry_run:
        return
    if not yes and sys.stdin.isatty() and sys.stdout.isatty():
        click.confirm("Go on?", default=True, abort=True)
    with log_file(plan.prepare_log(), "install") as (_, log):
        progress = Progress(log)
        with progress.shown():
            apply(plan, " ".join(sys.argv), wait=wait, report=progress.step, log=progress.log)
    if not as_json:
        click.echo(plan.next_steps())
