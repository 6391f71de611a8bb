"""Rules about the code that no linter knows."""

from __future__ import annotations

import ast
import pkgutil
import re
import sys
import zipfile
from pathlib import Path

import pytest

from rootstock.builds.own_wheel import WHEEL_NAME, wheel_bytes
from rootstock.builds.uv import find_uv
from rootstock.config.environment_file import packaged_names, packaged_source
from rootstock.config.packaged import PACKAGE
from tests.support.commands import run

MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "_data" not in path.parts]


def joined(path: Path) -> set[str]:
    """Return the texts that a module joins to paths."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ends = [node.right for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)]
    return {node.value for node in ends if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_only_layout_knows_paths_under_the_root() -> None:
    folders = {"builds", "active", "client", "runtime", "generations", "locks", "rootstock.toml"}
    assert folders <= joined(PACKAGE / "root/layout.py")
    for path in MODULES:
        if path != PACKAGE / "root/layout.py":
            assert not joined(path) & folders, path


def test_only_uv_runs_uv() -> None:
    users = {path for path in MODULES if re.search(r"\bfind_uv\b", path.read_text(encoding="utf-8"))}
    assert users == {PACKAGE / "builds/uv.py", PACKAGE / "client/uv_run.py"}  # which names it in a worker's command


def test_the_worker_side_pickles_and_evaluates_nothing() -> None:
    for path in MODULES:
        if path.is_relative_to(PACKAGE / "worker") and path != PACKAGE / "worker/environment_file.py":
            found = set(re.findall(r"\b(pickle|eval|exec|marshal|ctypes)\b", path.read_text(encoding="utf-8")))
            # It asks the C library for two attributes of its own process; nothing that was received comes near.
            assert found <= ({"ctypes"} if path == PACKAGE / "worker/descendants.py" else set()), path


def test_modules_and_functions_stay_small() -> None:
    """A module of 300 lines and a function of 50, without its docstring, can be read at once."""
    long = []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        long += [f"{path}: {lines} lines"] if (lines := text.count("\n")) > 300 else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = [each for each in node.body[:1] if ast.get_docstring(node, clean=False) is not None]
                documented = sum(_lines(each) for each in docstring)
                if (lines := _lines(node) - documented) > 50:
                    long.append(f"{path}:{node.lineno}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)


def test_the_sum_with_dispersion_is_the_same_in_every_environment_file() -> None:
    """Each file stands alone, so there are copies: what is mended in one is mended in all."""
    texts = [packaged_source(name).text for name in packaged_names()]
    offering = [text for text in texts if '# dispersion = "offered"' in text]
    classes = [re.findall(r"^class Dispersed\b.*?(?=^\S)", text, re.MULTILINE | re.DOTALL) for text in offering]
    assert len(offering) > 1 and all(len(each) == 1 for each in classes) and len({each[0] for each in classes}) == 1


def test_names_in_comments_and_docstrings_are_there() -> None:
    named = {
        name for path in MODULES for name in re.findall(r"`(rootstock(?:\.\w+)+)`", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    for name in named - {"rootstock.toml"}:
        pkgutil.resolve_name(name)


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wheel") / WHEEL_NAME
    path.write_bytes(wheel_bytes())
    return path


def test_our_wheel_holds_what_hatchling_puts_into_one(wheel: Path, tmp_path: Path) -> None:
    run(find_uv(), "build", "--wheel", "-q", "-o", tmp_path, PACKAGE.parent, check=True)
    built = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(built) as theirs, zipfile.ZipFile(wheel) as ours:

        def files(archive: zipfile.ZipFile) -> dict[str, bytes]:
            return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}

        assert files(ours) == files(theirs)
        assert built.name == wheel.name


def test_a_wheel_works_as_a_checkout_does(wheel: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "env"
    run(find_uv(), "venv", "-q", "--python", sys.executable, prefix, check=True)
    run(find_uv(), "pip", "install", "-q", "--python", prefix / "bin/python", wheel, check=True)
    code = "import rootstock.config.render; from rootstock.config.environment_file import packaged_names; "
    code += "from rootstock import CLUSTER_REGISTRY as c"
    program = f"{code}; print(packaged_names(), dict(c)['modal'])"
    done = run(prefix / "bin/python", "-I", "-c", program, cwd=tmp_path, check=True)
    assert done.stdout.strip() == f"{packaged_names()} /vol/rootstock"
    assert "install" in run(prefix / "bin/rootstock-site", "--help", check=True).stdout
