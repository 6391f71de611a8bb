"""``warm``: weights for workers without network, in a site's root and in one's own."""

from __future__ import annotations

from pathlib import Path

import click

from rootstock.cli.command import Command
from rootstock.cli.common import end_unhealthy, options, show_progress, site_options, tell_problems
from rootstock.cli.parameter_types import DEVICE, ENVIRONMENT, MODEL, Place
from rootstock.cli.plans import PlanOptions, plan_options, run_plan
from rootstock.config.site import Site, find_site, is_new
from rootstock.root.layout import RootLayout, absolute
from rootstock.root.user_folders import personal_root

_fetch_options = options(
    click.option("--device", type=DEVICE, default="cpu", show_default=True, help="Device to load the models on."),
    click.option("--timeout", default=120.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=0.1),
                 help="Time limit for a server to send the next data."),
)  # fmt: skip


@click.command("warm", cls=Command)
@site_options
@click.option("--env", "environments", type=ENVIRONMENT, multiple=True, metavar="NAME", help="Environment; repeatable.")
@click.option("--model", "models", multiple=True, metavar="MODEL",
              help="A model of the one environment, or as users write it, mace-small; repeatable "
                   "[default: the cluster's, or those that the environments' files list as warm].")  # fmt: skip
@click.option("--all-models", is_flag=True, help="Every released model of the environments.")
@_fetch_options
@plan_options
def site_warm(
    site: Site, environments: tuple[str, ...], models: tuple[str, ...], all_models: bool, device: str, timeout: float,
    options: PlanOptions,
) -> None:  # fmt: skip
    """Fetch the weights of models into a root.

    Jobs on nodes without network find them there. Run it where there is a network. Environments that are missing
    are built first. Weights that are there already are recorded, not fetched again.

    \b
    Examples:
      rootstock-site warm
      rootstock-site warm --env mace --model small --model medium-mpa-0
      rootstock-site warm --model orb --model alignn-matpes_pbe
    """
    from rootstock.admin.warm import plan_warm

    with show_progress() as report:
        plan = plan_warm(
            site, environments, models, all_models=all_models, device=device, patience=timeout, report=report
        )
    tell_problems(plan.problems, "left out")
    _tell_packaged(plan.packaged)
    run_plan(plan, options)
    end_unhealthy(plan.problems)


def _tell_packaged(models: tuple[str, ...]) -> None:
    for model in models:
        click.echo(f"{model}: the weights are in an installed package; there is nothing to fetch.", err=True)


@click.command("warm", cls=Command)
@click.argument("models", type=MODEL, nargs=-1, required=True, metavar="MODEL...")
@click.option("--root", type=Place(path_type=Path), help="Folder of your own root [default: ~/.local/share/rootstock].")
@_fetch_options
@plan_options
def user_warm(models: tuple[str, ...], root: Path | None, device: str, timeout: float, options: PlanOptions) -> None:
    """Build environments and download weights into your own root.

    Run the command on a machine with network access. The models then run without a network.

    \b
    Examples:
      rootstock warm mace-small
      rootstock warm mace-small chgnet --root /scratch/me/rootstock
    """
    from rootstock.admin.warm import plan_warm

    folder = absolute(root or personal_root())
    site = find_site("local" if is_new(RootLayout(folder)) else None, folder)
    with show_progress() as report:
        plan = plan_warm(site, (), models, device=device, patience=timeout, report=report)
    _tell_packaged(plan.packaged)
    if run_plan(plan, options) and not options.as_json:
        click.echo(f'To use it: RootstockCalculator(model="{models[0]}", root="{folder}", device="{device}")')
