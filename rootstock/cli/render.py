"""``rootstock-site render``: modulefiles from their templates."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from rootstock import __version__
from rootstock.cli.command import PENDING, Command
from rootstock.cli.common import cluster_options, site_of
from rootstock.cli.parameter_types import Place
from rootstock.cli.plans import PlanOptions, run_plan
from rootstock.config.site import find_site


@click.command(cls=Command)
@cluster_options
@click.option("--output", type=Place(path_type=Path), help="Write to OUTPUT/CLUSTER/rootstock instead of a root.")
@click.option("--template-dir", "template_dirs", multiple=True, metavar="DIR",
              type=Place(exists=True, file_okay=False, path_type=Path),
              help="Put the templates of DIR into the root; with --output, only use them. Repeatable.")  # fmt: skip
@click.option("--check", is_flag=True, help=f"Write nothing; end with {PENDING} if a file differs or is left over.")
@click.option("--force", is_flag=True, help="Replace files that somebody edited; theirs are kept in ROOT/aside.")
def render(
    cluster: str | None, root: Path | None, output: Path | None, template_dirs: tuple[Path, ...], check: bool,
    force: bool,
) -> None:  # fmt: skip
    """Render the modulefiles anew.

    Those of a root, or, with --output, those of one cluster or all known ones.

    \b
    Examples:
      rootstock-site render --root ~/rootstock
      rootstock-site render --output modulefiles --check
      rootstock-site render --cluster della --output /tmp/look
    """
    if output is not None:
        _render_to(cluster, root, output, template_dirs, check)
        return
    from rootstock.admin.install_plan import plan_render

    site = site_of(cluster, root, installed=True)
    plan = plan_render(replace(site, template_dirs=(*template_dirs, *site.template_dirs)), force=force)
    for warning in plan.warnings:
        click.echo(f"Note: {warning}", err=True)
    run_plan(plan, PlanOptions(dry_run=check, only_looks=check, yes=True))
    if check:
        click.echo("\n".join(plan.diffs()), nl=bool(plan.diffs()))
        sys.exit(0 if plan.empty else PENDING)


def _render_to(
    cluster: str | None, root: Path | None, output: Path, template_dirs: tuple[Path, ...], check: bool
) -> None:
    from rootstock.config.committed_modulefiles import compare, write
    from rootstock.config.render import committed_renderings, module_tree

    if cluster is None:
        texts = committed_renderings(__version__)
    else:
        site = replace(find_site(cluster, root), template_dirs=template_dirs)
        tree = module_tree(site, __version__)
        texts = {Path(site.cluster.name) / path: text for path, text in tree.items()}
    differences = compare(output, texts)
    for line in differences if check else write(differences):
        click.echo(line)
    if check:
        sys.exit(PENDING if differences else 0)
