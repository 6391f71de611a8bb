"""The values of a cluster's settings: text, lists and tables of it, whole numbers, and yes or no."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from rootstock.errors import ConfigurationError
from rootstock.root.plain_files import parse_toml

_CREDENTIALS = re.compile(r"\bhttps?://[^/\s@]+@")
_YES_NO = {"true": True, "yes": True, "false": False, "no": False}
ONE = "1"  # the key of a table that holds one value for all


def setting(
    name: str, default: Any, meaning: str, choices: tuple[str, ...] = (), check: Callable[[Any], object] | None = None,
) -> Any:  # fmt: skip
    """Return the field of a dataclass that holds a setting.

    Parameters
    ----------
    name : str
        Its key in a cluster file.
    default
        An empty tuple or dict stands for a list or a table of text.
    meaning : str
    choices : tuple of str
        What it may be; empty: anything of its type.
    check : callable, optional
        Raises ConfigurationError for a value that it cannot be.
    """
    # A factory, so that the documentation can tell an empty list or table from text.
    factory = {"default_factory": type(default)} if default in ((), {}) else {"default": default}
    return field(
        metadata={"key": name, "meaning": meaning, "choices": choices, "check": check},
        hash=None if default != {} else False,
        **factory,
    )


def parse_value(key: str, kind: str, text: str) -> Any:
    """Read the value of a setting as a command line has it; what it cannot be stays text, which `check_value` refuses.

    Parameters
    ----------
    key : str
        The setting, for messages.
    kind : str
        Its type: ``str``, ``tuple...``, ``Mapping...``, ``int`` or ``bool``.
    text : str

    Raises
    ------
    ConfigurationError
        If it begins as a list or a table of TOML's and is none.
    """
    if kind.startswith("Mapping") and text.strip().startswith("{"):
        return _table(key, text.strip())
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


def _table(key: str, text: str) -> Any:
    try:
        return parse_toml(f"table = {text}")["table"]
    except ValueError:
        right = shlex.quote(f'{key}={{"name" = "value"}}')
        raise ConfigurationError(f"{key}={text} is no table.", f"Write it so: --set {right}") from None


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
    if kind.startswith("Mapping"):
        return _check_table(key, value, where)
    if kind.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigurationError(f"{where}: {key} must be a list of strings, not {value!r}.")
    elif not isinstance(value, str):
        raise ConfigurationError(f"{where}: {key} must be a string, not {value!r}.")
    for text in value if isinstance(value, list) else [value]:
        _check_text(key, text, where)
        if choices and text not in choices:
            raise ConfigurationError(f"{where}: {key} is {text!r}; allowed are {', '.join(choices)}.")
    return tuple(value) if isinstance(value, list) else value


def _check_table(key: str, value: Any, where: str) -> Mapping[str, str]:
    table = {ONE: value} if isinstance(value, str) else value
    if not isinstance(table, dict) or not all(isinstance(each, str) for each in table.values()):
        raise ConfigurationError(f"{where}: {key} must be a table of strings, not {value!r}.")
    for text in [*table, *table.values()]:
        _check_text(key, text, where)
    return dict(table)


def _check_text(key: str, text: str, where: str) -> None:
    # One line each: these values end up in modulefiles and scripts, where a line break would begin a new command.
    if not text.isprintable():
        raise ConfigurationError(f"{where}: {key} holds a control character: {text!r}.")
    if _CREDENTIALS.search(text):
        raise ConfigurationError(
            f"{where}: {key} holds a user's name or password in an address.",
            "Everybody can read a root's settings. Put it into ~/.netrc of whoever installs.",
        )


def value_text(value: Any) -> str:
    """Return a value as people read it, and as `parse_value` does.

    >>> value_text(("a", "b")), value_text(True), value_text(4), value_text({"1": "a"})
    ('a, b', 'true', '4', '{"1" = "a"}')
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quoted(name)} = {_quoted(each)}" for name, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
