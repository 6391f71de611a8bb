"""Checks of the environments: intact, fit for this machine, with an interpreter that runs, and their weights."""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from rootstock.client.exit_status import cannot_start
from rootstock.client.resolve import resolve_environment
from rootstock.config.environment_file import read_source
from rootstock.config.model_string import is_path, model_string
from rootstock.config.packaged_weights import weights_in_package
from rootstock.errors import RootError, RootstockError, WeightsError
from rootstock.reports.catalogue import in_use, of_each
from rootstock.reports.doctor.finding import (
    DoctorContext,
    Finding,
    check,
    failed,
    from_error,
    of_one,
    ok,
    skipped,
    warning,
)
from rootstock.root.checksums import Problem
from rootstock.root.disk_usage import number_of
from rootstock.root.in_use import was_built
from rootstock.root.mounts import refuse_noexec
from rootstock.root.published import SealedTree, sealed_trees
from rootstock.root.records import BuildRecord, read_build
from rootstock.root.variants import fitting_build
from rootstock.root.weights import Weights, how_to_fetch, own_weights, read_weights, weights_of

_SAMPLE = 200  # files of each build
_SHOWN = 3


def fitting_builds(context: DoctorContext) -> dict[str, tuple[Path, BuildRecord]]:
    """Return the folder and the record of the build that each environment would use here."""

    def read(name: str) -> list[tuple[str, tuple[Path, BuildRecord]]]:
        build = fitting_build(context.layout, name, context.device)
        record = read_build(build) if build else None
        return [(name, (build, record))] if build and record else []

    return dict(of_each(context.environments, read)[0])  # `builds` tells of errors


@check
def builds(context: DoctorContext) -> Iterator[Finding]:
    """Check that each environment has a build for this machine and the device."""
    fitting = fitting_builds(context)
    for name in context.environments:
        try:
            resolve_environment(context.layout, name, "", context.device, "build")
        except RootstockError as error:
            told = from_error(error)
            # That nobody has built it yet is no fault of the root; to whoever asks for it, it is.
            unbuilt = isinstance(error, RootError) and not was_built(context.layout, name)
            new = context.argument is None and unbuilt
            yield warning(told.reason, told.remedy) if new else of_one(context, told, others=bool(fitting))
        else:
            yield from _of_file(context, name)
    if fitting:
        kinds = sorted({f"{record.platform} {record.computes_on}" for _, record in fitting.values()})
        yield ok(f"{', '.join(fitting)}: built for {', '.join(kinds)}")
    elif not context.environments:
        yield warning("this root has no environment", f"rootstock-site install --root {context.layout.root} --env NAME")


def _of_file(context: DoctorContext, name: str) -> Iterator[Finding]:
    """Say that a file cannot be read any more from which an environment was built: its build has a copy."""
    path = context.layout.environment_file(name)
    try:
        read_source(path)
    except RootstockError as error:
        told = from_error(error)
        yield warning(
            f"{told.reason} The build of {name} that is in use does not need it; the next one does.", told.remedy
            or f"An admin corrects it: rootstock-site check-env {path}",
        )  # fmt: skip


@check
def intact(context: DoctorContext) -> Iterator[Finding]:
    """Check that the files of the builds, and of their interpreters in the root, are those that were published."""

    @functools.cache  # several builds are made on one interpreter
    def problems_of(tree: SealedTree) -> list[Problem]:
        return tree.problems(None if context.full else _SAMPLE)

    def compare(name: str) -> Iterator[tuple[SealedTree, list[Problem]]]:
        names = [name] if name else []
        for tree in sealed_trees(context.layout, names, clients=not names and context.argument is None):
            yield tree, problems_of(tree)

    # `builds` tells of those that cannot be read. Without a name: what belongs to none.
    compared, errors = of_each([*fitting_builds(context), ""], compare)
    yield from map(from_error, errors.values())
    checked = dict(compared)
    yield from (_damage(context, tree, problems) for tree, problems in checked.items() if problems)
    if not checked and not errors:
        yield skipped("nothing is built")
    elif whole := [str(tree) for tree, problems in checked.items() if not problems]:
        extent = "every file" if context.full else f"{_SAMPLE} files of each; --full looks at all"
        yield ok(f"{', '.join(dict.fromkeys(whole))}: as published ({extent})")


def _damage(context: DoctorContext, tree: SealedTree, problems: list[Problem]) -> Finding:
    shown = "; ".join(str(problem) for problem in problems[:_SHOWN])
    more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    which = f" --env {tree.name}" if tree.kind == "environment" else ""
    return failed(f"{tree} is damaged: {shown}{more} (in {tree.folder})",
                  f"An admin runs: rootstock-site repair --root {context.layout.root}{which}",
                  RootError.exit_code)  # fmt: skip


@check
def interpreters(context: DoctorContext) -> Iterator[Finding]:
    """Check that this user can run the Python of each build."""
    fitting = fitting_builds(context)
    running, failures = {}, dict[str, Finding]()
    try:
        for build, _ in fitting.values():
            refuse_noexec(build)
    except RootError as error:  # of one mount, so of all of them
        yield from_error(error)
        return
    for name, (build, record) in fitting.items():
        command = [str(build / "bin" / "python"), "-I", "-B", "-c", "import numpy"]
        try:
            running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            finding = from_error(cannot_start(command[0], error))
            reason = f"{finding.reason} It leads to {os.path.realpath(command[0])}, Python {record.python}."
            failures[name] = failed(f"{name}: {reason}", finding.remedy, 18)
    for name, process in running.items():
        stderr = process.communicate()[1].strip()
        if process.returncode and "No module named 'numpy'" not in stderr:
            last = stderr.splitlines()[-1] if stderr else f"exit code {process.returncode}"
            remedy = "Ask the site's admin to build it again."
            failures[name] = failed(f"{name}: its Python does not run: {last}", remedy, 18)
    well = [name for name in fitting if name not in failures]
    yield from (of_one(context, finding, others=bool(well)) for finding in failures.values())
    if not fitting:
        yield skipped("nothing is built")
    elif well:
        versions = sorted({fitting[name][1].python for name in well})
        yield ok(f"{', '.join(well)}: Python {', '.join(versions)} runs")


@check
def weights(context: DoctorContext) -> Iterator[Finding]:
    """Check that the weights are there that were recorded."""
    begun = time.monotonic()
    if context.argument is not None:
        yield from _of_model(context, context.environments[0], context.argument)
        return

    damaged: dict[str, RootstockError] = {}
    known = [each for name in context.environments for each in read_weights(context.layout, name, damaged).values()]
    records = [(record, record.present(context.layout)) for record in known]
    yield from (of_one(context, from_error(error), others=True) for error in damaged.values())  # no worker needs them
    yield from (_missing(context, record) for record, present in records if not present)
    if not records and not damaged:
        yield skipped("no weights are recorded; rootstock-site warm fetches and records them")
    elif records and all(present for _, present in records):
        size = sum(record.bytes for record, _ in records) / 1e6
        yield ok(f"those of {number_of(len(records), 'model')}, {size:.0f} MB ({time.monotonic() - begun:.1f} s)")


def _of_model(context: DoctorContext, name: str, argument: str) -> Iterator[Finding]:
    if is_path(argument):
        files = own_weights(argument)
        yield ok(f"{number_of(len(files), 'file')} at {argument}") if files else failed(
            f"there is no file {argument}", "Give the path of a checkpoint that this node can read.", 4
        )  # fmt: skip
        return
    source, build = in_use(context.layout, name)
    if weights_in_package(source, argument, build):
        yield ok("they are in an installed package")
        return
    try:
        record = weights_of(context.layout, name, source.named(argument))
    except RootError as error:
        told = from_error(error)
        yield warning(f"{told.reason} The worker will tell whether the weights are there.", told.remedy)
        return
    if source.is_toy:
        yield ok(f"{name} needs none")
    elif record is None:
        yield skipped("nobody has recorded what this model reads: the worker will tell")
    elif not record.files:
        yield ok("they come with the packages, or it has none")
    elif not record.present(context.layout):
        yield _missing(context, record)
    else:
        yield ok(f"{number_of(len(record.files), 'file')}, {record.bytes / 1e6:.0f} MB")


def _missing(context: DoctorContext, record: Weights) -> Finding:
    gone = next((file.path for file in record.files if not (context.layout.root / file.path).is_file()), "a file")
    return failed(
        f"the weights of {model_string(record.environment, record.model)} are not there, or not whole: {gone}",
        how_to_fetch(context.layout.root, record.environment, record.model),
        WeightsError.exit_code,
    )
