"""The code of an environment file: whether it is Python, and what setup() takes."""

from __future__ import annotations

import ast
import warnings

from rootstock.config.environment_text import parse_python
from rootstock.reports.envfile_lint.finding import ERROR, WARNING, Finding, Findings
from rootstock.reports.envfile_lint.hook import check_hook


def check_code(text: str) -> list[Finding]:
    """Return what is wrong with the code of an environment file; it is compiled, and never run."""
    findings: list[Finding] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tree = parse_python(text)
            compile(tree, "environment", "exec", dont_inherit=True)  # finds more, such as a return outside of functions
            findings += [*_check_setup(tree), *check_hook(tree)]
        except SyntaxError as error:
            findings.append(Finding(ERROR, f"not valid Python: {error.msg}.", error.lineno))
        except (RecursionError, MemoryError):
            findings.append(Finding(ERROR, "not valid Python: it is nested too deep."))
    return [*findings, *(Finding(WARNING, f"Python says: {each.message}.", each.lineno) for each in caught)]


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
    arguments = setup.args
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    by_name = {argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)}
    if not (positional or arguments.vararg) or positional[:1] == ["device"]:
        yield Finding(ERROR, "setup() must take the model first: def setup(model, device).", line)
    elif positional and positional[0] != "model":
        yield Finding(WARNING, f"setup()'s first argument is called {positional[0]!r}; it is given the model.", line)
    if "device" not in by_name.difference(positional[:1]) and not arguments.kwarg:
        yield Finding(ERROR, "setup() must take an argument with the name device: def setup(model, device).", line)
    needed = positional[1 : len(positional) - len(arguments.defaults)]
    defaults = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    needed += [argument.arg for argument, default in defaults if default is None]
    for name in needed:
        if name != "device":
            yield Finding(ERROR, f"setup() is given a model and a device only: {name!r} needs a default.", line)
