"""The arguments of a calculator: what may be said, and the worker that it means."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from rootstock.client.launch import ResolvedModel
from rootstock.client.resolve import find_model, resolve, resolve_build, resolve_environment
from rootstock.client.session import WorkerSpec
from rootstock.client.timeouts import EVALUATION_S, START_S
from rootstock.config.clusters import find_root, require_root
from rootstock.config.demands import setup_arguments
from rootstock.errors import ConfigurationError
from rootstock.root.layout import RootLayout, absolute
from rootstock.root.user_folders import expanded, personal_root
from rootstock.worker.channel.frames import MAX_PAYLOAD


class _NotGiven(str):
    """A default that can be told from the same text given by the caller."""

    __slots__ = ()


DEFAULT_MODEL: str = _NotGiven("mace-medium")

# What a calculator's `parameters` hold where nothing else is said; `model` and `root` are always there.
DEFAULTS: dict[str, Any] = {
    "environment": None,
    "setup_kwargs": {},
    "launch": "auto",
    "threads": None,
    "start_timeout": START_S,
    "timeout": EVALUATION_S,
    "log": None,
}
NAMES = ("model", "root", "device", *DEFAULTS)
_PATHS = ("root", "environment", "log")
_MAX_OPTIONS = MAX_PAYLOAD // 2  # bytes; paths travel beside them
_MAX_DEPTH = 100
_JSON = "They travel to another process as JSON."
# They say how long to wait, and nothing about what is computed.
PATIENCE = {"start_timeout", "timeout"}


def check_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments of a calculator, each by itself: no root is looked at.

    Parameters
    ----------
    arguments : Mapping[str, Any]
        By the names of `RootstockCalculator`; what is missing has its default. Tuples in ``setup_kwargs`` reach the
        environment's ``setup()`` as lists.

    Returns
    -------
    dict
        The arguments as they can be written down (JSON) and given again: the root by its path, one name for the model.

    Raises
    ------
    TypeError
        If a name is unknown.
    ConfigurationError
        If no root is named, two are, or an argument is wrong.
    """
    values = dict(arguments)
    if unknown := sorted(set(values) - {*NAMES, "checkpoint", "cluster"}):
        raise TypeError(f"RootstockCalculator has no argument {unknown[0]!r}; it has: {', '.join(sorted(NAMES))}.")
    model = _one_model(values.pop("model", DEFAULT_MODEL), values.pop("checkpoint", None))
    cluster, root = values.pop("cluster", None), values.get("root")
    root = require_root(cluster, root) if values.get("environment") is None else find_root(cluster, root)
    values = DEFAULTS | {"device": "cuda"} | values | {"model": model, "root": root or personal_root()}
    values["setup_kwargs"] = _portable(values["setup_kwargs"])
    if not isinstance(values["device"], str):
        raise ConfigurationError(f"device must be a string, not {values['device']!r}.", "For example: device='cuda'")
    for name in PATIENCE:
        if not isinstance(values[name], Real) or not float(values[name]) > 0:
            message = f"{name} must be a number of seconds, not {values[name]!r}."
            raise ConfigurationError(message, f"For example: {name}=60.0")
        values[name] = float(values[name])
    threads = values["threads"]
    if threads is not None and not (isinstance(threads, Integral) and int(threads) >= 0):
        raise ConfigurationError(f"threads must be a number of threads, not {threads!r}.", "For example: threads=4")
    values["root"] = absolute(Path(values["root"]))
    values |= {name: os.fspath(values[name]) for name in _PATHS if values[name] is not None}
    return {name: values[name] for name in NAMES}


def worker_spec(arguments: Mapping[str, Any], build: str | None = None) -> WorkerSpec:
    """Find the worker that arguments mean, in their root.

    Parameters
    ----------
    arguments : Mapping[str, Any]
        As `check_arguments` returns them.
    build : str, optional
        The build that must compute, by its name or its digest alone. By default the one in use.

    Raises
    ------
    ConfigurationError, UnknownEnvironmentError, RootError
        As `resolve_environment` does.
    """
    values = with_absolute_paths(arguments)
    model = (build and _model_of_build(values, build)) or _model(values)
    require_build(build, model.build_name)
    options = setup_arguments(model.source, model.argument, values["device"], values["setup_kwargs"])
    return WorkerSpec(
        model, values["device"], options, values["threads"], values["start_timeout"],
        values["timeout"], values["log"],
    )  # fmt: skip


def with_absolute_paths(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked arguments in which a log and an environment file are paths of their own, wherever one works."""
    log, environment = arguments["log"], arguments["environment"]
    if environment is not None and (os.fspath(environment).endswith(".py") or os.sep in os.fspath(environment)):
        environment = expanded(Path(environment)).absolute()
    return {**arguments, "log": None if log is None else Path(log).absolute(), "environment": environment}


def with_changes(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with some changed.

    Parameters
    ----------
    before : Mapping[str, Any]
        The arguments of a calculator.
    changes : Mapping[str, Any]
        New values. One under another name (``checkpoint``, ``cluster``) replaces the argument that it stands for.
    """
    arguments = {**before, **changes}
    for alias, name in (("checkpoint", "model"), ("cluster", "root")):
        if changes.get(alias) is not None and name not in changes:
            del arguments[name]
    return arguments


def _one_model(model: Any, checkpoint: Any) -> str:
    """Return the model by either name; workflow programs say ``checkpoint``."""
    if checkpoint is not None:
        if not isinstance(model, _NotGiven) and model != checkpoint:
            raise ConfigurationError(
                f"model={model!r} and checkpoint={checkpoint!r} are two names for one argument, and differ.",
                "Give one of them.",
            )
        model = checkpoint
    if not isinstance(model, str):
        raise ConfigurationError(f"model must be a string, not {model!r}.", "For example: model='mace-medium'")
    return str(model)


def _model(values: Mapping[str, Any]) -> ResolvedModel:
    layout, model, environment = RootLayout(Path(values["root"])), values["model"], values["environment"]
    if environment is None:
        return resolve(layout, model, values["device"], values["launch"])
    return resolve_environment(layout, environment, model, values["device"], values["launch"])


def _model_of_build(values: Mapping[str, Any], build: str) -> ResolvedModel | None:
    """Return a model of a build that is there, in use or not."""
    layout, model, environment = RootLayout(Path(values["root"])), values["model"], values["environment"]
    if environment is None:
        environment, model = find_model(layout, model)
    name, _, digest = build.rpartition("/")
    if not isinstance(environment, str) or os.sep in environment or name not in ("", environment):
        return None
    found = resolve_build(layout, environment, model, digest)
    if found is not None and values["environment"] is None:
        found.source.check_model(model)
    return found


def _portable(options: Mapping[str, Any] | None) -> dict[str, Any]:
    if not isinstance(options, Mapping | None):
        raise ConfigurationError(f"setup_kwargs must be a dict, not {reprlib.repr(options)}.", "It travels as JSON.")
    options = dict(options or {})
    _require_json(options, "setup_kwargs")
    if (size := len(json.dumps(options))) > _MAX_OPTIONS:
        raise ConfigurationError(
            f"setup_kwargs is {size / 2**20:.0f} MB: a worker can be told {_MAX_OPTIONS / 2**20:.0f} MB.",
            "Write large data to a file, and give its path.",
        )
    if misplaced := {"model", "device"} & set(options):
        raise ConfigurationError(f"{misplaced.pop()!r} is an argument of its own, not one of setup_kwargs.")
    return options


def _require_json(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what JSON cannot hold, or would change without a word."""
    if value is None or isinstance(value, str | int | float):
        return
    if depth > _MAX_DEPTH:
        raise ConfigurationError(
            f"setup_kwargs must hold numbers, strings, lists and dicts of them: it is nested more than {_MAX_DEPTH} "
            "levels deep, or holds itself.",
            _JSON,
        )
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _require_json(item, f"{where}[{number}]", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigurationError(
                    f"The keys of {where} must be strings: {reprlib.repr(key)} is of type {type(key).__name__}.", _JSON
                )
            _require_json(item, f"{where}[{key!r}]", depth + 1)
    else:
        numpy = " Numbers and arrays of numpy: give VALUE.tolist()." if hasattr(value, "tolist") else ""
        raise ConfigurationError(
            f"setup_kwargs must hold numbers, strings, lists and dicts of them: {where} is of type "
            f"{type(value).__name__}.",
            _JSON + numpy,
        )


def require_build(asked: str | None, build: str | None) -> None:
    """Refuse a build that is not the one that computes; its digest alone, as ``info()`` names it, will do.

    Parameters
    ----------
    asked, build : str or None
        What was asked for, and what computes.

    Raises
    ------
    ConfigurationError
    """
    if asked is not None and (build is None or asked not in (build, build.rpartition("/")[2])):
        raise ConfigurationError(
            f"build={asked!r} was asked for, and {build!r} is in use here: numbers may differ. The root does not hold "
            "the other one; gc removes builds that are no longer in use.",
            "Leave build out to take the one in use.",
        )
