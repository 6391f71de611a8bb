"""Run an environment file and call its ``setup()``."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

MODULE_NAME = "rootstock_environment"


def load_setup(path: str) -> Callable[..., Any]:
    """Execute the environment file at `path` and return its ``setup`` function.

    Raises
    ------
    TypeError
        If the file defines no such function.
    """
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    # Registered like an import, so that what the file defines can be pickled and its dataclasses resolve.
    module = types.ModuleType(MODULE_NAME)
    module.__file__ = path
    sys.modules[MODULE_NAME] = module
    exec(code, module.__dict__)
    setup: Callable[..., Any] | None = getattr(module, "setup", None)
    if setup is None or not callable(setup):
        raise TypeError(f"{path} defines no function setup(model, device).")
    return setup


def call_setup(setup: Callable[..., Any], model: str, device: str, options: Mapping[str, Any]) -> Any:
    """Return the calculator that ``setup`` makes.

    Parameters
    ----------
    setup : callable
    model : str
        Empty: the file's own default. It is left out where ``setup`` has one, and passed as an empty string where it
        has not.
    device : str
    options : Mapping[str, Any]
        Further keyword arguments.

    Raises
    ------
    TypeError
        If ``setup`` does not take one of `options`, or returns something that is not an ASE calculator.
    """
    parameters = inspect.signature(setup).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if unknown := [name for name in options if name not in parameters and not anything]:
        options_of_setup = ", ".join(name for name in parameters if name not in ("model", "device")) or "none"
        raise TypeError(f"setup() takes no option {unknown[0]!r}; it takes: {options_of_setup}.")
    first = next(iter(parameters.values()), None)
    positional = [] if not model and first is not None and first.default is not first.empty else [model]
    calculator = setup(*positional, device=device, **options)
    for needed in ("calculate", "implemented_properties"):  # sums of ASE have no reset
        if not hasattr(calculator, needed):
            raise TypeError(
                f"setup() returned {type(calculator).__name__}, which has no {needed!r}: "
                "it must return an ASE calculator."
            )
    return calculator
