"""Which environments and weights a root lacks for some models, and having them built and fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rootstock.admin.asked_for import reason
from rootstock.admin.environment_sources import find_source
from rootstock.admin.install import InstallPlan
from rootstock.admin.install_plan import plan_install
from rootstock.admin.plans import Plan
from rootstock.admin.weights_download import WeightsRequest, fetch
from rootstock.config.environment_file import EnvironmentSource, read_source, registered_names
from rootstock.config.model_names import named_model
from rootstock.config.model_string import is_path, model_string
from rootstock.config.packaged_weights import weights_in_package
from rootstock.config.site import Site
from rootstock.errors import (
    BuildError,
    ConfigurationError,
    RootError,
    RootstockError,
    VerificationError,
    WeightsError,
    WorkerError,
)
from rootstock.root.generations import Change, latest_number, transaction
from rootstock.root.in_use import build_in_use
from rootstock.root.layout import STAGING, RootLayout
from rootstock.root.lock import AdminContext, Report, quiet
from rootstock.root.permissions import may_remove, remove_tree
from rootstock.root.records import BUILD_SOURCE, read_build
from rootstock.root.variants import find_variants, fitting_build
from rootstock.root.weights import weights_of


@dataclass(frozen=True)
class WarmPlan(Plan):
    """The environments and weights that a root lacks for some models.

    Attributes
    ----------
    install : InstallPlan or None
        How the environments are built that have no build yet.
    models : tuple of WeightsRequest
    problems : Mapping[str, RootstockError]
        Environments of the root that are left out, because of their file or their build, and why.
    packaged : tuple of str
        Models whose weights are inside a package, so that there is nothing to fetch.
    """

    install: InstallPlan | None
    models: tuple[WeightsRequest, ...]
    problems: Mapping[str, RootstockError]
    packaged: tuple[str, ...] = ()

    def summary_lines(self) -> list[str]:
        """Describe the plan, a line for each change."""
        return [*(self.install.summary_lines() if self.install else []), *map(WeightsRequest.describe, self.models)]

    def details(self) -> dict[str, Any]:
        """Return the installation, and the models whose weights are fetched or recorded."""
        install = self.install.to_json() if self.install else None
        problems = {name: str(error) for name, error in self.problems.items()}
        models = [model.to_json() for model in self.models]
        return {"install": install, "models": models, "problems": problems, "packaged": list(self.packaged)}

    def apply(self, admin: AdminContext) -> None:
        """Build and fetch all that; a model that fails keeps none of the others from being fetched.

        Raises
        ------
        WeightsError
            If weights of a model could not be fetched.
        BuildError, VerificationError
            If an environment cannot be built.
        """
        site, layout = self.site, self.site.layout
        failures = []
        if self.install:
            try:
                self.install.apply(admin)
            except (BuildError, VerificationError) as error:
                failures.append(str(error))
        change = Change(self.command, site.cluster.name, latest_number(layout), always=False)
        with transaction(layout, site.access, change, admin):
            for leftover in filter(may_remove, layout.cache.glob(f"{STAGING}*")):
                remove_tree(leftover)
            for model in self.models:
                try:
                    fetch(site, model, admin)
                except (RootError, WorkerError, WeightsError) as error:
                    failures.append(f"{model}: {error}")
                    admin.report(f"{model}: failed: {reason(error)}")
        if failures:
            raise WeightsError("Weights could not be fetched.\n" + "\n".join(failures), "The others are there.")


def plan_warm(
    site: Site,
    environments: Sequence[str] = (),
    models: Sequence[str] = (),
    *,
    all_models: bool = False,
    device: str = "cpu",
    patience: float = 120.0,
    report: Report = quiet,
) -> WarmPlan:
    """Decide what has to be built and fetched for some models.

    Parameters
    ----------
    site : Site
    environments : sequence of str
        By default those of `models`, or of the cluster's ``models``, or every environment of the root.
    models : sequence of str
        With one environment, arguments of its ``setup()``; else model strings such as ``mace-small``. By default those
        that the environment file lists as ``warm``.
    all_models : bool
        Every released model that the environment files name.
    device : str
        Where the models are loaded.
    patience : float
        Seconds that a server may keep silent.
    report : callable
        Is given a line for each step.

    Raises
    ------
    ConfigurationError
        If an environment has no such model.
    UnknownEnvironmentError
        If there is no such environment.
    """
    selected, problems = _select(site, environments, models, all_models)
    sources = {(source.name, model): source for source, model in selected}
    names = dict.fromkeys(environment for environment, _ in sources)
    missing = []
    for name in names:
        try:
            missing += [name] if fitting_build(site.layout, name, device) is None else []
        except RootError as error:
            if environments or models:
                raise
            problems[name] = error
    build, unbuilt = _plan_builds(site, missing, device, named=bool(environments or models), report=report)
    problems |= unbuilt
    in_use = {name: build_in_use(site.layout, name) for name in names if name not in problems}
    records = {name: read_build(folder) if folder else None for name, folder in in_use.items()}
    requests, packaged = [], []
    for (environment, model), source in sources.items():
        if environment in problems:
            continue
        if weights_in_package(source, model, records[environment]):
            packaged.append(model_string(environment, model))
        elif why := _reason(site.layout, environment, model):
            gated = source.capabilities(model).gated
            requests.append(WeightsRequest(environment, model, why, not source.is_toy, device, patience, gated))
    return WarmPlan(site, "warm", build, tuple(requests), problems, tuple(packaged))


def _plan_builds(
    site: Site, missing: Sequence[str], device: str, *, named: bool, report: Report
) -> tuple[InstallPlan | None, dict[str, RootstockError]]:
    """Return how environments are built that have no build, and those that cannot be and that nobody named."""
    if not missing:
        return None, {}
    try:
        plan = plan_install(site, missing, device=device, client=False, report=report)
    except (BuildError, RootError) as error:
        if named:
            raise
        return None, dict.fromkeys(missing, error)
    if named:
        return plan, {}
    return replace(plan, problems=()), {problem.name: problem.error for problem in plan.problems}


def _select(
    site: Site, environments: Sequence[str], models: Sequence[str], all_models: bool
) -> tuple[list[tuple[EnvironmentSource, str]], dict[str, RootstockError]]:
    """Return environment files, each with a model, the default by its name; and those that cannot be read."""
    registered = registered_names(site.layout)
    if len(environments) == 1 and models:
        pairs = [(environments[0], model) for model in models]
    else:
        strings = models or (() if environments or all_models else site.cluster.models)
        pairs = [named_model(site.layout, text, partial(_source, site.layout)) for text in strings]
    if strange := [name for name, _ in pairs if environments and name not in environments]:
        raise ConfigurationError(
            f"{strange[0]!r} is none of the environments {', '.join(environments)}.",
            "With several environments, name models as users do: --model mace-small",
        )
    selected, problems = [], dict[str, RootstockError]()
    for name, model in pairs:
        source = _source(site.layout, name)
        if is_path(model):
            raise ConfigurationError(f"{model} is a checkpoint of your own: there is nothing to fetch.")
        source.check_model(model)
        selected.append((source, source.named(model)))
    for name in () if pairs else environments or registered:
        try:
            source = _source(site.layout, name)
        except RootstockError as error:
            if environments:
                raise
            problems[name] = error
            continue
        selected += [(source, model) for model in (source.released if all_models else source.warm)]
    return selected, problems


def _source(layout: RootLayout, name: str) -> EnvironmentSource:
    """Return the environment file that the active build was made from, or that a build would be made from."""
    build = build_in_use(layout, name)
    return read_source(build / BUILD_SOURCE, name) if build else find_source(layout, name)


def _reason(layout: RootLayout, environment: str, model: str) -> str:
    """Say why a model's weights are to be fetched or recorded; empty if they are there."""
    recorded = weights_of(layout, environment, model)
    if recorded is None:
        return "not recorded yet"
    if not recorded.present(layout):
        return "files are missing"
    builds = {variant.build.name for variant in find_variants(layout, environment)}
    return "" if recorded.build in builds else "the build changed"
