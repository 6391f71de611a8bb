"""Names of packages, as environment files and installed packages spell them.

What compares them is imported when it is needed: completion in a shell goes without it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def required_packages(requirements: Iterable[object]) -> tuple[str, ...]:
    """Return the normalized names of the packages that requirements are for; uv says what is wrong with a bad one."""
    return tuple(name for text in requirements if (name := _required(str(text))))


@functools.cache
def normalized(name: str) -> str:
    """Return a package's name in the one spelling that can be compared."""
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def parse_requirement(text: str) -> Requirement:
    """Return what a requirement says.

    Parameters
    ----------
    text : str

    Raises
    ------
    ValueError
        If it is none.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(str(error).splitlines()[0]) from error
    except RecursionError:
        raise ValueError("it is nested too deep") from None


@functools.cache
def _required(requirement: str) -> str:
    try:
        return normalized(parse_requirement(requirement).name)
    except ValueError:
        return ""
