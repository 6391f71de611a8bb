"""``rootstock-site verify``: whether builds still compute the right numbers."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from rootstock.cli.common import Command, Progress, cluster_options, found, json_option, show_json
from rootstock.cli.completing import DEVICE, ENVIRONMENT
from rootstock.errors import VerificationError
from rootstock.roots import find_site


@click.command("verify", cls=Command)
@cluster_options
@click.option("--env", "environments", type=ENVIRONMENT, multiple=True, metavar="NAME",
              help="Environment; repeatable [default: all that are built].")  # fmt: skip
@click.option("--model", "models", multiple=True, metavar="MODEL",
              help="A model of the environments; repeatable [default: those that have references].")  # fmt: skip
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="Device to compute on.")
@json_option
def verify(
    cluster: str | None, root: Path | None, environments: tuple[str, ...], models: tuple[str, ...], device: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Compute reference structures with the builds in use, and compare.

    Published values, forces and stress against differences of the energy, and what rotation, permutation and repetition
    must leave alone. Each result is kept in the root as it comes. Ends with 15 if one is missed, so a nightly job on a
    node with a GPU can run it.

    \b
    Examples:
      rootstock-site verify --device cuda
      rootstock-site verify --env mace --model small --json
    """
    from rootstock.access import Access
    from rootstock.sources import registered_names
    from rootstock.verify import describe, verify_builds

    site = found(find_site(cluster, root, installed=True))
    progress = Progress(None)
    results = []
    names = environments or registered_names(site.layout)
    with progress.shown():
        for result in verify_builds(
            site.layout, Access.of(site.cluster), names, models, device, report=progress.step
        ):  # fmt: skip
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
    if any(result.missed for result in results):
        sys.exit(VerificationError.exit_code)
