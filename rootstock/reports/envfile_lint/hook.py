"""How an environment file computes many structures together: the methods that a calculator may have for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from rootstock.config.model_string import did_you_mean
from rootstock.reports.envfile_lint.finding import ERROR, WARNING, Finding, Findings

# What each is called with, besides the calculator.
_ARGUMENTS = {"calculate_batch": ("images", "properties"), "batch_cost": ("images",)}
NAMES = (*_ARGUMENTS, "fixed_shapes")

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def hook_lines(tree: ast.Module) -> dict[str, int]:
    """Return which of the `NAMES` a file gives a calculator, and the first line of each, in that order."""
    lines: dict[str, int] = {}
    for name, line, _ in sorted(_given(tree), key=lambda each: each[1]):
        lines.setdefault(name, line)
    return lines


def check_hook(tree: ast.Module) -> Findings:
    """Yield what is wrong with how a file computes many structures together."""
    lines = hook_lines(tree)
    for name, _, node in _given(tree):
        if isinstance(node, _Function):
            yield from _check_method(name, node)
        elif name == "fixed_shapes" and node is not None:
            yield from _check_shapes(node)
    for function in tree.body:
        if isinstance(function, _Function) and function.name in _ARGUMENTS and function.name not in lines:
            text = f"the worker looks for {function.name}() in the calculator: make it a method of its class."
            yield Finding(WARNING, text, function.lineno)
    if lines and "calculate_batch" not in lines:
        name = next(iter(lines))
        text = f"the worker uses {name} only with calculate_batch(images, properties), which no class here defines."
        yield Finding(WARNING, text, lines[name])
    for function in _methods(tree) if "calculate_batch" not in lines else ():
        name = function.name
        if "batch" in name and name[0] != "_" and (meant := did_you_mean(name, ["calculate_batch"])):
            yield Finding(WARNING, f"the worker ignores method {name}().{meant}", function.lineno)


def _given(tree: ast.Module) -> Iterator[tuple[str, int, ast.AST | None]]:
    """Yield each method and attribute that is one of the `NAMES`: its name, its line, and what it is."""
    for function in _methods(tree):
        if function.name in NAMES:
            yield function.name, function.lineno, function
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                for target in _targets(statement):
                    if isinstance(target, ast.Name) and target.id in NAMES:
                        yield target.id, statement.lineno, getattr(statement, "value", None)
        for target in _targets(node):
            if isinstance(target, ast.Attribute) and target.attr in NAMES:
                yield target.attr, target.lineno, getattr(node, "value", None)


def _methods(tree: ast.Module) -> Iterator[_Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (statement for statement in node.body if isinstance(statement, _Function))


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) and node.value is not None else []


def _check_method(name: str, function: _Function) -> Findings:
    line = function.lineno
    if isinstance(function, ast.AsyncFunctionDef):
        yield Finding(ERROR, f"{name}() must be an ordinary method, not async.", line)
    if function.decorator_list or name not in _ARGUMENTS:  # what a decorator makes of the arguments, nobody knows
        return
    arguments = function.args
    count = 1 + len(_ARGUMENTS[name])
    positional = [*arguments.posonlyargs, *arguments.args]
    needed = len(positional) - len(arguments.defaults)
    by_name = any(default is None for default in arguments.kw_defaults)
    if needed > count or by_name or not (arguments.vararg or len(positional) >= count):
        expected = ", ".join(("self", *_ARGUMENTS[name]))
        yield Finding(ERROR, f"{name}() must take what the worker gives it: def {name}({expected}).", line)


def _check_shapes(value: ast.AST) -> Findings:
    try:
        shapes = ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError):
        return  # known when it runs
    numbers = list(shapes) if isinstance(shapes, (list, tuple)) else [shapes]
    good = all(isinstance(each, (int, float)) and not isinstance(each, bool) and each > 0 for each in numbers)
    if not isinstance(shapes, (list, tuple)) or not good or numbers != sorted(set(numbers)):
        text = f"fixed_shapes must be ascending sizes, such as (64, 256, 1024), not {ast.unparse(value)}."
        yield Finding(ERROR, text, getattr(value, "lineno", None))
