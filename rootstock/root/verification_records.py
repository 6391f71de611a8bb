"""What verifications of a build saw. ``{root}/verification/<environment>/<digest>/`` holds a file for each run.

A run's file is replaced after each check: one that is cut off leaves those before. Reading needs no lock.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rootstock import __version__
from rootstock.errors import RootError, RootstockError
from rootstock.root.layout import RootLayout
from rootstock.root.lock import Report, quiet
from rootstock.root.record_files import Record, parse_record, read_each, read_record
from rootstock.root.records import BUILD_RECORD, BuildRecord, how_to_replace, now, user_name, write_file

_KEPT = 30  # runs of a build


@dataclass(frozen=True)
class Verification(Record):
    """A run.

    Attributes
    ----------
    environment, build : str
        The build by its digest.
    device : str
        What computed; as long as nothing has, what is to.
    checks : tuple of dict
        In the order in which they were made; see `rootstock.admin.verify.check_model`. ``passed`` is None for what was
        not run.
    started, ended : str
        When. `ended` is empty for a run that was cut off.
    by, on : str
        Whose run it was, and the machine.
    versions : Mapping[str, str]
        Distribution -> version, as the workers saw them.
    """

    environment: str
    build: str
    device: str
    checks: tuple[dict[str, Any], ...] = ()
    started: str = field(default_factory=now)
    ended: str = ""
    by: str = field(default_factory=user_name)
    on: str = field(default_factory=platform.node)
    rootstock: str = __version__
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> int:
        return sum(check.get("passed") is True for check in self.checks)

    @property
    def missed(self) -> int:
        return sum(check.get("passed") is False for check in self.checks)

    @property
    def not_run(self) -> int:
        return sum(check.get("passed") is None for check in self.checks)

    @property
    def seconds(self) -> float:
        """How long its checks took."""
        return float(sum(check.get("seconds", 0) for check in self.checks))


def read_verifications(
    layout: RootLayout, environment: str, digest: str, damaged: dict[str, RootstockError] | None = None
) -> list[Verification]:
    """Return the runs of ``rootstock-site verify`` on a build, oldest first.

    Parameters
    ----------
    layout : RootLayout
    environment, digest : str
        The build's.
    damaged : dict, optional
        As of `read_each`.

    Raises
    ------
    RootError
        If one cannot be read, and `damaged` is None.
    """
    return list(read_each(layout.root, _files(layout.verifications(environment, digest)), _read, damaged))


def last_verification(
    layout: RootLayout, build: BuildRecord, damaged: dict[str, RootstockError] | None = None
) -> Verification | None:
    """Return the newest run on a build; without any, what was checked when it was built; None if that is damaged.

    Parameters
    ----------
    layout : RootLayout
    build : BuildRecord
    damaged : dict, optional
        As of `read_each`.

    Raises
    ------
    RootError
        If it cannot be read, and `damaged` is None.
    """
    found: dict[str, RootstockError] = {}
    runs = reversed(_files(layout.verifications(build.name, build.digest)))
    last = next(read_each(layout.root, runs, _read, found), None)
    if last is None and not found:
        record = layout.build(build.name, build.digest) / BUILD_RECORD
        last = next(read_each(layout.root, [record], functools.partial(_at_the_build, build), found), None)
    if found and damaged is None:
        raise next(iter(found.values()))
    if damaged is not None:
        damaged.update(found)
    return None if found else last


def _at_the_build(build: BuildRecord, path: Path) -> Verification:
    device = next((check["device"] for check in build.verification if {"device", "property"} <= check.keys()), "")
    seen = Verification(
        build.name, build.digest, device, tuple(build.verification), started=build.built_at, ended=build.built_at,
        by=build.built_by, on=build.built_on, rootstock=build.rootstock, versions=build.packages,
    )  # fmt: skip
    return _require_checks(seen, path, how_to_replace(path.parent))


@dataclass(frozen=True, kw_only=True)
class _Check:
    """The keys of a check that those need who show it."""

    reference: str
    model: str = ""
    device: str = ""
    source: str = ""
    reason: str = ""
    passed: bool | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Comparison(_Check):
    property: str
    error: float
    tolerance: float
    unit: str = ""


def _require_checks(verification: Verification, path: Path, hint: str) -> Verification:
    try:
        for number, check in enumerate(verification.checks):
            parse_record(_Comparison if "property" in check else _Check, check, f"checks[{number}]")
    except ValueError as error:
        raise RootError(f"Cannot read {path}: {error}.", hint) from error
    return verification


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _read(path: Path) -> Verification | None:
    # A verification that ends meanwhile removes the oldest.
    hint = f"An admin may remove it: rm {shlex.quote(str(path))}"
    run = read_record(Verification, path, hint)
    return run and _require_checks(run, path, hint)


class Run:
    """Keeps a verification as it comes; it goes on where nothing can be stored, or nothing any more.

    Parameters
    ----------
    folder : Path or None
        Where the runs of the build are kept; None: nowhere.
    verification : Verification
        Without checks.
    mode : int
        Of the file.
    report : callable
        Is told why nothing is stored.
    """

    def __init__(self, folder: Path | None, verification: Verification, mode: int, report: Report = quiet) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._path = folder / f"{stamp}-{verification.on}-{os.getpid()}.json" if folder else None
        self._mode, self._report = mode, report
        self.verification = verification
        self._write()
        with contextlib.suppress(OSError):  # another admin's may stay
            for old in _files(folder)[:-_KEPT] if folder and self._path else ():
                old.unlink(missing_ok=True)

    def add(self, check: dict[str, Any], versions: Mapping[str, str]) -> None:
        """Keep one more check, and the versions of what computed it.

        Parameters
        ----------
        check : dict
            See `rootstock.admin.verify.check_model`.
        versions : mapping of str to str
            Distribution -> version.
        """
        before = self.verification
        self.verification = replace(
            before,
            checks=(*before.checks, check),
            versions={**before.versions, **versions},
            device=check["device"] if "property" in check else before.device,  # what has computed
        )
        self._write()

    def end(self) -> None:
        """Say that the run came to its end."""
        self.verification = replace(self.verification, ended=now())
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            write_file(self._path, self.verification.to_json().encode(), self._mode)
        except OSError as error:  # no room, a root that is mounted read-only, or somebody who is no admin of it
            self._report(f"the results are not stored: {error.strerror} ({self._path.parent})")
            self._path = None
