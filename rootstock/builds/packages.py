"""The packages of a build that say what it is: the model's own, and what computes."""

from __future__ import annotations

from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.requirements import normalized, required_packages
from rootstock.root.records import BuildRecord

# What models are made with. It says nothing of which model it is, wherever it stands among the requirements.
_TOOLS = {"ase", "e3nn", "jax", "jaxlib", "numpy", "scipy", "tensorflow", "torch", "torchvision"}


def main_package(source: EnvironmentSource, record: BuildRecord | None) -> tuple[str, str]:
    """Return the library that an environment is about, and its installed version; empty where nobody knows.

    Its file may name it as ``package``. By default it is the first requirement that other models have no use for.

    Parameters
    ----------
    source, record
        The environment file, and the record of its build; None without one.
    """
    required = required_packages(source.header.get("dependencies", []))
    own = [name for name in required if name not in _TOOLS]
    name = normalized(source.package) or next(iter([*own, *required]), "")
    return name, version_of(record, name) if record else ""


def key_packages(source: EnvironmentSource, record: BuildRecord) -> dict[str, str]:
    """Return the versions of the model's package, of what its file asks for, and of what computes.

    Parameters
    ----------
    source, record
        As for `main_package`.
    """
    names = dict.fromkeys([main_package(source, record)[0], *_requirements(source, record), "torch", "ase", "numpy"])
    return {name: version for name in names if (version := version_of(record, name))}


def version_of(record: BuildRecord, name: str) -> str:
    """Return the version of a package in a build; empty if it is not there.

    Parameters
    ----------
    record
    name : str
        The package's name, normalized.
    """
    return next((version for key, version in record.packages.items() if normalized(key) == name), "")


def _requirements(source: EnvironmentSource, record: BuildRecord | None) -> tuple[str, ...]:
    part = source.rootstock.get("accelerators", {}).get(record.accelerator, {}) if record else {}
    return required_packages([*source.header.get("dependencies", []), *part.get("dependencies", [])])
