"""``warm`` on a disk that fills up, twice at the same time, and killed before each change that it makes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from rootstock.root.weights import read_weights
from tests.conftest import SITE, clean_environment, need
from tests.site import test_warm
from tests.site.stress import at_change, changes_made_by, need_programs, need_root, run, site_variables, wait_for
from tests.site.test_warm import SIZE, Server

built, root, server, warm = test_warm.built, test_warm.root, test_warm.server, test_warm.warm

SMALL = ("--model", "web-small")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Lay a file system of its own over a folder."""
    need_root()
    folder.mkdir(exist_ok=True)
    mounted = run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder])
    need(mounted.returncode == 0, f"the right to mount ({mounted.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True, timeout=30)


@pytest.mark.parametrize("where", ["cache", "weights"])
def test_a_full_disk(root: Path, server: Server, warm, where: str) -> None:
    layout = RootLayout(root)
    with small_disk(root / where, "48k"):
        (root / where / "ballast").write_bytes(b"\0" * (1 if where == "cache" else 48 * 1024))
        done = warm(*SMALL, code=None)
        assert done.returncode in (10, 12, 16), done.stderr
        assert "No space left on device" in done.stderr
        ours, _, _ = done.stderr.partition("In the worker:")  # what its library said stands below
        assert "Traceback" not in ours and ours.count("\nError: ") == 1
        assert read_weights(layout, "web") == {}
        assert not list(layout.cache.glob(".*")) and not list((root / "weights").rglob(".*"))
        if where == "cache":  # what is there in part must not be taken for weights
            assert not (layout.cache / "web" / "small").exists()
        subprocess.run(["mount", "-o", "remount,size=1m", root / where], check=True, timeout=30)
        warm(*SMALL)
        assert list(read_weights(layout, "web")) == ["small"]


def test_two_at_once(root: Path, server: Server, warm) -> None:
    """The second says who is at work; one that waits finds nothing left to fetch."""
    server.slow.set()
    command = [SITE, "warm", "--root", root, *SMALL]
    variables = clean_environment(WEB_SERVER=server.url)
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as first:
        wait_for(lambda: server.asked, "the first download", 60.0)
        refused = warm(*SMALL, code=None)
        assert refused.returncode == 11, refused.stderr
        assert str(first.pid) in refused.stderr
        with subprocess.Popen([*command, "--wait", "60"], env=variables, stderr=subprocess.PIPE, text=True) as second:
            server.slow.clear()
            _, said = first.communicate(timeout=100)
            assert first.returncode == 0, said
            _, said = second.communicate(timeout=100)
            assert second.returncode == 0, said
    assert server.asked == ["small"]
    assert [file.bytes for file in read_weights(RootLayout(root), "web")["small"].files] == [SIZE]


def test_killed_before_each_change(root: Path, server: Server, warm, tmp_path: Path) -> None:
    need_programs(strace="strace")
    command = [str(SITE), "warm", "--root", str(root), *SMALL]
    environment = site_variables(WEB_SERVER=server.url)
    layout = RootLayout(root)

    def forget() -> None:
        remove_tree(layout.cache / "web")
        for record in layout.all_weights.rglob("*.json"):
            record.unlink()

    found = changes_made_by(command, tmp_path / "log", env=environment)
    moves = [number for name, number, arguments in found if name == "rename" and str(root) in arguments]
    assert len(moves) >= 3  # of what was fetched, of its record, and of the root's
    for number in moves:
        forget()
        done = run([*at_change("rename", number, "KILL"), *command], env=environment)
        assert done.returncode == -signal.SIGKILL
        assert (layout.cache / "web" / "small").exists() or read_weights(layout, "web") == {}
        warm(*SMALL)
        [file] = read_weights(layout, "web")["small"].files
        assert (root / file.path).read_bytes() == b"2.5".ljust(SIZE)
        assert not list(layout.cache.glob(".*"))
