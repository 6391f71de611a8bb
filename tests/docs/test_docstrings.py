"""Public docstrings are numpydoc: what two arguments or more mean, and which errors a function raises, is said."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootstock.config.packaged import PACKAGE


def public_functions(body: list[ast.stmt]) -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Yield name, function and docstring: that of the class for its `__init__`; no commands, where it is help."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for name, method, text in public_functions(node.body):
                yield f"{node.name}.{name}", method, text or ast.get_docstring(node) or ""
        elif isinstance(node, ast.FunctionDef) and re.match(r"__init__$|[a-z]", node.name):
            if any(re.search(r"\b(command|group)\b", ast.unparse(each)) for each in node.decorator_list):
                continue
            yield node.name, node, ast.get_docstring(node) or ""


def arguments_of(function: ast.FunctionDef) -> list[str]:
    """Return the names of a function's arguments, but for the object itself."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def raised_by(node: ast.AST) -> Iterator[str]:
    """Yield the classes that a function raises by name; not in functions inside it, nor what it passes on."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
            name = ast.unparse(child.exc.func).rpartition(".")[2]
            if re.fullmatch(r"[A-Z]\w*", name):
                yield name
        yield from raised_by(child)


def section(text: str, title: str) -> str:
    """Return a section of a docstring; empty without one."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def missing(function: ast.FunctionDef, text: str) -> list[str]:
    """Return what a docstring does not say."""
    described = {name.strip("* ") for line in re.findall(r"^(\S.*)$", section(text, "Parameters"), re.MULTILINE)
                 for name in line.partition(" : ")[0].split(",")}  # fmt: skip
    names = arguments_of(function)
    lacking = [name for name in names if name not in described] if len(names) > 1 or described else []
    raised = set(raised_by(function)) - {"NotImplementedError"}
    if raised and not section(text, "Raises"):
        lacking += [f"raises {name}" for name in sorted(raised)]
    return lacking


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_describe_arguments_and_errors(path: Path) -> None:
    functions = public_functions(ast.parse(path.read_text(encoding="utf-8")).body)
    assert not {name: lacking for name, function, text in functions if (lacking := missing(function, text))}
