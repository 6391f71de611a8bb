"""What a root is asked to hold, and the builds that follow from it.

The root's setting ``environments`` names what was ever asked for: an installation that names nothing brings the root to
that state, whatever an admin has edited, an upgrade has changed or somebody has removed. An environment that cannot be
built keeps none of the others from it.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rootstock.admin.bundle import Bundle
from rootstock.admin.environment_sources import find_source, find_sources
from rootstock.builds.interpreters import Interpreter
from rootstock.builds.plan import BuildPlan, plan_environment
from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.site import Site, newer_versions
from rootstock.errors import RootError, RootstockError, SiteError
from rootstock.root.generations import latest
from rootstock.root.layout import VARIANT, RootLayout
from rootstock.root.managed_files import Written
from rootstock.root.mounts import refuse_noexec
from rootstock.root.reachability import refusal
from rootstock.root.records import is_in_use, read_build
from rootstock.root.variants import find_variants

_MARK = re.compile("^(error:|cause:|×|╰─▶) *")  # begins the lines in which uv says why, in its versions
_LONGEST = 300  # characters of a reason in a line


@dataclass(frozen=True)
class Problem:
    """What cannot be built, and why.

    Attributes
    ----------
    name : str
        The environment, or the label of one of its builds.
    error : RootstockError
    """

    name: str
    error: RootstockError

    def to_json(self) -> dict[str, str]:
        """Return it for programs."""
        return {"name": self.name, "message": self.error.message, "hint": self.error.hint}


@dataclass(frozen=True)
class Asked:
    """The environments of an installation.

    Attributes
    ----------
    site : Site
        With all that the root is asked to hold, now and before, as its setting ``environments``.
    sources : tuple of EnvironmentSource
        Those that this installation is about.
    named : bool
        Whether somebody named them now.
    problems : tuple of Problem
        Those whose file cannot be used.
    left : tuple of str
        Those that are left to a newer release, because nobody named them now and they have a build.
    """

    site: Site
    sources: tuple[EnvironmentSource, ...]
    named: bool
    problems: tuple[Problem, ...]
    left: tuple[str, ...] = ()


def asked_for(site: Site, names: Sequence[str], written: Written, bundle: Bundle | None, *, created: bool) -> Asked:
    """Return the environments that an installation is about.

    Parameters
    ----------
    site : Site
    names : sequence of str
        What somebody names now, perhaps by the path of a file; without any, all that the root is asked to hold, or what
        the bundle holds.
    written, bundle
        See `find_source`.
    created : bool
        Whether the root is yet to be made: the cluster's list then counts only if nothing is named.

    Raises
    ------
    ConfigurationError, UnknownEnvironmentError
        If something that is named now is wrong.
    """
    named = find_sources(site.layout, names, written, bundle)
    usual = bundle.environments if bundle else site.cluster.environments
    typed = not bundle and site.cluster.origins.get("environments") == "argument"
    new = [source.name for source in named] if names else usual
    before = () if created else site.cluster.environments
    cluster = replace(site.cluster, environments=tuple(dict.fromkeys([*before, *new])))
    sources, problems, left = list(named), [], []
    newer = newer_versions(site.layout)
    for name in () if names else dict.fromkeys(usual):
        try:
            if newer and not bundle and is_in_use(site.layout.active(name)):
                left.append(name)  # else two releases, each with its own uv, would build it in turns
                continue
            sources.append(find_source(site.layout, name, written, bundle))
        except RootstockError as error:
            if typed:
                raise
            problems.append(Problem(name, error))
        except OSError as error:
            problems.append(Problem(name, refusal(Path(error.filename or site.layout.environment_file(name)), error)))
    return Asked(replace(site, cluster=cluster), tuple(sources), bool(names), tuple(problems), tuple(left))


def plan_builds(
    asked: Asked,
    accelerator: str,
    pythons_for: Callable[[str], Sequence[Interpreter]],
    locks: Mapping[Path, bytes],
) -> tuple[list[BuildPlan], list[Problem]]:
    """Return how environments are built, and those that cannot be.

    Parameters
    ----------
    asked : Asked
    accelerator : str
        What to build for. Without it, the cluster's, where somebody names the environments; else everything that an
        environment is built for on this processor.
    pythons_for : callable
        Returns, given an environment's name, the interpreters that are in the root or can be fetched into it.
    locks : mapping of Path to bytes
        What lock files are about to hold.
    """
    builds, problems = [], list(asked.problems)
    for source in asked.sources:
        try:
            source.references()  # a wrong one would be found when all is built
            known = [] if accelerator or asked.named else _accelerators(asked.site.layout, source.name)
            for kind in known or [accelerator]:
                builds.append(plan_environment(asked.site, source, pythons_for(source.name), kind, locks))
        except RootstockError as error:
            problems.append(Problem(source.name, error))
    return builds, problems


def _accelerators(layout: RootLayout, name: str) -> list[str]:
    """Return what an environment is built for on this processor, also where the link to a build is gone."""
    machine, newest = platform.machine(), latest(layout)
    before = newest.state.active if newest else {}
    if name in before and not is_in_use(layout.active(name)):
        # What the main build is for decides about the others, which follow when it is back.
        record = read_build(layout.build(name, before[name]))
        return [record.accelerator] if record and record.platform == machine else []
    found = [variant.accelerator for variant in find_variants(layout, name) if variant.platform == machine]
    prefix = f"{name}{VARIANT}{machine}-"
    return list(dict.fromkeys([*found, *(link.removeprefix(prefix) for link in before if link.startswith(prefix))]))


def needed_builds(
    layout: RootLayout, builds: Iterable[BuildPlan], locks: Mapping[Path, bytes], bundle: Bundle | None
) -> tuple[list[BuildPlan], list[Problem]]:
    """Return those builds that are not in use already, and those of which that cannot be told.

    Parameters
    ----------
    layout : RootLayout
    builds : iterable of BuildPlan
    locks : mapping of Path to bytes
        What lock files of the root are about to hold.
    bundle : Bundle, optional

    Raises
    ------
    BundleError
        If the bundle does not hold what a build takes.
    RootError
        If the client's build in use is damaged, or nothing may run from the root.
    """
    needed, problems = [], []
    for build in builds:
        try:
            plan = build.needed(layout, locks.get(build.lock_file))
        except RootError as error:
            if build.source is None:
                raise
            problems.append(Problem(build.label, error))
        else:
            if plan and bundle:
                bundle.check(plan)
            needed += [plan] if plan else []
    if needed:
        refuse_noexec(layout.root)
    return needed, problems


def reason(error: RootstockError) -> str:
    r"""Return in a line why something failed; of what uv says, its own reason.

    >>> reason(SiteError("uv lock failed:\nUsing CPython\nerror: No solution\n  cause: Because x was not found"))
    'uv lock failed: No solution: Because x was not found'
    """
    first, *others = [" ".join(line.split()) for line in error.message.splitlines() if line.strip()]
    if first.endswith(":") and others:
        told = [line for line in others if _MARK.match(line)] or others[:1]
        plain = [_MARK.sub("", line).rstrip(":") for line in told[:2]]
        first = f"{first} {': '.join(plain)}"
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 3]}..."


def failure(problems: Iterable[Problem], number: int, what: str = "builds", done: str = "in use") -> RootstockError:
    """Return one error for all builds that failed, or could not begin; it ends a command as the first of them would.

    Parameters
    ----------
    problems : iterable of Problem
        At least one.
    number : int
        How many builds there were to be made; the others have been.
    what, done : str
        What they are, in the plural, and what the others are now.
    """
    ordered = sorted(problems, key=lambda problem: problem.name)
    first = ordered[0].error
    if number == 1:
        return first
    messages = "\n".join(f"{problem.name}: {problem.error.message}" for problem in ordered)
    others = f"; the others are {done}" if len(ordered) < number else ""
    error = SiteError(f"{len(ordered)} of {number} {what} failed{others}.\n{messages}", first.hint)
    error.exit_code = first.exit_code
    return error
