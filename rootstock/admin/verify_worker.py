"""The workers that verify builds."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rootstock.admin.verify_checks import Check, head
from rootstock.client.connection import WorkerConnection
from rootstock.client.launch import ResolvedModel
from rootstock.config.demands import listed_properties
from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.references import Reference
from rootstock.errors import MissingWeightsError
from rootstock.root.lock import Report

_START_S = 1800.0


@contextlib.contextmanager
def verifying_worker(
    build: ResolvedModel, device: str, references: Sequence[Reference], report: Report
) -> Iterator[WorkerConnection]:
    """Start a worker as any user does, with nothing of the admin's own home, and end it after the block.

    Parameters
    ----------
    build : ResolvedModel
    device : str
    references : sequence of Reference
        Of the same model and options.
    report : callable
        Is given a line for each step.

    Raises
    ------
    MissingWeightsError
        If weights are not in the root. It names the references that do not say that they need any.
    """
    first = references[0]
    with tempfile.TemporaryDirectory(prefix="rootstock-home-") as home:
        try:
            client = WorkerConnection(
                build.launch_offline(Path(home)), first.model, device, first.options, start_timeout=_START_S,
                on_progress=report, listed=listed_properties(build.source, first.model),
                capabilities=build.source.capabilities(first.model),
            )  # fmt: skip
        except MissingWeightsError as error:
            _name_unmarked(error, build.source, references)
            raise
        try:
            yield client
        finally:
            client.close()


def not_run(references: Sequence[Reference], device: str, reason: str, report: Report) -> list[Check]:
    """Say of references that they were not compared, for lack of weights.

    Parameters
    ----------
    references : sequence of Reference
    device, reason : str
    report : callable
        Is given a line.
    """
    report(f"not verified, for lack of weights: {', '.join(reference.name for reference in references)}")
    return [{**head(reference, device), "reason": reason, "passed": None} for reference in references]


def nothing_fetched(build: ResolvedModel) -> bool:
    """Tell whether the folders that weights of an environment are fetched into hold no file.

    Parameters
    ----------
    build : ResolvedModel
    """
    folders = [build.layout.cache / folder for folder in build.source.cache_folders]
    return bool(folders) and not any(files for folder in folders for _, _, files in os.walk(folder))


def _name_unmarked(error: MissingWeightsError, source: EnvironmentSource, references: Sequence[Reference]) -> None:
    """Say that a reference without ``needs_weights`` needs some."""
    unmarked = [reference for reference in references if not reference.needs_weights]
    if not unmarked:
        return
    numbers = {reference.name: number for number, reference in enumerate(source.references(), start=1)}
    names = ", ".join(f"{each.name!r} (number {numbers.get(each.name, '?')})" for each in unmarked)
    words = ("references", "each of them") if len(unmarked) > 1 else ("reference", "it")
    error.message += f"\nIn {source.path}, needs_weights is not set for {words[0]} {names}."
    error.hint = (
        f"If these weights are downloaded and not part of a package, add to {words[1]}: needs_weights = true\n"
        "Nothing else is wrong then: the build is put to use, and 'rootstock-site verify' checks the values when the "
        f"weights are there.\n{error.hint}"
    )
