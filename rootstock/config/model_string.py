"""Model strings: ``{environment}`` or ``{environment}-{model_arg}``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from rootstock.root.layout import CLIENT

KNOWN_ENVIRONMENTS = ("alignn", "chgnet", "mace", "orb")

_VERSION = r"@[A-Za-z0-9._]+"
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]*({_VERSION})?")


def is_environment_name(name: str) -> bool:
    """Tell whether `name` can name an environment: it becomes a file, and a folder beside that of the client's builds.

    >>> is_environment_name("mace@2024.01.15"), is_environment_name("../mace"), is_environment_name("")
    (True, False, False)
    """
    return _NAME.fullmatch(name) is not None and len(name) <= 100 and name != CLIENT


def is_path(model: str) -> bool:
    """Tell whether an argument for ``setup()`` is the path of a checkpoint, and no released model's name.

    >>> is_path("/scratch/me/*.model"), is_path("~/my.model"), is_path("../my.model"), is_path("medium")
    (True, True, True, False)
    """
    return model.startswith(("/", "~", "./", "../"))


def at_home(model: str) -> str:
    """Return an argument for ``setup()`` in which ``~`` is this user's home: a worker may have another one."""
    return os.path.expanduser(model) if model.startswith("~") else model


def model_string(environment: str, argument: str) -> str:
    """Return the model string of an environment and an argument for its ``setup()``.

    Parameters
    ----------
    environment, argument : str
        The argument is empty for the default.

    Examples
    --------
    >>> model_string("mace", "medium"), model_string("emt", "")
    ('mace-medium', 'emt')
    """
    return f"{environment}-{argument}" if argument else environment


def parse_model_string(model: str, registered: Iterable[str] = ()) -> tuple[str, str]:
    """Split a model string into the environment's name and the argument for its ``setup()``.

    Parameters
    ----------
    model : str
        ``{environment}`` or ``{environment}-{model_arg}``; an environment may carry a version, ``mace@2024.01.15``.
    registered : iterable of str
        Names of the environments of a root, beside `KNOWN_ENVIRONMENTS`. The longest name that fits wins.

    Returns
    -------
    tuple of (str, str)
        Environment and argument. The argument is empty where none was given: ``setup()`` then takes its default.
        A string that begins with no known name is an environment's name as a whole.

    Examples
    --------
    >>> parse_model_string("mace-medium")
    ('mace', 'medium')
    >>> parse_model_string("mace-/path/to/custom.pt")
    ('mace', '/path/to/custom.pt')
    >>> parse_model_string("chgnet-0.3.0"), parse_model_string("chgnet")
    (('chgnet', '0.3.0'), ('chgnet', ''))
    >>> parse_model_string("mace@2024.01.15-medium")
    ('mace@2024.01.15', 'medium')
    >>> parse_model_string("mace-custom-small", registered=["mace-custom"])
    ('mace-custom', 'small')
    >>> parse_model_string("my-potential")
    ('my-potential', '')
    """
    names = sorted({*registered, *KNOWN_ENVIRONMENTS}, key=len, reverse=True)
    for name in names:
        version = "" if "@" in name else f"(?:{_VERSION})?"
        match = re.match(rf"({re.escape(name)}{version})(?:-(.*))?\Z", model, re.DOTALL)
        if match:
            return match[1], match[2] or ""
    return model, ""


def did_you_mean(name: str, names: Iterable[str], remark: str = "") -> str:
    """Return a sentence that names what is spelt alike; empty if nothing is.

    Parameters
    ----------
    name : str
        What was asked for.
    names : iterable of str
        What could be meant.
    remark : str
        It goes after the names, before the question mark.

    Examples
    --------
    >>> did_you_mean("mace-mediun", ["mace-medium", "mace-small", "chgnet"])
    " Did you mean 'mace-medium'?"
    >>> did_you_mean("EMT", ["emt", "mace"])
    " Did you mean 'emt'?"
    """
    import difflib  # here, since it is needed for a mistake only

    spelt = {each.lower(): each for each in names}  # EMT is emt
    close = [spelt[each] for each in difflib.get_close_matches(name.lower(), spelt, n=3, cutoff=0.75)]
    return f" Did you mean {' or '.join(map(repr, close))}{remark}?" if close else ""
