"""The values of a cluster's settings: text, lists of it, whole numbers, and yes or no."""

from __future__ import annotations

import re
import shlex
from typing import Any

from rootstock.errors import ConfigurationError
from rootstock.root.plain_files import parse_toml

_CREDENTIALS = re.compile(r"\bhttps?://[^/\s@]+@")
_YES_NO = {"true": True, "yes": True, "false": False, "no": False}


def parse_value(key: str, kind: str, text: str) -> Any:
    """Read the value of a setting as a command line has it; what it cannot be stays text, which `check_value` refuses.

    Parameters
    ----------
    key : str
        The setting, for messages.
    kind : str
        Its type: ``str``, ``tuple...``, ``int`` or ``bool``.
    text : str

    Raises
    ------
    ConfigurationError
        If it begins as a list of TOML's and is none.
    """
    if kind.startswith("tuple"):
        return _list(key, text.strip())
    if kind == "int" and re.fullmatch(r"\s*\d{1,9}\s*", text, re.ASCII):
        return int(text)
    if kind == "bool":
        return _YES_NO.get(text.strip().lower(), text)
    return text


def _list(key: str, text: str) -> Any:
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return parse_toml(f"list = {text}")["list"]
    except ValueError:
        values = ",".join(part.strip(" '\"") for part in text.strip("[]").split(","))
        right = shlex.quote(f"{key}={values}")
        raise ConfigurationError(f"{key}={text} is no list.", f"Write it so: --set {right}") from None


def check_value(key: str, kind: str, choices: tuple[str, ...], value: Any, where: str) -> Any:
    """Return a value as `rootstock.config.cluster_settings.Cluster` holds it.

    Parameters
    ----------
    key, kind
        As for `parse_value`.
    choices : tuple of str
        What it may be; empty: anything of its type.
    value
        As TOML has it, or `parse_value` returns it.
    where : str
        The file and the cluster, for messages.

    Raises
    ------
    ConfigurationError
        If it is of another type, none of the choices, or holds what no file of a root may.
    """
    if kind == "int":
        if type(value) is not int or value < 0:  # true and false are numbers, to Python
            raise ConfigurationError(f"{where}: {key} must be a whole number, not {value!r}.", f"Such as {key} = 4")
        return value
    if kind == "bool":
        if not isinstance(value, bool):
            raise ConfigurationError(f"{where}: {key} must be true or false, not {value!r}.")
        return value
    if kind.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigurationError(f"{where}: {key} must be a list of strings, not {value!r}.")
    elif not isinstance(value, str):
        raise ConfigurationError(f"{where}: {key} must be a string, not {value!r}.")
    # One line each: these values end up in modulefiles and scripts, where a line break would begin a new command.
    for text in value if isinstance(value, list) else [value]:
        if not text.isprintable():
            raise ConfigurationError(f"{where}: {key} holds a control character: {text!r}.")
        if _CREDENTIALS.search(text):
            raise ConfigurationError(
                f"{where}: {key} holds a user's name or password in an address.",
                "Everybody can read a root's settings. Put it into ~/.netrc of whoever installs.",
            )
    if choices and value not in choices:
        raise ConfigurationError(f"{where}: {key} is {value!r}; allowed are {', '.join(choices)}.")
    return tuple(value) if isinstance(value, list) else value


def value_text(value: Any) -> str:
    """Return a value as people read it, and as `parse_value` does.

    >>> value_text(("a", "b")), value_text(True), value_text(4)
    ('a, b', 'true', '4')
    """
    if isinstance(value, tuple | list):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
