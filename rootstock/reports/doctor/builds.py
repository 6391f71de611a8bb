"""Checks of the environments: intact, fit for this machine, with an interpreter that runs, and their weights."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from rootstock.client.exit_status import cannot_start
from rootstock.client.resolve import resolve_environment
from rootstock.config.model_string import is_path, model_string
from rootstock.errors import BuildError, RootError, WeightsError
from rootstock.reports.catalogue import in_use
from rootstock.reports.doctor.finding import DoctorContext, Finding, check, failed, from_error, ok, skipped, warning
from rootstock.root.checksums import Problem
from rootstock.root.disk_usage import number_of
from rootstock.root.published import SealedTree, sealed_trees
from rootstock.root.records import BuildRecord, active_build, read_build
from rootstock.root.variants import fitting_build
from rootstock.root.weights import Weights, how_to_fetch, own_weights, read_weights

_SAMPLE = 200  # files of each build
_SHOWN = 3


def built(context: DoctorContext) -> dict[str, tuple[Path, BuildRecord]]:
    """Return the folder and the record of the build that each environment would use here."""
    found = {}
    for name in context.environments:
        with contextlib.suppress(RootError):  # `builds` tells of it
            build = fitting_build(context.layout, name, context.device)
            record = read_build(build) if build else None
            if build and record:
                found[name] = (build, record)
    return found


@check
def builds(context: DoctorContext) -> Iterator[Finding]:
    """Check that each environment has a build for this machine and the device."""
    for name in context.environments:
        try:
            resolve_environment(context.layout, name, "", context.device, "build")
        except RootError as error:
            finding = from_error(error)
            # That nobody has built an environment yet is no fault of the root; to whoever asks for it, it is.
            known = context.argument is not None or active_build(context.layout.active(name)) is not None
            yield finding if known else warning(finding.reason, finding.remedy)
    if found := built(context):
        kinds = sorted({f"{record.platform} {record.accelerator}" for _, record in found.values()})
        yield ok(f"{', '.join(found)}: built for {', '.join(kinds)}")
    elif not context.environments:
        yield warning("this root has no environment", f"rootstock-site install --root {context.layout.root} --env NAME")


@check
def intact(context: DoctorContext) -> Iterator[Finding]:
    """Check that the files of the builds, and of their interpreters in the root, are those that were published."""
    checked: dict[SealedTree, list[Problem]] = {}
    unread = False
    for group in (*((name,) for name in context.environments), ()):
        try:
            for each in sealed_trees(context.layout, group, clients=not group and context.argument is None):
                if each not in checked:  # an interpreter that another one is made on, too
                    checked[each] = each.problems(None if context.full else _SAMPLE)
        except RootError as error:
            unread = True
            yield from_error(error)
    if not checked:
        if not unread:
            yield skipped("nothing is built")
        return
    for each, problems in checked.items():
        if problems:
            shown = "; ".join(str(problem) for problem in problems[:_SHOWN])
            more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            # As long as the damaged folder is there, an installation finds nothing to do.
            names = [each.name] if each.kind == "environment" else context.environments[:1]
            remedy = " ".join([f"rootstock-site install --root {context.layout.root}", *(f"--env {n}" for n in names)])
            yield failed(f"{each} is damaged: {shown}{more} (in {each.folder})",
                         f"An admin removes that folder, then: {remedy}", BuildError.exit_code)  # fmt: skip
    if not any(checked.values()):
        looked = "every file" if context.full else f"{_SAMPLE} files of each; --full looks at all"
        yield ok(f"{', '.join(dict.fromkeys(map(str, checked)))}: as published ({looked})")


@check
def interpreters(context: DoctorContext) -> Iterator[Finding]:
    """Check that this user can run the Python of each build."""
    found = built(context)
    running, failures = {}, False
    for name, (build, record) in found.items():
        command = [str(build / "bin" / "python"), "-I", "-B", "-c", "import numpy"]
        try:
            running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            failures = True
            finding = from_error(cannot_start(command[0], error))
            real = os.path.realpath(command[0])
            yield failed(f"{name}: {finding.reason} It leads to {real}, Python {record.python}.", finding.remedy, 18)
    for name, process in running.items():
        stderr = process.communicate()[1].strip()
        if process.returncode and "No module named 'numpy'" not in stderr:
            failures = True
            last = stderr.splitlines()[-1] if stderr else f"exit code {process.returncode}"
            yield failed(f"{name}: its Python does not run: {last}", "Ask the site's admin to build it again.", 18)
    if not found:
        yield skipped("nothing is built")
    elif not failures:
        yield ok(
            f"{', '.join(found)}: Python {', '.join(sorted({record.python for _, record in found.values()}))} runs"
        )


@check
def weights(context: DoctorContext) -> Iterator[Finding]:
    """Check that the weights are there that were recorded."""
    begun = time.monotonic()
    if context.argument is not None:
        yield _of_model(context, context.environments[0], context.argument)
        return
    recorded = [each for name in context.environments for each in read_weights(context.layout, name).values()]
    missing = [each for each in recorded if not each.present(context.layout)]
    for each in missing:
        yield _missing(context, each)
    if not recorded:
        yield skipped("no weights are recorded; rootstock-site warm fetches and records them")
    elif not missing:
        size = sum(each.bytes for each in recorded) / 1e6
        yield ok(f"those of {number_of(len(recorded), 'model')}, {size:.0f} MB ({time.monotonic() - begun:.1f} s)")


def _of_model(context: DoctorContext, name: str, argument: str) -> Finding:
    if is_path(argument):
        files = own_weights(argument)
        return ok(f"{number_of(len(files), 'file')} at {argument}") if files else failed(
            f"there is no file {argument}", "Give the path of a checkpoint that this node can read.", 4
        )  # fmt: skip
    source = in_use(context.layout, name)[0]
    found = read_weights(context.layout, name).get(source.named(argument))
    if source.rootstock.get("licence", {}).get("weights") == "":
        return ok(f"{name} needs none")
    if found is None:
        return skipped("nobody has recorded what this model reads: the worker will tell")
    if not found.files:
        return ok("they come with the packages, or it has none")
    if not found.present(context.layout):
        return _missing(context, found)
    return ok(f"{number_of(len(found.files), 'file')}, {found.bytes / 1e6:.0f} MB")


def _missing(context: DoctorContext, found: Weights) -> Finding:
    gone = next((file.path for file in found.files if not (context.layout.root / file.path).is_file()), "a file")
    return failed(
        f"the weights of {model_string(found.environment, found.model)} are not there, or not whole: {gone}",
        how_to_fetch(context.layout.root, found.environment, found.model),
        WeightsError.exit_code,
    )
