"""``rootstock-site verify``: whether builds still compute the right numbers, and are what was published."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from rootstock.cli.common import Command, Progress, cluster_options, found, json_option, show_json
from rootstock.cli.parameter_types import DEVICE, ENVIRONMENT
from rootstock.config.site import find_site
from rootstock.errors import VerificationError
from rootstock.root.layout import RootLayout


@click.command("verify", cls=Command)
@cluster_options
@click.option("--env", "environments", type=ENVIRONMENT, multiple=True, metavar="NAME",
              help="Environment; repeatable [default: all that are built].")  # fmt: skip
@click.option("--model", "models", multiple=True, metavar="MODEL",
              help="A model of the environments; repeatable [default: those that have references].")  # fmt: skip
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="Device to compute on.")
@click.option("--files", is_flag=True,
              help="Compute nothing; compare every file of the builds in use, the module's too, and of their "
                   "interpreters in the root, with what was published.")  # fmt: skip
@json_option
def verify(
    cluster: str | None, root: Path | None, environments: tuple[str, ...], models: tuple[str, ...], device: str,
    files: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compute references with the builds in use, and compare.

    Published values, forces and stress against differences of the energy, and what rotation, permutation and repetition
    must leave alone. Each result is kept in the root as it comes. Ends with 15 if one is missed, so a nightly job on a
    node with a GPU can run it. With --files it names each file that was changed, is missing or does not belong there.

    \b
    Examples:
      rootstock-site verify --device cuda
      rootstock-site verify --env mace --model small --json
      rootstock-site verify --files
    """
    from rootstock.admin.verify import verify_builds
    from rootstock.admin.verify_checks import describe
    from rootstock.config.environment_file import registered_names
    from rootstock.root.published import is_broken

    site = found(find_site(cluster, root, installed=True))
    progress = Progress(None)
    if files:
        _verify_files(site.layout, environments, progress, as_json)
        return
    names, results = environments or registered_names(site.layout), []
    with progress.shown():
        for result in verify_builds(site, names, models, device, report=progress.step):
            results.append(result)
            if as_json:
                continue
            click.echo(
                f"{result.environment} ({device}): {result.passed} passed, {result.missed} missed, "
                f"{result.not_run} not run, {result.seconds:.1f} s"
            )
            for check in result.checks:
                if not check["passed"]:
                    click.echo(f"  {'missed' if check['passed'] is False else 'not run'}: {describe(check)}")
    if as_json:
        show_json({"schema": 1, "root": str(site.layout.root), "verifications": [asdict(each) for each in results]})
    verified = {result.environment for result in results}
    missing = [
        name for name in names
        if name not in verified and (name in environments or is_broken(site.layout, name))
    ]  # fmt: skip
    if missing:
        raise VerificationError(
            f"No build was verified of {', '.join(missing)}.", "rootstock-site install builds what is missing."
        )
    if any(result.missed for result in results):
        sys.exit(VerificationError.exit_code)


def _verify_files(layout: RootLayout, environments: Sequence[str], progress: Progress, as_json: bool) -> None:
    from rootstock.client.resolve import require_environment
    from rootstock.config.environment_file import registered_names
    from rootstock.root.disk_usage import number_of
    from rootstock.root.published import sealed_trees

    for name in environments:
        require_environment(layout, name)
    damaged, found = [], []
    with progress.shown():
        for each in sealed_trees(layout, environments or registered_names(layout), clients=not environments):
            progress.step(f"{each}: reading {each.folder}")
            problems = each.problems()
            if problems:
                damaged.append(str(each.folder))
            found.append({"kind": each.kind, "name": each.name, "for": each.variant, "folder": str(each.folder),
                          "problems": [asdict(problem) for problem in problems]})  # fmt: skip
            if not as_json:
                verb = "is" if len(problems) == 1 else "are"
                wrong = f"{number_of(len(problems), 'file')} {verb} wrong"
                title = f"{each}, {each.variant}" if each.variant else str(each)
                click.echo(f"{title}: {wrong if problems else 'as published'}")
                for problem in problems:
                    click.echo(f"  {problem}")
    if as_json:
        show_json({"schema": 2, "root": str(layout.root), "published": found})
    if damaged:
        raise VerificationError(
            f"Other files than were published are in {', '.join(damaged)}.",
            "Remove the folder, and rootstock-site install puts it there again.",
        )
