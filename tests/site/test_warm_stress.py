"""``warm`` on a disk that fills up, twice at the same time, and killed before each change that it makes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rootstock.root.layout import RootLayout
from rootstock.root.weights import read_weights
from tests.support import weights_server
from tests.support.commands import SITE, clean_environment, read_until, run, started
from tests.support.folders import small_disk
from tests.support.needs import need_program
from tests.support.processes import wait_for
from tests.support.tracing import at_change, changes_made_by, quiet_environment
from tests.support.weights_server import SIZE, Server, Warm, forget

pytestmark = pytest.mark.xdist_group("warm")

built, root, server, warm = weights_server.built, weights_server.root, weights_server.server, weights_server.warm

SMALL = ("--model", "web-small")


@pytest.mark.parametrize("where", ["cache", "weights"])
def test_a_full_disk(root: Path, server: Server, warm: Warm, where: str) -> None:
    layout = RootLayout(root)
    with small_disk(root / where, "size=48k", "mode=755"):
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
        run("mount", "-o", "remount,size=1m", root / where, check=True)
        warm(*SMALL)
        assert list(read_weights(layout, "web")) == ["small"]


def test_two_at_once(root: Path, server: Server, warm: Warm) -> None:
    """The second says who is at work; one that waits finds nothing left to fetch."""
    server.go_on.clear()
    command = (SITE, "warm", "--yes", "--root", root, *SMALL)
    variables = clean_environment(WEB_SERVER=server.url)
    with started(command, env=variables) as first:
        wait_for(lambda: server.asked, "the first download")
        refused = warm(*SMALL, code=None)
        assert refused.returncode == 11, refused.stderr
        assert str(first.pid) in refused.stderr
        with started([*command, "--wait", "600"], env=variables) as second:
            assert str(first.pid) in read_until(second, "waiting for")[-1]
            server.go_on.set()
            for each in (first, second):
                _, said = each.communicate()
                assert each.returncode == 0, said
    assert server.asked == ["small"]
    assert [file.bytes for file in read_weights(RootLayout(root), "web")["small"].files] == [SIZE]


def test_killed_before_each_change(root: Path, server: Server, warm: Warm, tmp_path: Path) -> None:
    need_program("strace", "strace")
    command = [str(SITE), "warm", "--yes", "--root", str(root), *SMALL]
    layout = RootLayout(root)
    found = changes_made_by(command, tmp_path / "log", WEB_SERVER=server.url)
    moves = [number for name, number, arguments in found if name == "rename" and str(root) in arguments]
    assert len(moves) >= 3  # of what was fetched, of its record, and of the root's
    for number in moves:
        forget(root)
        done = run(*at_change("rename", number, "KILL"), *command, env=quiet_environment(WEB_SERVER=server.url))
        assert done.returncode == -signal.SIGKILL
        assert (layout.cache / "web" / "small").exists() or read_weights(layout, "web") == {}
        warm(*SMALL)
        [file] = read_weights(layout, "web")["small"].files
        assert (root / file.path).read_bytes() == b"2.5".ljust(SIZE)
        assert not list(layout.cache.glob(".*"))
