"""``rootstock doctor`` and ``rootstock why-not``: what keeps a root, or a model, from working here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rootstock.cli.command import Command
from rootstock.cli.common import cluster_options, json_option, named_cluster, show_json
from rootstock.cli.parameter_types import DEVICE, MODEL, Finite
from rootstock.client.timeouts import START_S

if TYPE_CHECKING:
    from rootstock.reports.doctor import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "bright_black"}
_device = click.option(
    "--device",
    type=DEVICE,
    help="Device to run models on: cuda, cuda:1, xpu or cpu [default: the accelerator of the cluster].",
)


@click.command(cls=Command)
@cluster_options
@_device
@click.option(
    "--full",
    is_flag=True,
    help="Also check every installed file, and start a worker of each environment: takes minutes.",
)
@click.option(
    "--wait",
    type=Finite(1, 86400),
    metavar="SECONDS",
    help="Time limit for all checks together [default: 9; 3600 with --full].",
)
@json_option
def doctor(
    cluster: str | None, root: Path | None, device: str | None, full: bool, wait: float | None, as_json: bool
) -> None:
    """Check a root, from this node.

    The command runs with your rights and changes nothing. Each line is a check: its result (ok, warning, failed or
    skipped), what was found, and what to do next. Without --full and --wait the command ends within ten seconds, even
    if the file system hangs. What keeps one environment from working is a warning if others work; with --full it is a
    failure. The exit code is 0 if no check failed, or that of the first failure: 3 the root is not specified or
    unknown, or an environment file cannot be used, 10 something else of the root is missing, damaged or unreadable, 12
    weights, 18 worker or interpreter.

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
@click.option(
    "--wait", default=START_S, show_default=True, metavar="SECONDS", help="Time limit for the worker to load the model."
)
@json_option
def why_not(model: str, cluster: str | None, root: Path | None, device: str | None, wait: float, as_json: bool) -> None:
    """Say why MODEL does not run here.

    The command takes the steps that a calculator takes, up to the first that fails. The last step starts a worker
    that loads the model. The exit code is 0 if MODEL runs, or that of the failure: 3 root or model not specified or
    unknown, or the environment file cannot be used, 4 unknown environment, 10 something else of the root is missing,
    damaged or unreadable, 12 weights, 18 worker or interpreter.

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
