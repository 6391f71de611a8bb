"""The rules of the tests themselves."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.environment_files import NO_MATPLOTLIB, QUICK_SCIPY, header
from tests.support.folders import once_per_run
from tests.support.needs import need, need_program
from tests.support.processes import wait_for

TESTS = Path(__file__).parent
# They run in environments and on nodes of their own, where there is no other module of the tests.
ALONE = ("programs",)


def calls(*names: str) -> Iterator[str]:
    """Yield where a test calls functions of such names, such as ``subprocess.run``."""
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in names and path.parent.name not in ALONE:
                yield path.relative_to(TESTS).as_posix()


def test_one_function_runs_programs() -> None:
    assert set(calls("subprocess.run", "subprocess.check_output", "os.system")) == {"support/commands.py"}


def test_one_function_decides_what_is_skipped() -> None:
    assert set(calls("pytest.skip", "pytest.importorskip", "pytest.mark.skip")) == {"support/needs.py"}
    assert set(calls("pytest.mark.skipif")) <= {"gpu/test_gpu.py", "models/test_orb.py"}  # of one GPU, of one Python


@pytest.mark.parametrize("value", ["true", "1", "yes"])
def test_what_is_missing_fails_in_ci(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CI", value)
    with pytest.raises(pytest.fail.Exception, match=r"the program nosuchprogram \(apt-get install nothing\)"):
        need_program("nosuchprogram", "nothing")
    need(True, "nothing")
    assert need_program("sh", "dash").endswith("/sh")


@pytest.mark.parametrize("value", ["", None])
def test_what_is_missing_skips_elsewhere(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setenv("CI", value) if value is not None else monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="a second processor"):
        need(False, "a second processor")


def test_headers_of_environment_files() -> None:
    text = header("[tool.rootstock]", 'cache = { A = "b" }', dependencies=("ase>=3.23", "torch"))
    assert text == (
        '# /// script\n# requires-python = ">=3.10"\n# dependencies = ["ase>=3.23", "torch"]\n# [tool.rootstock]\n'
        f'# cache = {{ A = "b" }}\n# [tool.uv]\n# override-dependencies = ["{NO_MATPLOTLIB}"]\n'
        f'# constraint-dependencies = ["{QUICK_SCIPY}"]\n# ///\n'
    )
    one = header("[tool.uv]", "no-index = true", dependencies=("ase",), python="")
    assert one.count("[tool.uv]") == 1 and "requires-python" not in one
    assert "matplotlib" not in header(dependencies=("six",))


def test_a_folder_is_made_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    made: list[Path] = []
    for _ in range(2):
        folder = once_per_run(tmp_path_factory, f"once-{id(made)}", made.append)
    assert made == [folder]


@pytest.mark.xdist_group("probe")
def test_a_group_of_tests_is_one(request: pytest.FixtureRequest) -> None:
    """A pytest-xdist that does not know this pytest deals them out one by one, without a word."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@probe")


def test_waiting_looks_again_and_has_an_end() -> None:
    looks = iter([False, False, True])
    wait_for(lambda: next(looks), "the third look")
    with pytest.raises(AssertionError, match="a miracle: not after 0 s"):
        wait_for(lambda: False, "a miracle", 0.0)
