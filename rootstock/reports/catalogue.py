"""The models of a root, for its users: what each can do, what it was built for, whether it was verified. Only read.

Listing a hundred environments reads their headers and the records of their builds, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rootstock.builds.packages import main_package
from rootstock.config.environment_file import EnvironmentSource, read_header, recorded_source, registered_names
from rootstock.config.licences import licence_class
from rootstock.config.model_string import model_string
from rootstock.config.packaged_weights import weights_in_package
from rootstock.errors import RootstockError
from rootstock.reports.model import Model, Verified
from rootstock.root.in_use import build_in_use
from rootstock.root.layout import RootLayout
from rootstock.root.records import BUILD_SOURCE, BuildRecord, read_build, read_marker
from rootstock.root.variants import other_variants
from rootstock.root.verification_records import Verification, last_verification
from rootstock.root.weights import Weights, read_weights
from rootstock.root.weights_file import WeightsFile

_T = TypeVar("_T")


@dataclass(frozen=True)
class Catalogue:
    """The models of a root, and what could not be read: by the names of environments, and by the paths of records."""

    root: Path
    models: tuple[Model, ...]
    problems: Mapping[str, RootstockError]

    def to_json(self) -> dict[str, Any]:
        """Return it for programs; ``schema`` changes when a key changes its meaning."""
        return {
            "schema": 3,
            "root": str(self.root),
            "models": [asdict(model) for model in self.models],
            "problems": {name: str(error) for name, error in self.problems.items()},
        }


def read_catalogue(layout: RootLayout) -> Catalogue:
    """Return the models of a root, those without a build too.

    Raises
    ------
    RootError
        If the folder is no root, or you may not read it. One environment that cannot be read is among the problems.
    """
    read_marker(layout)
    damaged: dict[str, RootstockError] = {}

    def read(name: str) -> Iterator[Model]:
        environment = read_environment(layout, name)
        damaged.update(environment.damaged)
        return models_of(layout, environment)

    models, errors = of_each(registered_names(layout), read)
    models.sort(key=lambda model: model.family.lower())  # those of a family stay together
    return Catalogue(layout.root, tuple(models), {**errors, **damaged})


def read_strings(layout: RootLayout) -> list[str]:
    """Return the model strings of a root and the aliases, without those of environments that cannot be read."""

    def read(name: str) -> Iterable[str]:
        source = in_use(layout, name)[0]
        return (*source.strings(), *source.aliases)

    return of_each(registered_names(layout), read)[0]


def of_each(names: Iterable[str], read: Callable[[str], Iterable[_T]]) -> tuple[list[_T], dict[str, RootstockError]]:
    """Return what is read of environments, and by name what kept some from being read: they hide no other.

    Parameters
    ----------
    names : iterable of str
    read : callable
        Is given a name, and returns what there is of that environment.
    """
    items: list[_T] = []
    errors = {}
    for name in names:
        try:
            items += read(name)
        except RootstockError as error:
            errors[name] = error
    return items, errors


def models_of(layout: RootLayout, environment: EnvironmentRecord) -> Iterator[Model]:
    """Yield the models that an environment names; the environment itself if it names none.

    Parameters
    ----------
    layout, environment
    """
    return (describe(layout, environment, argument) for argument in environment.source.arguments())


@dataclass(frozen=True)
class EnvironmentRecord:
    """What a root holds of an environment, read once for all of its models.

    Attributes
    ----------
    source, record
        As `in_use` returns them.
    built_for : tuple of str
        Platform and accelerator of each build.
    weights : Mapping[str, Weights]
        What is recorded of weights, by the name of the model.
    verification : Verification or None
        The last one of the build.
    damaged : Mapping[str, RootstockError]
        Records of weights and verifications that cannot be read, by their paths in the root. Models run without them.
    """

    source: EnvironmentSource
    record: BuildRecord | None
    built_for: tuple[str, ...]
    weights: Mapping[str, Weights]
    verification: Verification | None
    damaged: Mapping[str, RootstockError]

    @property
    def bundled(self) -> Mapping[str, tuple[WeightsFile, ...]]:
        """By model, the weights inside the packages, as verification saw them."""
        return self.record.bundled if self.record else {}

    def weights_files(self, argument: str) -> tuple[WeightsFile, ...]:
        """Return the files of a model's weights: those inside the packages, or those that were fetched."""
        name = self.source.named(argument)
        recorded = self.weights.get(name)
        return self.bundled.get(name) or (recorded.files if recorded else ())

    def verification_of(self, argument: str) -> Verification | None:
        """Return the last verification with the checks of one model alone.

        Parameters
        ----------
        argument : str
            The model, as ``setup()`` takes it.
        """
        last, named = self.verification, self.source.named
        if last is None:
            return None
        checks = tuple(check for check in last.checks if named(check.get("model", "")) == named(argument))
        return replace(last, checks=checks)


def read_environment(layout: RootLayout, name: str) -> EnvironmentRecord:
    """Return what a root holds of an environment.

    Parameters
    ----------
    layout, name
    """
    source, record = in_use(layout, name)
    main = [f"{record.platform} {record.computes_on}"] if record else []
    built_for = tuple(dict.fromkeys([*main, *other_variants(layout, name)])) if record else ()
    damaged: dict[str, RootstockError] = {}
    weights = read_weights(layout, name, damaged)
    run = last_verification(layout, record, damaged) if record else None
    return EnvironmentRecord(source, record, built_for, weights, run, damaged)


def in_use(layout: RootLayout, name: str) -> tuple[EnvironmentSource, BuildRecord | None]:
    """Return an environment's file, as its build was made from it, and the build's record; None without a build.

    The file comes without its text, and from the build's record without its references.

    Parameters
    ----------
    layout, name
    """
    build = build_in_use(layout, name)
    record = read_build(build) if build else None
    if build and record and record.header:
        return recorded_source(name, build, record), record
    path = build / BUILD_SOURCE if build and record else layout.environment_file(name)
    return EnvironmentSource(name, path, "", read_header(path).header), record


def describe(layout: RootLayout, environment: EnvironmentRecord, argument: str) -> Model:
    """Return what is known of a model.

    Parameters
    ----------
    layout, environment
    argument : str
        The model, as ``setup()`` takes it.
    """
    source = environment.source
    capabilities = source.capabilities(argument)
    weights = environment.weights.get(source.named(argument))
    package, version = main_package(source, environment.record)
    return Model(
        model=model_string(source.name, argument),
        environment=source.name,
        argument=argument,
        description=source.models.get(argument) or source.description,
        package=package,
        version=version,
        aliases=tuple(alias for alias, name in source.aliases.items() if source.named(name) == source.named(argument)),
        properties=capabilities.properties,
        elements=capabilities.elements,
        needs=capabilities.needs,
        dispersion=capabilities.dispersion,
        conservative=capabilities.conservative,
        licence=capabilities.licence,
        licence_class=licence_class(
            capabilities.code_licence if source.is_toy else capabilities.licence, capabilities.gated
        ),
        family=source.family,
        training_set=capabilities.training_set,
        functional=capabilities.functional,
        gated=capabilities.gated,
        extra_properties=capabilities.extra_properties,
        methods=capabilities.methods,
        built_for=environment.built_for,
        weights=_weights(layout, environment, argument, weights),
        weights_bytes=sum(file.bytes for file in environment.weights_files(argument)),
        verified=_verified(environment, argument),
    )


def _weights(layout: RootLayout, environment: EnvironmentRecord, argument: str, recorded: Weights | None) -> str:
    source = environment.source
    if weights_in_package(source, argument, environment.record):
        return "package"
    if source.is_toy or (recorded and not recorded.files):
        return "none"
    if recorded is None:
        return "unknown"
    return "yes" if recorded.present(layout) else "missing"


def _verified(environment: EnvironmentRecord, argument: str) -> Verified:
    run = environment.verification_of(argument)
    return Verified(run.ended or run.started, run.device, run.passed, run.missed, run.not_run) if run else Verified()
