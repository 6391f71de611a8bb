"""What keeps a root, or one of its models, from working for this user on this node.

A check is a function of a `DoctorContext` that yields a `Finding` for each thing that it looks at. It calls what a
calculator calls, so that both say the same. Each runs in a process of its own, for a limited time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rootstock.client.resolve import find_model, resolve
from rootstock.client.session import WorkerSpec
from rootstock.client.timeouts import START_S
from rootstock.config.clusters import require_root
from rootstock.config.environment_file import registered_names
from rootstock.config.site import installed_site
from rootstock.errors import ConfigurationError
from rootstock.reports.catalogue import in_use
from rootstock.reports.doctor import builds, place, surroundings, workers
from rootstock.reports.doctor.bounded import Bounded, no_answer
from rootstock.reports.doctor.finding import (
    FAILED,
    OK,
    SKIPPED,
    WARNING,
    Check,
    DoctorContext,
    Finding,
    check,
    ok,
    skipped,
    warning,
)
from rootstock.root.layout import RootLayout

__all__ = ["FAILED", "OK", "SKIPPED", "WARNING", "Finding", "examine", "exit_code", "why_not"]

_TOTAL_S, _FULL_S = 9.0, 3600.0  # unless somebody says how long it may take
_STEP_S = 3.0  # a step of `why_not`, unless its worker may take long

_FIRST: tuple[tuple[str, Check], ...] = (("reachable", place.reachable), ("layout", place.layout))
_OF_ROOT: tuple[tuple[str, Check], ...] = (
    ("builds", builds.builds), ("files", builds.intact), ("interpreters", builds.interpreters),
    ("weights", builds.weights), ("offline", workers.offline), ("gpu", workers.gpu), ("access", place.access),
    ("locks", place.locks), ("clock", place.clock), ("variables", surroundings.variables),
)  # fmt: skip
_OF_USER: tuple[tuple[str, Check], ...] = (
    ("scratch", place.scratch), ("space", place.space), ("threads", surroundings.threads),
)  # fmt: skip
# What a calculator needs, in the order in which it needs it.
_OF_MODEL: tuple[tuple[str, Check], ...] = (
    ("builds", builds.builds), ("files", builds.intact), ("interpreter", builds.interpreters),
    ("weights", builds.weights), ("gpu", workers.gpu), ("scratch", place.scratch),
)  # fmt: skip


def exit_code(findings: Iterable[Finding]) -> int:
    """Return that of the first failure; 0 if nothing failed."""
    return next((finding.code or 1 for finding in findings if finding.result == FAILED), 0)


def examine(
    cluster: str | None = None,
    root: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    full: bool = False,
    wait: float | None = None,
) -> Iterator[Finding]:
    """Look at a root as this user sees it from this node.

    Parameters
    ----------
    cluster, root
        See `find_root`.
    device : str, optional
        Where models are to compute; by default where those of the cluster do. A GPU that is asked for and not there
        is a failure.
    full : bool
        Look at every file of the builds and start a worker of each environment.
    wait : float, optional
        Seconds that all may take: by default 9, so that it ends within ten, or an hour if `full`. What has not
        answered by then has failed, but for a worker that is slow to start.

    Yields
    ------
    Finding
        As they come, in a fixed order.
    """
    seconds = wait if wait is not None else _FULL_S if full else _TOTAL_S
    end = time.monotonic() + seconds
    # The first steps come one after the other. A third is left for the others if one of them gets no answer.
    step_s = seconds / 3
    path = yield from _find(cluster, root, step_s)
    context = DoctorContext(RootLayout(path or Path("/")), full=full)
    usable = path is not None and (yield from _in_turn(_FIRST, context, step_s))
    if usable:
        context = replace(
            context,
            environments=tuple(registered_names(context.layout)),
            device=device or _device(context.layout),
            device_asked=device is not None,
        )
    else:
        yield from (replace(skipped("the root cannot be used"), check=name) for name, _ in _OF_ROOT)
    # A worker that is late is ended in time to say so.
    context = replace(context, patience=0.9 * max(0.0, end - time.monotonic()))
    yield from _together((*(_OF_ROOT if usable else ()), *_OF_USER), context, end)


def why_not(
    model: str,
    cluster: str | None = None,
    root: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    patience: float = START_S,
) -> Iterator[Finding]:
    """Go step by step through what a calculator needs for a model, up to a worker that has loaded it.

    Parameters
    ----------
    model : str
        A model string.
    cluster, root
        See `find_root`.
    device : str, optional
        Where it is to compute; by default where the cluster's models do.
    patience : float
        Seconds that the worker may take to start. Each other step may take a twentieth of it, or 3 s.

    Yields
    ------
    Finding
        One or more for each step. After one that failed there are no others.
    """
    step_s = max(_STEP_S, patience / 20)
    path = yield from _find(cluster, root, step_s)
    if path is None:
        return
    context = DoctorContext(RootLayout(path), patience=patience)
    if not (yield from _in_turn(_FIRST, context, step_s)):
        return

    def environment(_: DoctorContext) -> Iterator[Finding]:
        yield ok(f"{context.layout.environment_file(find_model(context.layout, model)[0])}")

    if not (yield from _in_turn([("environment", check(environment))], context, step_s)):
        return
    name, argument = find_model(context.layout, model)
    device = device or _device(context.layout)
    context = replace(context, environments=(name,), argument=argument, device=device, device_asked=True)

    def named(_: DoctorContext) -> Iterator[Finding]:
        source = in_use(context.layout, name)[0]
        source.check_model(argument)
        doubt = source.doubt(argument)
        yield warning(doubt, "Its setup() has the last word.") if doubt else ok(source.named(argument) or "the default")

    def start(_: DoctorContext) -> Iterator[Finding]:
        spec = WorkerSpec(resolve(context.layout, model, context.device), context.device, start_timeout=patience)
        with contextlib.closing(spec.start()) as worker:
            ready = f"a worker on {worker.device} was ready after {worker.start_s:.1f} s"
            yield ok(f"{ready}: {', '.join(worker.properties)}")

    steps = [("model", check(named)), *_OF_MODEL, ("start", check(start))]
    yield from _in_turn(steps, context, patience + step_s)


def _device(layout: RootLayout) -> str:
    """Return the device of the root's cluster; the CPU where `place.layout` tells that its settings cannot be read."""
    try:
        return installed_site(layout).cluster.device
    except (ConfigurationError, OSError):
        return "cpu"


def _find(
    cluster: str | None, root: str | os.PathLike[str] | None, seconds: float
) -> Generator[Finding, None, Path | None]:
    """Yield the finding about which root is meant, and return it."""

    def find(_: DoctorContext) -> Iterator[Finding]:
        yield ok(str(require_root(cluster, root)))

    context = DoctorContext(RootLayout(Path("/")))
    findings = list(_together([("root", check(find))], context, time.monotonic() + seconds))
    yield from findings
    return Path(findings[0].reason) if [finding.result for finding in findings] == [OK] else None


def _in_turn(
    steps: Sequence[tuple[str, Check]], context: DoctorContext, seconds: float
) -> Generator[Finding, None, bool]:
    """Yield what checks find until one fails; return whether none did."""
    for step in steps:
        for finding in _together([step], context, time.monotonic() + seconds):
            yield finding
            if finding.result == FAILED:
                return False
    return True


def _together(checks: Sequence[tuple[str, Check]], context: DoctorContext, deadline: float) -> Iterator[Finding]:
    """Run checks side by side, and yield what they find in their order."""
    running = [(name, Bounded(functools.partial(function, context))) for name, function in checks]
    try:
        for name, bounded in running:
            late = workers.late if name == "offline" and not context.full else no_answer
            for finding in bounded.findings(deadline, late):
                yield replace(finding, check=name)
    finally:
        for _, bounded in running:
            bounded.end()
