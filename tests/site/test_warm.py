"""``warm`` with a real server on this machine: what arrives is complete or not there, and is not fetched twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
from pathlib import Path

import pytest
from ase import Atoms

from rootstock import RootstockCalculator
from rootstock.admin.weights_download import _publish
from rootstock.errors import ConfigurationError, MissingWeightsError, WorkerStartError
from rootstock.root.layout import RootLayout
from rootstock.root.weights import read_weights
from tests.support import weights_server
from tests.support.commands import SITE, clean_environment, run, started
from tests.support.processes import children, wait_for, wait_until_gone
from tests.support.weights_server import SIZE, Server, Warm

pytestmark = pytest.mark.xdist_group("warm")

built, root, server, warm = weights_server.built, weights_server.root, weights_server.server, weights_server.warm


def everything(root: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in (root / "cache" / "web").rglob("*")} | {
        str(path): path.stat().st_mtime_ns for path in (root / "weights").rglob("*")
    }


def test_what_the_file_lists_is_fetched_once_and_used_without_network(root: Path, server: Server, warm: Warm) -> None:
    shown = warm("--dry-run")
    assert "fetch the weights of web-small (not recorded yet)" in shown.stdout and not server.asked
    warm()
    assert server.asked == ["small", "medium"]
    recorded = read_weights(RootLayout(root), "web")
    assert set(recorded) == {"small", "medium"}
    [file] = recorded["small"].files
    assert (file.path, file.bytes) == ("cache/web/small/epsilon", SIZE)
    assert file.sha256 == hashlib.sha256(b"2.5".ljust(SIZE)).hexdigest()
    assert recorded["small"].sources == (f"{server.url}/small",)  # and no secret
    assert (root / file.path).stat().st_mode & 0o777 == 0o444  # everybody may read this root
    assert not list((root / "cache" / "web").rglob("*.lock")) and not list((root / "cache").glob(".*"))
    before = everything(root)
    again = warm()
    assert "nothing to do" in again.stdout
    assert everything(root) == before and server.asked == ["small", "medium"]
    for model in ("web", "web-small"):
        with RootstockCalculator(model, root=root, device="cpu") as calc:
            atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 2 ** (1 / 6)]], calculator=calc)
            assert atoms.get_potential_energy() == pytest.approx(-2.5, abs=0.2)
    assert server.asked == ["small", "medium"] and everything(root) == before


def test_a_model_with_a_slash_and_readers_modes(root: Path, warm: Warm) -> None:
    plan = json.loads(warm("--env", "web", "--model", "org/large", "--json").stdout)
    assert plan["models"] == [
        {"environment": "web", "model": "org/large", "reason": "not recorded yet", "weights": True}
    ]
    [file] = read_weights(RootLayout(root), "web")["org/large"].files
    assert file.path == "cache/web/org/large/epsilon"


def test_failures_are_named_and_keep_no_other_model_from_arriving(root: Path, server: Server, warm: Warm) -> None:
    done = warm("--model", "web-gone", "--model", "web-cut", "--model", "web-small", code=12)
    assert "web-gone: " in done.stderr and "404" in done.stderr
    assert "web-cut: " in done.stderr and "retrieval incomplete" in done.stderr
    assert set(read_weights(RootLayout(root), "web")) == {"small"}
    assert {path.name for path in (root / "cache" / "web").iterdir()} == {"small"}
    assert not list((root / "cache").glob(".*"))


def test_no_reference_arrives_before_what_it_names(tmp_path: Path) -> None:
    """In a repository that is there already: a job may start in between."""
    for name in ("refs/main", "snapshots/2/model", "blobs/2"):
        for folder in ("new", "cache"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).write_text("2")
    found = [path.relative_to(tmp_path / "cache").parts[0] for path in _publish(tmp_path / "new", tmp_path / "cache")]
    assert found == ["blobs", "snapshots", "refs"]


def test_a_silent_server_is_given_up(root: Path, server: Server, warm: Warm) -> None:
    done = warm("--model", "web-silent", "--timeout", "2", code=12)
    assert "web-silent: " in done.stderr
    assert not (root / "cache" / "web").exists()


def test_weights_in_place_are_recorded_and_not_fetched(root: Path, server: Server, warm: Warm) -> None:
    folder = root / "cache" / "web" / "small"
    folder.mkdir(parents=True)
    (folder / "epsilon").write_text("1.0")
    (folder / "latest").symlink_to("epsilon")
    warm("--model", "web-small")
    weights = read_weights(RootLayout(root), "web")["small"]
    assert [file.path for file in weights.files] == ["cache/web/small/epsilon"] and weights.sources == ()
    assert not server.asked
    (folder / "epsilon").write_text("1.00")
    assert "files are missing" in warm("--model", "web-small", "--dry-run").stdout


def test_weights_that_no_user_would_find_are_an_error(root: Path, warm: Warm) -> None:
    done = warm("--model", "web-elsewhere", code=12)
    assert "a worker without network does not find them" in done.stderr
    assert "[tool.rootstock.cache]" in done.stderr
    assert read_weights(RootLayout(root), "web") == {}


@pytest.mark.parametrize("how", ["variable", "cluster"])
def test_the_proxy_is_used(root: Path, server: Server, warm: Warm, how: str) -> None:
    registry = root / "clusters.toml"
    kept = registry.read_text()
    own = {name for name in os.environ if name.lower().endswith("_proxy")}
    environment = clean_environment(WEB_SERVER="http://weights.invalid")
    environment = {name: value for name, value in environment.items() if name not in own}
    if how == "variable":
        environment["http_proxy"] = server.url
    else:
        registry.write_text(kept + f'[clusters.local.jobs]\nnetwork = "proxy"\nproxy = "{server.url}"\n')
    try:
        run(SITE, "warm", "--yes", "--root", root, "--model", "web-small", env=environment, check=True)
    finally:
        registry.write_text(kept)
    assert server.asked == ["http://weights.invalid/small"]
    assert read_weights(RootLayout(root), "web")["small"].sources == ("http://weights.invalid/small",)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_cut_off_in_the_middle_of_a_download(root: Path, server: Server, warm: Warm, number: signal.Signals) -> None:
    server.go_on.clear()
    command = (SITE, "warm", "--yes", "--root", root, "--model", "web-small")
    with started(command, env=clean_environment(WEB_SERVER=server.url)) as process:
        arrived = "a part of the weights"
        wait_for(lambda: [path for path in root.glob("cache/.staging-*/**/epsilon") if path.stat().st_size], arrived)
        workers = children(process.pid)
        assert workers
        process.send_signal(number)
        assert process.wait() == (130 if number == signal.SIGINT else -number)
        wait_until_gone(*workers)
    assert not (root / "cache" / "web").exists() and read_weights(RootLayout(root), "web") == {}
    leftovers = list((root / "cache").glob(".staging-*"))
    assert bool(leftovers) == (number == signal.SIGKILL)
    server.go_on.set()
    warm("--model", "web-small")
    assert list(read_weights(RootLayout(root), "web")) == ["small"]
    assert not list((root / "cache").glob(".staging-*"))


def test_missing_weights_name_the_command(root: Path, server: Server, warm: Warm) -> None:
    for model, name in (("web-small", "small"), ("web-rude", "rude"), ("web-org/large", "org/large")):
        with pytest.raises(MissingWeightsError) as caught:
            RootstockCalculator(model, root=root, device="cpu").start()
        command = f"rootstock-site warm --root {root} --env web --model {name}"
        assert command in str(caught.value) and f"The weights of model {name!r}" in str(caught.value)
    assert not server.asked
    program, *words = command.split()
    run(SITE.with_name(program), *words, "--yes", env=clean_environment(WEB_SERVER=server.url), check=True)
    RootstockCalculator("web-org/large", root=root, device="cpu").start().close()


def test_wrong_models_are_refused_before_a_worker_starts(root: Path, warm: Warm, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"no model 'smal'. It has: medium, small, .*\nDid you mean 'web-small"
    ):
        RootstockCalculator("web-smal", root=root, device="cpu")
    assert "has no model 'smal'" in warm("--env", "web", "--model", "smal", code=3).stderr
    assert "nothing to fetch" in warm("--env", "web", "--model", "/x/y", code=3).stderr
    own = tmp_path / "mine"
    with pytest.raises(WorkerStartError, match="No such file") as caught:
        RootstockCalculator(f"web-{own}", root=root, device="cpu").start()
    assert not isinstance(caught.value, MissingWeightsError)  # no admin can fetch that
    own.write_text("3.0")
    RootstockCalculator(f"web-{own}", root=root, device="cpu").start().close()


def test_an_owners_worker_writes_no_more_than_a_readers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library would write under the root, in its own root it could: the weights then fit the owner only."""
    path = root / "environments" / "web.py"
    build = (root / "active" / "web").resolve() / "environment.py"
    assert path.read_text() == build.read_text()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        monkeypatch.setenv("WEB_SERVER", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(MissingWeightsError, match="refused"):
            RootstockCalculator("web-rude", root=root, device="cpu").start()
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not (root / "cache" / "web").exists()
