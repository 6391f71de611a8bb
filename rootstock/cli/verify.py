"""``rootstock-site verify``: whether builds still compute the right numbers, and are what was published."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from rootstock.cli.command import Command
from rootstock.cli.common import json_option, refuse_unused, show_json, show_progress, site_options
from rootstock.cli.parameter_types import DEVICE, ENVIRONMENT
from rootstock.config.site import Site
from rootstock.errors import VerificationError
from rootstock.root.layout import RootLayout


@click.command("verify", cls=Command)
@site_options
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
    site: Site, environments: tuple[str, ...], models: tuple[str, ...], device: str, files: bool, as_json: bool
) -> None:
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

    if files:
        refuse_unused(dict.fromkeys(("models", "device"), "is for numbers; --files computes nothing."))
        _verify_files(site.layout, environments, as_json)
        return
    names, results = environments or registered_names(site.layout), []
    with show_progress() as report:
        for result in verify_builds(site, names, models, device, report=report):
            results.append(result)
            if not as_json:
                numbers = f"{result.passed} passed, {result.missed} missed, {result.not_run} not run"
                click.echo(f"{result.environment} ({device}): {numbers}, {result.seconds:.1f} s")
                for check in (check for check in result.checks if not check["passed"]):
                    click.echo(f"  {'missed' if check['passed'] is False else 'not run'}: {describe(check)}")
    if as_json:
        show_json({"schema": 1, "root": str(site.layout.root), "verifications": [asdict(result) for result in results]})
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


def _verify_files(layout: RootLayout, environments: Sequence[str], as_json: bool) -> None:
    from rootstock.client.resolve import require_environment
    from rootstock.config.environment_file import registered_names
    from rootstock.root.disk_usage import number_of
    from rootstock.root.published import sealed_trees

    for name in environments:
        require_environment(layout, name)
    trees: list[dict[str, Any]] = []
    with show_progress() as report:
        for tree in sealed_trees(layout, environments or registered_names(layout), clients=not environments):
            report(f"{tree}: reading {tree.folder}")
            problems = tree.problems()
            trees.append({"kind": tree.kind, "name": tree.name, "for": tree.variant, "folder": str(tree.folder),
                          "problems": [asdict(problem) for problem in problems]})  # fmt: skip
            if not as_json:
                verb = "is" if len(problems) == 1 else "are"
                state = f"{number_of(len(problems), 'file')} {verb} wrong" if problems else "as published"
                title = f"{tree}, {tree.variant}" if tree.variant else str(tree)
                click.echo("\n  ".join([f"{title}: {state}", *map(str, problems)]))
    if as_json:
        show_json({"schema": 2, "root": str(layout.root), "published": trees})
    if damaged := [tree["folder"] for tree in trees if tree["problems"]]:
        raise VerificationError(
            f"Other files than were published are in {', '.join(damaged)}.",
            f"rootstock-site repair --root {layout.root} makes what is damaged again.",
        )
