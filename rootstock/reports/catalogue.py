"""The models of a root, for its users: what each can do, what it was built for, whether it was verified. Only read.

Listing a hundred environments reads their headers and the records of their builds, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rootstock.config.environment_file import EnvironmentSource, read_header, registered_names
from rootstock.config.model_string import model_string
from rootstock.config.requirements import normalized, required_packages
from rootstock.errors import RootstockError
from rootstock.root.layout import RootLayout
from rootstock.root.records import BUILD_SOURCE, BuildRecord, active_build, read_build, read_marker
from rootstock.root.variants import other_variants
from rootstock.root.verification_records import Verification, last_verification
from rootstock.root.weights import Weights, read_weights

_T = TypeVar("_T")


@dataclass(frozen=True)
class Verified:
    """What the last verification of a build saw, of this model or of all.

    Attributes
    ----------
    at, device : str
        When it was, on what; empty if there was none.
    passed, missed, not_run : int
        Number of checks.
    """

    at: str = ""
    device: str = ""
    passed: int = 0
    missed: int = 0
    not_run: int = 0

    def __str__(self) -> str:
        if not self.passed + self.missed:
            return "no" if not self.not_run else "not run"
        return f"{self.at[:10]} {f'{self.missed} FAILED' if self.missed else f'{self.passed} passed'}"


@dataclass(frozen=True)
class Model:
    """A model that a root offers.

    Attributes
    ----------
    model : str
        The exact string for ``RootstockCalculator(model=...)``.
    environment, argument : str
        What it is made of.
    description : str
        A line about it.
    package, version : str
        The library that it comes with, and which version is installed; empty if the environment is not built.
    properties, elements, needs : tuple of str
        See `Capabilities`.
    licence : str
        Of its weights.
    built_for : tuple of str
        Platform and accelerator of each build; empty if there is none.
    weights : {'yes', 'none', 'missing', 'unknown'}
        Whether they are here: ``none`` if it has none, ``unknown`` if nobody has recorded what they are.
    weights_bytes : int
    verified : Verified
    """

    model: str
    environment: str
    argument: str
    description: str
    package: str
    version: str
    properties: tuple[str, ...]
    elements: tuple[str, ...]
    needs: tuple[str, ...]
    licence: str
    built_for: tuple[str, ...]
    weights: str
    weights_bytes: int
    verified: Verified

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Catalogue:
    """The models of a root, and what kept environments from being listed: name -> reason."""

    root: Path
    models: tuple[Model, ...]
    problems: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return it for programs; ``schema`` changes when a key changes its meaning."""
        return {
            "schema": 2,
            "root": str(self.root),
            "models": [model.to_json() for model in self.models],
            "problems": dict(self.problems),
        }


def read_catalogue(layout: RootLayout) -> Catalogue:
    """Return the models of a root, those without a build too.

    Raises
    ------
    RootError
        If the folder is no root, or you may not read it. One environment that cannot be read is among the problems.
    """
    read_marker(layout)
    models, problems = of_each(registered_names(layout), lambda name: models_of(layout, name))
    return Catalogue(layout.root, tuple(models), problems)


def read_strings(layout: RootLayout) -> list[str]:
    """Return the model strings of a root, without those of environments that cannot be read."""
    return of_each(registered_names(layout), lambda name: in_use(layout, name)[0].strings())[0]


def of_each(names: Iterable[str], read: Callable[[str], Iterable[_T]]) -> tuple[list[_T], dict[str, str]]:
    """Return what is read of environments, and what kept some of them from being read: name -> reason."""
    found: list[_T] = []
    problems = {}
    for name in names:
        try:
            found += read(name)
        except RootstockError as error:
            problems[name] = str(error)
    return found, problems


def models_of(layout: RootLayout, name: str) -> Iterator[Model]:
    """Yield the models that an environment names; the environment itself if it names none."""
    held = read_environment(layout, name)
    for argument in held.source.arguments():
        yield describe(layout, held, argument)


@dataclass(frozen=True)
class EnvironmentRecord:
    """What a root holds of an environment, read once for all of its models.

    Attributes
    ----------
    source, record
        As `in_use` returns them.
    built_for : tuple of str
        Platform and accelerator of each build.
    package : tuple of str
        As `main_package` returns it.
    weights : Mapping[str, Weights]
        What is recorded of weights, by the name of the model.
    verification : Verification or None
        The last one of the build.
    """

    source: EnvironmentSource
    record: BuildRecord | None
    built_for: tuple[str, ...]
    package: tuple[str, str]
    weights: Mapping[str, Weights]
    verification: Verification | None


def read_environment(layout: RootLayout, name: str) -> EnvironmentRecord:
    """Return what a root holds of an environment."""
    source, record = in_use(layout, name)
    built_for = (f"{record.platform} {record.accelerator}", *other_variants(layout, name)) if record else ()
    last = last_verification(layout, record) if record else None
    return EnvironmentRecord(source, record, built_for, main_package(source, record), read_weights(layout, name), last)


def in_use(layout: RootLayout, name: str) -> tuple[EnvironmentSource, BuildRecord | None]:
    """Return an environment's file, as its build was made from it, and the build's record; None without a build.

    The file comes without its text, and from the build's record without its references.
    """
    build = active_build(layout.active(name))
    record = read_build(build) if build else None
    path = build / BUILD_SOURCE if build and record else layout.environment_file(name)
    header = record.header if record and record.header else read_header(path).header
    return EnvironmentSource(name, path, "", header), record


def describe(layout: RootLayout, held: EnvironmentRecord, argument: str) -> Model:
    """Return what is known of a model, by the argument of its environment's ``setup()``."""
    source = held.source
    said = source.capabilities(argument)
    weights = held.weights.get(source.named(argument))
    package, version = held.package
    return Model(
        model=model_string(source.name, argument),
        environment=source.name,
        argument=argument,
        description=source.models.get(argument) or source.description,
        package=package,
        version=version,
        properties=said.properties,
        elements=said.elements,
        needs=said.needs,
        licence=said.licence,
        built_for=held.built_for,
        weights=_weights(layout, source, weights),
        weights_bytes=weights.bytes if weights else 0,
        verified=_verified(held, argument),
    )


def main_package(source: EnvironmentSource, record: BuildRecord | None) -> tuple[str, str]:
    """Return the library that an environment is about, which its file names first, and its installed version."""
    name = next(iter(_requirements(source)), "")
    return name, version_of(record, name) if record else ""


def key_packages(source: EnvironmentSource, record: BuildRecord) -> dict[str, str]:
    """Return the versions of what the file asks for, and of what computes."""
    names = dict.fromkeys([*_requirements(source), "torch", "ase", "numpy"])
    return {name: version for name in names if (version := version_of(record, name))}


def version_of(record: BuildRecord, name: str) -> str:
    """Return the version of a package in a build, by its normalized name; empty if it is not there."""
    return next((version for key, version in record.packages.items() if normalized(key) == name), "")


def _requirements(source: EnvironmentSource) -> tuple[str, ...]:
    return required_packages(source.header.get("dependencies", []))


def _weights(layout: RootLayout, source: EnvironmentSource, recorded: Weights | None) -> str:
    if source.rootstock.get("licence", {}).get("weights") == "" or (recorded and not recorded.files):
        return "none"
    if recorded is None:
        return "unknown"
    return "yes" if recorded.present(layout) else "missing"


def _verified(held: EnvironmentRecord, argument: str) -> Verified:
    last, named = held.verification, held.source.named
    if last is None:
        return Verified()
    results = [check.get("passed") for check in last.checks if named(check.get("model", "")) == named(argument)]
    counts = (results.count(outcome) for outcome in (True, False, None))
    return Verified(last.ended or last.started, last.device, *counts)
