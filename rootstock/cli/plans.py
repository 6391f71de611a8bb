"""What all commands share that change a root: a plan is shown, somebody is asked, and it is carried out with a log."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from rootstock.cli.command import INTERRUPTED
from rootstock.cli.common import merge_options, options, show_json, show_progress
from rootstock.config.site import Site, check_site
from rootstock.errors import ConfigurationError
from rootstock.root.command_log import log_line, new_log
from rootstock.root.lock import AdminContext, quiet
from rootstock.root.permissions import Access
from rootstock.root.records import read_marker

if TYPE_CHECKING:
    from rootstock.admin.plans import Plan


@dataclass(frozen=True)
class PlanOptions:
    """How a plan is shown and carried out: what `plan_options` ask for."""

    dry_run: bool = False
    yes: bool = False
    as_json: bool = False
    wait: float = 0.0
    break_lock: bool = False
    only_looks: bool = False  # whether it is never carried out, so that it needs no right to write


plan_options = options(
    click.option("--dry-run", "-n", is_flag=True, help="Show the plan, and change nothing."),
    click.option("--yes", "-y", is_flag=True, help="Do not ask. Needed without a terminal."),
    click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON."),
    click.option("--wait", default=0.0, metavar="SECONDS", help="Time to wait while another command changes the root."),
    click.option("--break-lock", is_flag=True, help="Take the root's lock from another command, even if it runs."),
    merge_options("options", PlanOptions, "dry_run", "yes", "as_json", "wait", "break_lock"),
)


def run_plan(
    plan: Plan,
    options: PlanOptions,
    *,
    removes: str = "",
    place: Path | None = None,
    logged: bool = True,
) -> bool:
    """Show a plan, ask, and carry it out.

    Parameters
    ----------
    plan : Plan
    options : PlanOptions
    removes : str
        The question, where what is to be done cannot be undone.
    place : Path, optional
        What the plan is about, if not the root.
    logged : bool
        Whether the root keeps a log of it.

    Returns
    -------
    bool
        Whether it was carried out.

    Raises
    ------
    ConfigurationError
        If there is something to do, nobody has said yes, and nobody can be asked.
    RootError, SiteError
        If this user may not write to the root, or nobody can.
    """
    from rootstock.root.place import check_writable

    site = plan.site
    if options.as_json:
        show_json(plan.to_json())
    else:
        nothing = " nothing to do." if plan.empty else ""
        click.echo("\n  ".join([f"{place or site.layout.root}:{nothing}", *plan.summary_lines()]))
    if plan.empty or options.only_looks:
        return False
    if note := check_site(site, plan.command) if logged or removes else "":
        click.echo(f"Note: {note}", err=True)
    if logged or removes:
        check_writable(site.layout)
    if options.dry_run:
        return False
    if not options.yes:
        _confirm(removes)
    with _log_file(site) if logged else nullcontext() as log, admin_context(options, log) as admin:
        plan.apply(admin)
    return True


@contextmanager
def admin_context(options: PlanOptions, log: TextIO | None = None) -> Iterator[AdminContext]:
    """Be somebody who changes a root, with their progress shown, and logged if there is a log.

    Parameters
    ----------
    options
    log : TextIO, optional
        The log.
    """
    record = functools.partial(log_line, log) if log else quiet
    with show_progress() as show:

        def report(text: str) -> None:
            record(text)
            show(text)

        yield AdminContext(" ".join(sys.argv), options.wait, options.break_lock, report, record)


@contextmanager
def _log_file(site: Site) -> Iterator[TextIO]:
    """Open a log of the command that runs; its path is printed if the block fails."""
    from rootstock.root.generations import friendly_os_errors

    command = click.get_current_context().command.name or ""
    # By what holds now: a change of access changes the modes of this one too, or none.
    access = Access.noted(read_marker(site.layout)) if site.layout.marker.is_file() else site.access
    with friendly_os_errors(site.layout), new_log(site.layout, access, command) as file:
        try:
            yield file
        except BaseException:
            click.echo(f"Log: {file.name}", err=True)
            raise


def _confirm(removes: str) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigurationError(
            "There is no terminal to ask at, so nothing was done.", "Add --yes to go ahead, or --dry-run to look only."
        )
    try:
        agreed = click.confirm(removes or "Go on?", default=not removes)
    except click.Abort:  # Ctrl-C, or the end of the input
        click.echo(err=True)
        agreed = False
    if not agreed:
        click.echo("Nothing was changed.", err=True)
        click.get_current_context().exit(INTERRUPTED)
