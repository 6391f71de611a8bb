"""``rootstock-site verify``: whether builds still compute the right numbers, and are what was published."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from rootstock.cli.command import Command
from rootstock.cli.common import (
    end_unhealthy,
    json_option,
    refuse_unused,
    show_json,
    show_progress,
    site_options,
    tell_problems,
)
from rootstock.cli.parameter_types import DEVICE, ENVIRONMENT
from rootstock.config.site import Site
from rootstock.errors import RootError, RootstockError, VerificationError
from rootstock.root.layout import RootLayout
from rootstock.root.records import BUILD_RECORD


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
    An environment that cannot be verified keeps none of the others from it; the command then ends with 10.

    \b
    Examples:
      rootstock-site verify --device cuda
      rootstock-site verify --env mace --model small --json
      rootstock-site verify --files
    """
    from rootstock.admin.verify import builds_to_verify, verify_builds
    from rootstock.admin.verify_checks import describe

    if files:
        refuse_unused(dict.fromkeys(("models", "device"), "is for numbers; --files computes nothing."))
        _verify_files(site.layout, environments, as_json)
        return
    builds, problems = builds_to_verify(site, environments, device)
    results = []
    with show_progress() as report:
        for result in verify_builds(site, builds.values(), models, device, report=report):
            results.append(result)
            if not as_json:
                numbers = f"{result.passed} passed, {result.missed} missed, {result.not_run} not run"
                click.echo(f"{result.environment} ({result.device}): {numbers}, {result.seconds:.1f} s")
                for check in (check for check in result.checks if not check["passed"]):
                    click.echo(f"  {'missed' if check['passed'] is False else 'not run'}: {describe(check)}")
    if as_json:
        show_json({
            "schema": 1, "root": str(site.layout.root), "verifications": [asdict(result) for result in results],
            "problems": {name: str(error) for name, error in problems.items()},
        })  # fmt: skip
    tell_problems(problems, "not verified")
    if any(result.missed for result in results):
        sys.exit(VerificationError.exit_code)
    end_unhealthy(problems)


def _verify_files(layout: RootLayout, environments: Sequence[str], as_json: bool) -> None:
    from rootstock.client.resolve import require_environment
    from rootstock.config.environment_file import registered_names
    from rootstock.root.disk_usage import number_of
    from rootstock.root.in_use import link_problems
    from rootstock.root.published import sealed_trees
    from rootstock.root.variants import environment_of

    for name in environments:
        require_environment(layout, name)
    trees: list[dict[str, Any]] = []
    problems: dict[str, RootstockError] = {
        link: error for link, error in link_problems(layout).items()
        if not environments or environment_of(link) in environments
    }  # fmt: skip
    with show_progress() as report:
        for tree in sealed_trees(layout, environments or registered_names(layout), clients=not environments):
            if not os.path.lexists(tree.folder / BUILD_RECORD) and tree.kind != "interpreter":
                continue  # its link is among the problems
            report(f"{tree}: reading {tree.folder}")
            try:
                wrong = tree.problems()
            except RootError as error:
                problems[str(tree)] = error
                continue
            trees.append({"kind": tree.kind, "name": tree.name, "for": tree.variant, "folder": str(tree.folder),
                          "problems": [asdict(problem) for problem in wrong]})  # fmt: skip
            if not as_json:
                verb = "is" if len(wrong) == 1 else "are"
                state = f"{number_of(len(wrong), 'file')} {verb} wrong" if wrong else "as published"
                title = f"{tree}, {tree.variant}" if tree.variant else str(tree)
                click.echo("\n  ".join([f"{title}: {state}", *map(str, wrong)]))
    if as_json:
        show_json({
            "schema": 2, "root": str(layout.root), "published": trees,
            "problems": {name: str(error) for name, error in problems.items()},
        })  # fmt: skip
    tell_problems(problems, "not compared")
    if damaged := [tree["folder"] for tree in trees if tree["problems"]]:
        raise RootError(
            f"Other files than were published are in {', '.join(damaged)}.",
            f"rootstock-site repair --root {layout.root} makes what is damaged again.",
        )
    end_unhealthy(problems)
