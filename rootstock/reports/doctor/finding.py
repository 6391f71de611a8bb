"""What a check says, and what it is given."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rootstock.errors import RootError, RootstockError
from rootstock.root.layout import RootLayout

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes
    ----------
    result : {'ok', 'warning', 'failed', 'skipped'}
    reason : str
        What was seen, in a line.
    remedy : str
        What to do about it: empty if it is well.
    code : int
        The exit code of a command that meets this failure; 0 if it is none.
    check : str
        The name of the check.
    seconds : float
        How long it took.
    """

    result: str
    reason: str
    remedy: str = ""
    code: int = 0
    check: str = ""
    seconds: float = 0.0


def ok(reason: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(OK, reason)


def warning(reason: str, remedy: str) -> Finding:
    """Return a finding that somebody should know of, and that stops nothing.

    Parameters
    ----------
    reason, remedy
        As of `Finding`.
    """
    return Finding(WARNING, reason, remedy)


def failed(reason: str, remedy: str, code: int = RootError.exit_code) -> Finding:
    """Return the finding that something does not work.

    Parameters
    ----------
    reason, remedy, code
        As of `Finding`.
    """
    return Finding(FAILED, reason, remedy, code)


def skipped(reason: str) -> Finding:
    """Return the finding that there was nothing to look at."""
    return Finding(SKIPPED, reason)


def from_error(error: RootstockError) -> Finding:
    """Return the finding for an error: the message that a calculator gives, too."""
    lines = error.message.splitlines()
    return failed("; ".join(line.strip() for line in lines), error.hint, error.exit_code)


def of_one(context: DoctorContext, finding: Finding, *, others: bool) -> Finding:
    """Return the finding about what keeps one environment from working, and says so to whoever asks for it.

    A job that begins with ``rootstock doctor`` goes on if the root has others; whoever looks at all, or at this one,
    is told of a failure.

    Parameters
    ----------
    context : DoctorContext
    finding : Finding
        A failure.
    others : bool
        Whether other environments work.
    """
    if context.full or context.argument is not None or not others:
        return finding
    return warning(finding.reason, finding.remedy)


@dataclass(frozen=True)
class DoctorContext:
    """What is looked at.

    Attributes
    ----------
    layout : RootLayout
    environments : tuple of str
        Those to look at.
    argument : str or None
        Argument of ``setup()``, if one model is looked at.
    device : str
        Where models are to compute.
    device_asked : bool
        Whether somebody asked for that device; it is the cluster's otherwise, and a login node may have none.
    full : bool
        Whether to look at every file, and to start a worker of each environment.
    patience : float
        Seconds that a worker may take to start.
    """

    layout: RootLayout
    environments: tuple[str, ...] = ()
    argument: str | None = None
    device: str = "cpu"
    device_asked: bool = False
    full: bool = False
    patience: float = 8.0


Check = Callable[[DoctorContext], Iterator[Finding]]


def check(function: Check) -> Check:
    """Turn errors that a check raises into findings."""

    @functools.wraps(function)
    def run(context: DoctorContext) -> Iterator[Finding]:
        try:
            yield from function(context)
        except RootstockError as error:
            yield from_error(error)
        except OSError as error:
            yield failed(f"{error.filename or context.layout.root}: {error.strerror or error}", "Ask the site's admin.")

    return run
