"""Weights that come inside the packages of a build."""

from __future__ import annotations

from fnmatch import fnmatchcase

from rootstock.config.environment_file import EnvironmentSource
from rootstock.root.records import BuildRecord


def weights_in_package(source: EnvironmentSource, model: str, record: BuildRecord | None) -> bool:
    """Tell whether a model's weights are inside the packages: its file says so, or a build's verification saw it.

    Parameters
    ----------
    source : EnvironmentSource
    model : str
        As ``setup()`` takes it.
    record : BuildRecord or None
        None without a build.
    """
    name, seen = source.named(model), record.bundled if record else {}
    said = any(fnmatchcase(name, pattern) for pattern in source.rootstock.get("bundled", ()))
    return not source.is_toy and (said or name in seen)
