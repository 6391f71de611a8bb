"""The code of an environment file: whether it is Python, and what setup() takes."""

from __future__ import annotations

import ast
import warnings

from rootstock.reports.envfile_lint.finding import ERROR, WARNING, Finding, Findings


def check_code(text: str) -> list[Finding]:
    """Return what is wrong with the code of an environment file; it is compiled, and never run."""
    found: list[Finding] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            tree = ast.parse(text)
            compile(tree, "environment", "exec", dont_inherit=True)  # finds more, such as a return outside of functions
            found += _check_setup(tree)
        except SyntaxError as error:
            found.append(Finding(ERROR, f"not valid Python: {error.msg}.", error.lineno))
        except (ValueError, RecursionError) as error:
            found.append(Finding(ERROR, f"not valid Python: {error}."))
    return [*found, *(Finding(WARNING, f"Python says: {each.message}.", each.lineno) for each in said)]


def _check_setup(tree: ast.Module) -> Findings:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    named = [node for node in tree.body if isinstance(node, kinds) and node.name == "setup"]
    if not named:
        yield Finding(ERROR, "there is no function setup(model, device).")
        return
    setup, line = named[-1], named[-1].lineno
    if isinstance(setup, ast.AsyncFunctionDef):
        yield Finding(ERROR, "setup() must be an ordinary function, not async.", line)
    if setup.decorator_list:  # what a decorator makes of the arguments, nobody knows
        return
    taken = setup.args
    positional = [*taken.posonlyargs, *taken.args]
    by_name = {each.arg for each in (*taken.args, *taken.kwonlyargs)} - {each.arg for each in positional[:1]}
    if not (positional or taken.vararg) or [each.arg for each in positional[:1]] == ["device"]:
        yield Finding(ERROR, "setup() must take the model first: def setup(model, device).", line)
    elif positional and positional[0].arg != "model":
        first = positional[0].arg
        yield Finding(WARNING, f"setup()'s first argument is called {first!r}; it is given the model.", line)
    if "device" not in by_name and not taken.kwarg:
        yield Finding(ERROR, "setup() must take an argument with the name device: def setup(model, device).", line)
    needed = positional[1 : len(positional) - len(taken.defaults)]
    needed += [each for each, default in zip(taken.kwonlyargs, taken.kw_defaults, strict=True) if default is None]
    for each in needed:
        if each.arg != "device":
            yield Finding(ERROR, f"setup() is given a model and a device only: {each.arg!r} needs a default.", line)
