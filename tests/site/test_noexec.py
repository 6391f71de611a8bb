"""A root on a file system that is mounted with noexec: the mount is named, and no build is blamed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import ROOTSTOCK, SITE, Done, run
from tests.support.folders import small_disk
from tests.support.needs import need_program, need_root


@pytest.fixture
def noexec(root: Path) -> Callable[..., Done]:
    """Return the function that runs a command where the root is mounted with noexec, which nobody else sees."""
    need_root()
    unshare = need_program("unshare", "util-linux")
    mount = f"mount --bind {root} {root} && mount -o remount,bind,noexec {root}"

    def call(*words: str | Path) -> Done:
        return run(unshare, "--mount", "sh", "-euc", f"{mount}; exec {shlex.join(map(str, words))}")

    return call


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("why-not", "emt"), 10),
        (("doctor", "--device", "cpu", "--wait", "200"), 10),
        (("singlepoint", "emt", "{atom}", "--device", "cpu", "-o", "{output}"), 10),
    ],
)
def test_users_are_told_of_the_mount(noexec, root, tmp_path, command, code):
    (tmp_path / "atom.xyz").write_text("1\n\nCu 0 0 0\n")
    names = {"atom": tmp_path / "atom.xyz", "output": tmp_path / "output.xyz"}
    done = noexec(ROOTSTOCK, *(word.format(**names) for word in command), "--root", root)
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert f"{root} is mounted with the option noexec on this node." in text
    assert "build it again" not in text and "numpy" not in text.lower()


def test_a_calculator_is_not_started(noexec, root):
    code = f"import ase, rootstock; rootstock.RootstockCalculator('emt', root={str(root)!r}, device='cpu').start()"
    done = noexec(SITE.with_name("python"), "-c", code)
    assert f"RootError: Nothing may run from {root}/builds/emt/" in done.stderr


def test_an_installation_is_refused_before_anything_is_made(site, tiny, tmp_path):
    with small_disk(tmp_path / "disk with a space", "noexec", "mode=755") as folder:
        options = ["--cluster", "local", "--root", folder / "root", "--no-client", "--env", tiny]
        for more in ([], ["--dry-run"]):
            done = site("install", *options, *more, check=False)
            assert done.returncode == 10
            assert done.stderr.splitlines()[-2] == (
                f"Error: Nothing may run from {folder}/root: {folder} is mounted with the option noexec on this node."
            )
        assert not (folder / "root").exists()
