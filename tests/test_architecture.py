"""ARCHITECTURE.md against the code: a page that leads to the wrong file is worse than none."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import grimp

from rootstock.config.packaged import PACKAGE

PAGE = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
MODULES = {path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts}


def rows() -> dict[str, str]:
    """Return the third cell of the table's rows, by package."""
    cells = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    return {name: row[-1] for row in cells for name in re.findall(r"`([\w/]+)`", row[0])}


def test_the_table_names_every_module() -> None:
    top = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert {name.rstrip("/") for name in rows()} == top
    for package, cell in rows().items():
        named = set(re.findall(r"`(\w+/?)`", cell))
        inside = {path for path in MODULES if path.is_relative_to(PACKAGE / package.rstrip("/"))}
        folders = {f"{path.parent.name}/" for path in inside} - {package}
        listed = {path.stem for path in inside} - {"__init__"} | folders
        assert listed <= named, package
        assert named <= listed | {"__init__", "admin", "overhead"}, package  # these two are spoken of elsewhere


def test_the_picture_has_the_arrows_that_there_are() -> None:
    graph = grimp.build_graph("rootstock", exclude_type_checking_imports=True, cache_dir=None)
    packages = {name.partition(".")[2] for name in graph.find_children("rootstock")}

    def imports(importer: str, imported: str) -> bool:
        names = {"importer": f"rootstock.{importer}", "imported": f"rootstock.{imported}"}
        return importer != imported and graph.direct_import_exists(**names, as_packages=True)

    edges = {(a, b) for a in packages for b in packages if imports(a, b)}

    def below(package: str) -> set[str]:
        direct = {b for a, b in edges if a == package}
        return direct.union(*map(below, direct))

    implied = {(a, b) for a, b in edges if any(b in below(c) for x, c in edges if x == a and c != b)}
    assert set(re.findall(r"^ +(\w+) --> (\w+)$", PAGE, re.M)) == edges - implied


def defined(path: Path) -> set[str]:
    """Return the classes, functions and methods of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return names


def test_the_walks_name_functions_that_are_there() -> None:
    walks = re.findall(r"^### (.*?)\n(.*?)(?=^##)", PAGE, re.M | re.S)
    assert len(walks) == 8
    for title, text in walks:
        steps = re.findall(r"`([\w/]+\.py)`\s+`([\w.]+)`(?:\s+and\s+`([\w.]+)`)?", text)
        assert len(steps) > 5, title
        for file, *names in steps:
            assert set(filter(None, names)) <= defined(PACKAGE / file), (title, file)


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)`", PAGE)
    missing = [name for name in named if not (PACKAGE / name).exists() and not (PACKAGE.parent / name).exists()]
    assert named and not missing
