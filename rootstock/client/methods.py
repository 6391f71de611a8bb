"""What was computed with, as a sentence for a methods section, and the works to cite with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rootstock import __version__
from rootstock.builds.packages import main_package, version_of
from rootstock.config.citations import ASE, OWN, Work, with_keys, works_of
from rootstock.config.demands import is_checkpoint
from rootstock.config.environment_file import EnvironmentSource
from rootstock.root.records import BuildRecord


@dataclass(frozen=True)
class Methods:
    """A sentence, and the works that it cites, by their keys."""

    sentence: str
    works: Mapping[str, Work]


def methods_of(
    source: EnvironmentSource,
    argument: str,
    record: BuildRecord | None,
    sha256: Iterable[str],
    options: Mapping[str, Any] | None = None,
) -> Methods:
    """Say what energies and forces are computed with.

    Parameters
    ----------
    source : EnvironmentSource
    argument : str
        The model, as ``setup()`` takes it.
    record : BuildRecord or None
        Of the build that computes.
    sha256 : iterable of str
        Hashes of the files of weights.
    options : Mapping, optional
        Arguments of ``setup()``.
    """
    works = with_keys([*works_of(source.rootstock.get("citation", ""), source.named(argument)), ASE, OWN])
    keys = [key for key, work in works.items() if work not in (ASE, OWN)]
    # By what they are: the environment file may name them too.
    ase_key, own_key = (next(key for key, work in works.items() if work == each) for each in (ASE, OWN))
    ase = f"ASE {version_of(record, 'ase') if record else ''}".strip()
    hashes = ", ".join(sha256)
    cited = f" [{', '.join(keys)}]" if keys else ""
    built = [f"build {source.name}/{record.digest}" if record else "", f"weights SHA-256 {hashes}" if hashes else ""]
    sentence = (
        f"Energies and forces were computed with {_model(source, argument, record, options or {})}{cited}, "
        f"{ase} [{ase_key}] and Rootstock {__version__} [{own_key}]{_brackets(built)}."
    )
    return Methods(sentence, works)


def _model(source: EnvironmentSource, argument: str, record: BuildRecord | None, options: Mapping[str, Any]) -> str:
    name, called = source.named(argument), source.family
    package, version = main_package(source, record)
    details = [f"{package} {version}".strip() if package != "ase" else ""]
    if not is_checkpoint(source, argument):  # of a checkpoint of the user's own, the file knows nothing
        capabilities = source.capabilities(argument)
        data = f"trained on {capabilities.training_set}" if capabilities.training_set else ""
        details.append(", ".join(filter(None, [data, capabilities.functional])))
    details.append(f"options {json.dumps(dict(options), sort_keys=True, default=str)}" if options else "")
    return (f"{called}, model {name}" if name else called) + _brackets(details)


def _brackets(parts: Iterable[str]) -> str:
    inner = "; ".join(filter(None, parts))
    return f" ({inner})" if inner else ""
