"""Check the numbers of builds: workers compute reference structures, and what must hold for any potential.

Each check is kept as it comes, with value, expected value, tolerance and source.
"""

from __future__ import annotations

import functools
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from rootstock.admin import verify_physics as physics
from rootstock.admin.bundled_weights import Bundled
from rootstock.admin.verify_batch import BATCH, HINT, SINGLE_CALLS, compare_batch, computed_together
from rootstock.admin.verify_checks import Check, compare, describe, head
from rootstock.admin.verify_worker import not_run, nothing_fetched, verifying_worker
from rootstock.client.connection import WorkerConnection
from rootstock.client.inputs import Inputs
from rootstock.client.launch import ResolvedModel
from rootstock.client.resolve import require_environment, resolve_environment
from rootstock.config.demands import example_info
from rootstock.config.environment_file import EnvironmentSource, registered_names
from rootstock.config.reference_structure import reference_atoms
from rootstock.config.references import Reference, unpublished
from rootstock.config.requirements import normalized
from rootstock.config.site import Site
from rootstock.errors import MissingWeightsError, RootError, RootstockError, VerificationError
from rootstock.root.in_use import was_built
from rootstock.root.lock import Report
from rootstock.root.ownership import check_build, check_caller
from rootstock.root.verification_records import Run, Verification
from rootstock.worker.channel.memory import PROPERTY_BITS
from rootstock.worker.device import require_device

_CALL_S = 1800.0


def verify(
    site: Site, source: EnvironmentSource, folder: Path, device: str, bundled: Bundled, *, report: Report
) -> list[Check]:
    """Run the references of an environment file on a worker of a build that is not published yet.

    Parameters
    ----------
    site : Site
    source : EnvironmentSource
    folder : Path
        Where the build is.
    device : str
    bundled : Bundled
        Takes the weights that are in the build's packages.
    report : callable
        Is given a line for each structure.

    Returns
    -------
    list of dict
        See `check_model`. Without references nothing is checked, and the list is empty.

    Raises
    ------
    VerificationError
        If a value misses its reference.
    """
    build = ResolvedModel(site.layout, source, build=folder, registered=True)
    checks: list[Check] = []
    lacks = ""  # why nothing could be computed of a model, and so of no other whose weights are fetched
    for references in _groups(source.references()):
        if lacks and all(reference.needs_weights for reference in references):
            checks += not_run(references, device, lacks, report)
            continue
        found = [check for check, _ in check_model(build, device, references, bundled, report=report)]
        checks += found
        if found and found[0]["passed"] is None and nothing_fetched(build):
            lacks = f"Nothing that this environment fetches is in this root. Of the first: {found[0]['reason']}"
    if missed := [check for check in checks if check["passed"] is False]:
        differ = " computes other numbers than its references say"
        hint = "Look at the versions that were installed; pin those that the references hold for."
        if all(check["source"] == SINGLE_CALLS for check in missed):
            differ, hint = ": calculate_batch gives other numbers than single calls", HINT
        raise VerificationError(
            f"Environment {source.name!r}{differ}:\n" + "\n".join(f"  {describe(check)}" for check in missed),
            hint,
        )
    return checks


def builds_to_verify(
    site: Site, names: Sequence[str], device: str
) -> tuple[dict[str, ResolvedModel], dict[str, RootstockError]]:
    """Return the builds in use of environments, and what kept some from being found; both by the environment's name.

    Parameters
    ----------
    site : Site
    names : sequence of str
        Environments; without any, all of the root that were ever built.
    device : str

    Raises
    ------
    DeviceError
        If there is no such GPU here.
    RootError
        If root would run what somebody else has made.
    UnknownEnvironmentError
        If there is no environment of such a name.
    """
    layout = site.layout
    if os.geteuid() == 0:  # for whom no mode is an obstacle
        check_caller(layout, "verify")
    require_device(device)
    for name in names:
        require_environment(layout, name)
    builds, problems = dict[str, ResolvedModel](), dict[str, RootstockError]()
    for name in names or registered_names(layout):
        try:
            model = resolve_environment(layout, name, device=device, mode="build")
            assert model.build is not None
            check_build(layout, model.build)
            builds[name] = model
        except RootstockError as error:
            if names or was_built(layout, name) or not isinstance(error, RootError):
                problems[name] = error
    return builds, problems


def verify_builds(
    site: Site, builds: Iterable[ResolvedModel], models: Sequence[str], device: str, *, report: Report
) -> Iterator[Verification]:
    """Verify builds in use, and keep the results in the root, each check as it comes.

    Parameters
    ----------
    site : Site
    builds : iterable of ResolvedModel
        What `builds_to_verify` found.
    models : sequence of str
        Arguments of ``setup()``; empty for those that have references. One without any is checked on the environment's
        other structures for what must hold for any potential.
    device : str
    report : callable
        Is given a line for each step, and for what cannot be stored.

    Yields
    ------
    Verification
        For each environment; a worker that does not start is a check that did not pass.
    """
    for model in builds:
        assert model.build is not None
        name = model.source.name
        run = _start_run(site, Verification(name, model.build.name, device), report)
        step = functools.partial(_step, report, name)
        for references in _groups(_select(model.source, models)):
            try:
                for check, versions in check_model(model, device, references, report=step):
                    run.add(check, versions)
            except RootstockError as error:
                run.add({**head(references[0], device), "passed": False, "reason": str(error)}, {})
        run.end()
        yield run.verification


def _step(report: Report, name: str, text: str) -> None:
    report(f"{name}: {text}")


def _start_run(site: Site, verification: Verification, report: Report) -> Run:
    access, folder = site.access, site.layout.verifications(verification.environment, verification.build)
    try:
        access.make_folder(folder)
    except OSError as error:
        report(f"the results are not stored: {error.strerror} ({error.filename})")
        return Run(None, verification, access.file)
    return Run(folder, verification, access.file, report)


def _select(source: EnvironmentSource, models: Sequence[str]) -> list[Reference]:
    """Return the references of models; of one without any, the last structure, of which nothing is published."""
    references = source.references()
    if not models:
        return references
    selected = []
    for model in map(source.named, models):
        source.check_model(model)
        selected += [reference for reference in references if source.named(reference.model) == model] or [
            unpublished(last, model, example_info(source.capabilities(model).needs)) for last in references[-1:]
        ]
    return selected


def _groups(references: Sequence[Reference]) -> Iterable[list[Reference]]:
    """Return references of the same model and options together."""
    groups: dict[str, list[Reference]] = defaultdict(list)
    for reference in references:
        groups[repr((reference.model, sorted(reference.options.items())))].append(reference)
    return groups.values()


def check_model(
    build: ResolvedModel,
    device: str,
    references: Sequence[Reference],
    bundled: Bundled | None = None,
    *,
    report: Report,
) -> Iterator[tuple[Check, Mapping[str, str]]]:
    """Start a worker of one model and check references with it.

    Parameters
    ----------
    build, device, report
        See `verify`.
    references : sequence of Reference
        Of the same model and options.
    bundled : Bundled, optional
        Takes the weights that are in the build's packages.

    Yields
    ------
    tuple of (dict, Mapping[str, str])
        A check: model, device, reference, property, source, value, expected, error, tolerance, unit, passed, seconds.
        A reference whose model has no weights here has a reason instead of values, and ``passed`` is None. And the
        versions of the distributions in the worker.
    """
    source = build.source
    report(f"starting a worker ({device})")
    try:
        with verifying_worker(build, device, references, report) as client:
            versions: Mapping[str, str] = client.ready["versions"]
            _check_properties(client, source, references[0].model)
            for reference in references:
                report(f"verifying {reference.name}")
                begun = time.perf_counter()
                for check in _check(client, reference, source):
                    now = time.perf_counter()
                    yield {**head(reference, client.device), **check, "seconds": round(now - begun, 3)}, versions
                    begun = time.perf_counter()
            if bundled is not None:
                bundled.add(source, build.layout, references, client.ready["opened"])
    except MissingWeightsError as error:
        # It got as far as looking for the weights, so the environment works; there are no numbers to check.
        if not all(reference.needs_weights for reference in references):
            raise
        yield from ((check, {}) for check in not_run(references, device, error.message, report))


def _check_properties(client: WorkerConnection, source: EnvironmentSource, model: str) -> None:
    """Compare what the environment file says of a model with what the worker says."""
    promised = source.capabilities(model).properties
    if missing := [name for name in promised if name not in client.properties]:
        raise VerificationError(
            f"{source.path.name} says that model {model or '(default)'!r} computes {', '.join(missing)}; "
            f"the worker computes {', '.join(client.properties)}.",
            f"Correct 'properties' in the header of {source.path}.",
        )


def _check(client: WorkerConnection, reference: Reference, source: EnvironmentSource) -> Iterator[Check]:
    _check_versions(client.ready["versions"], reference, source)
    atoms, compute = reference_atoms(reference, source), functools.partial(_compute, client)
    if reference.expected:
        results = compute(atoms, tuple(reference.expected))
        for name, expected in reference.expected.items():
            yield compare(name, reference.source, results[name], expected, reference.tolerance[name])
    differences = {**physics.FINITE_DIFFERENCES, **source.rootstock.get("finite-differences", {})}
    consistency = {"rotation": True, **physics.CONSISTENCY, **source.rootstock.get("consistency", {})}
    if source.capabilities(reference.model).conservative:
        yield from physics.derivatives(compute, atoms, client.properties, differences)
    yield from physics.symmetries(compute, atoms, client.properties, consistency, rotation=consistency["rotation"])
    if client.ready.get("batch"):
        together = functools.partial(computed_together, client, _CALL_S)
        tolerances = {**BATCH, **source.rootstock.get("batch", {})}
        yield from compare_batch(compute, together, atoms, client.properties, tolerances)


def _check_versions(versions: Mapping[str, str], reference: Reference, source: EnvironmentSource) -> None:
    installed = {normalized(name): version for name, version in versions.items()}
    for package, specifier in reference.versions.items():
        version = installed.get(normalized(package), "")
        if not version or not specifier.contains(version, prereleases=True):
            raise VerificationError(
                f"Reference {reference.name!r} of {source.name!r} holds for {package} {specifier}; "
                f"installed is {version or 'none'}.",
                f"Pin {package} in {source.path.name}, or give the values of the new version with their source.",
            )


def _compute(client: WorkerConnection, atoms: Atoms, properties: tuple[str, ...]) -> dict[str, Any]:
    inputs = Inputs()
    inputs.update(atoms)
    return client.evaluate(inputs, sum(PROPERTY_BITS[name] for name in properties), _CALL_S)
