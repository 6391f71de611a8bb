"""What environment files depend on."""

from __future__ import annotations

import functools
from collections.abc import Iterable


def required_packages(requirements: Iterable[object]) -> tuple[str, ...]:
    """Return the normalized names of the packages that requirements are for; uv says what is wrong with a bad one."""
    return tuple(name for text in requirements if (name := _package(str(text))))


@functools.cache
def _package(requirement: str) -> str:
    from packaging.requirements import InvalidRequirement, Requirement  # whoever only computes goes without it
    from packaging.utils import canonicalize_name

    try:
        return canonicalize_name(Requirement(requirement).name)
    except InvalidRequirement:
        return ""
