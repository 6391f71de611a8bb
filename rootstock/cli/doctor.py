"""``rootstock doctor`` and ``rootstock why-not``: what keeps a root, or a model, from working here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rootstock.cli.common import Command, cluster_options, json_option, named_cluster, show_json
from rootstock.cli.parameter_types import DEVICE, MODEL, Finite
from rootstock.client.timeouts import START_S

if TYPE_CHECKING:
    from rootstock.reports.doctor import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "bright_black"}
_device = click.option(
    "--device", type=DEVICE, help="Where models are to compute: cpu, cuda, cuda:1 [default: as on this cluster]."
)


@click.command(cls=Command)
@cluster_options
@_device
@click.option("--full", is_flag=True, help="Look at every file, and start a worker of each environment: minutes.")
@click.option(
    "--wait",
    type=Finite(1, 86400),
    metavar="SECONDS",
    help="Seconds that the checks may take in all [default: 9; 3600 with --full].",
)
@json_option
def doctor(
    cluster: str | None, root: Path | None, device: str | None, full: bool, wait: float | None, as_json: bool
) -> None:
    """Examine a root, from this node.

    It is looked at as you see it. Each line is a check: ok, warning, failed or skipped, what was seen, and what to
    do about it. Nothing is changed. Without --full and --wait it ends within ten seconds, even if the file system
    hangs. It ends with 0 if nothing failed, else with the exit code of the first failure: 3 which root is meant, 10
    the root, 12 weights, 14 a damaged build, 18 a worker.

    \b
    Examples:
      rootstock doctor
      srun --gres=gpu:1 rootstock doctor --device cuda --wait 120
      rootstock doctor --full --json > doctor.json
    """
    from rootstock.reports.doctor import examine

    _report(examine(named_cluster(cluster), root, device=device, full=full, wait=wait), as_json)


@click.command("why-not", cls=Command)
@click.argument("model", type=MODEL)
@cluster_options
@_device
@click.option("--wait", default=START_S, show_default=True, metavar="SECONDS", help="How long its worker may take.")
@json_option
def why_not(model: str, cluster: str | None, root: Path | None, device: str | None, wait: float, as_json: bool) -> None:
    """Say why MODEL does not run here.

    It goes through every step that a calculator takes, up to the first that fails. The last step starts a worker
    that loads the model. It ends with 0 if MODEL runs, else with the exit code of what stops it: 3 which root or
    model is meant, 4 no such environment, 10 the root, 12 weights, 14 a damaged build, 18 the worker.

    \b
    Examples:
      rootstock why-not mace-medium
      rootstock why-not chgnet --device cuda
    """
    from rootstock.reports.doctor import why_not as go_through

    _report(go_through(model, named_cluster(cluster), root, device=device, patience=wait), as_json)
    click.echo(f"{model} runs here.", err=True)


def _report(findings: Iterator[Finding], as_json: bool) -> None:
    """Show findings as they come; if one is a failure, end with its exit code."""
    from rootstock.reports.doctor import exit_code

    shown = []
    for finding in findings:
        shown.append(finding)
        if not as_json:
            _show(finding)
    code = exit_code(shown)
    if as_json:
        show_json({"schema": 1, "exit_code": code, "findings": [asdict(finding) for finding in shown]})
    if code:
        sys.exit(code)


def _show(finding: Finding) -> None:
    result = click.style(f"{finding.result:<8}", fg=_COLOURS[finding.result])
    click.echo(f"{result} {finding.check:<13} {finding.reason}")
    arrow = click.style("->", bold=True)
    for line in finding.remedy.splitlines():
        click.echo(f"{'':<22} {arrow} {line.strip()}")
        arrow = "  "
