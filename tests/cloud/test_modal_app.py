"""The app as Modal's own client sends it to a server, which here is a stand-in on the loopback device."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import modal
import pytest

import modal_app
from rootstock import get_root_for_cluster
from rootstock.builds.uv import find_uv
from rootstock.config.clusters import cluster_from, packaged_scopes
from rootstock.errors import LockBusyError
from tests.support.commands import REPOSITORY, Done, run
from tests.support.processes import wait_for

SERVER = Path(__file__).parent / "programs" / "modal_server.py"
GUIDE = REPOSITORY / "docs" / "guides" / "modal.md"
MODAL = Path(sys.executable).with_name("modal")


pytestmark = pytest.mark.xdist_group("modal")


def run_modal(home: Path, *arguments: str, **variables: str) -> Done:
    """Run Modal's client without anybody's token or settings."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MODAL_")}
    return run(MODAL, *arguments, cwd=REPOSITORY, env={**env, "HOME": str(home), "COLUMNS": "100", **variables})


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what ``modal deploy modal_app.py`` sends."""
    folder = tmp_path_factory.mktemp("modal")
    port, sent = folder / "port", folder / "requests"
    with subprocess.Popen([sys.executable, str(SERVER), str(port), str(sent)]) as server:
        try:
            wait_for(lambda: port.exists() or server.poll() is not None, "the server's port")
            url = f"http://127.0.0.1:{port.read_text()}"
            done = run_modal(
                folder, "deploy", "modal_app.py", MODAL_SERVER_URL=url, MODAL_TOKEN_ID="ak-none",
                MODAL_TOKEN_SECRET="as-none",
            )  # fmt: skip
        finally:
            server.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in sent.read_text().splitlines()]


def calls(requests: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [request for request in requests if request["call"] == name]


@pytest.fixture(scope="module")
def functions(requests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {call["function"]["function_name"]: call["function"] for call in calls(requests, "FunctionCreate")}


def as_documented(function: dict[str, Any]) -> tuple[str, ...]:
    """Return what the guide's table says of a function."""
    volume = function["volume_mounts"][0]
    gpu = function["resources"]["gpu_config"]
    return (
        "read only" if volume.get("read_only") else "written",
        gpu.get("gpu_type", "none"),
        f"{function['timeout_secs'] // 60} min",
        str(function["autoscaler_settings"].get("max_containers", "any")),
        "none" if function.get("block_network") else "open",
    )


def test_the_functions_are_those_of_the_guide(functions: dict[str, dict[str, Any]]) -> None:
    rows = [re.split(r"\s*\|\s*", line.strip("| \n")) for line in GUIDE.read_text().splitlines() if "| `" in line]
    documented = {row[0].strip("`"): tuple(row[1:6]) for row in rows}
    assert list(documented) == list(modal_app.STEPS)  # in the order in which they run
    assert {name: as_documented(function) for name, function in functions.items()} == documented


def test_one_volume_at_the_root_and_no_secrets(
    requests: list[dict[str, Any]], functions: dict[str, dict[str, Any]]
) -> None:
    assert {call["deployment_name"] for call in calls(requests, "VolumeGetOrCreate")} == {"rootstock-data"}
    for function in functions.values():
        assert [mount["mount_path"] for mount in function["volume_mounts"]] == [str(get_root_for_cluster("modal"))]
        assert "secret_ids" not in function


def test_the_image_installs_this_package_and_nothing_else(requests: list[dict[str, Any]]) -> None:
    images = [call["image"] for call in calls(requests, "ImageGetOrCreate")]
    assert images[0]["dockerfile_commands"][0].startswith("FROM python:3.11.")
    assert [image["dockerfile_commands"][1:] for image in images[1:]] == [
        ["COPY . /"],
        ["RUN python -m pip install --no-cache-dir /opt/rootstock"],
    ]
    assert images[1]["context_mount_id"]


def test_the_files_in_the_image_are_an_installable_package(requests: list[dict[str, Any]], tmp_path: Path) -> None:
    mounts = [call.get("files", []) for call in calls(requests, "MountGetOrCreate")]
    sent = {file["filename"] for files in mounts for file in files}
    assert {name for name in sent if not name.startswith("/opt/rootstock/")} == {"/root/modal_app.py"}
    source = tmp_path / "source"
    for name in sorted(sent - {"/root/modal_app.py"}):
        relative = Path(name).relative_to("/opt/rootstock")
        (source / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / relative, source / relative)
    target = tmp_path / "installed"
    run(find_uv(), "pip", "install", "-q", "--no-deps", "--target", target, source, check=True)
    assert (target / "rootstock" / "_data" / "environments" / "mace.py").is_file()
    assert (target / "rootstock" / "_data" / "site_templates" / "clusters" / "modal.toml").is_file()


def test_uv_locks_its_cache_on_the_containers_own_disk() -> None:
    cache = Path(cluster_from(packaged_scopes(), "modal").uv_cache).expanduser()
    assert cache.is_absolute()
    assert not cache.is_relative_to(modal_app.ROOT)


def test_without_a_token_modal_says_so(tmp_path: Path) -> None:
    done = run_modal(tmp_path, "run", "modal_app.py")
    assert done.returncode == 1
    assert "Token missing" in done.stderr
    help_text = run_modal(tmp_path, "run", "modal_app.py::build_environments", "--help")
    assert "--environments" in help_text.stdout


class Leases(dict[str, str]):
    """A dictionary with the two methods of `modal.Dict` that differ."""

    def put(self, key: str, value: str, *, skip_if_exists: bool) -> bool:
        if skip_if_exists and key in self:
            return False
        self[key] = value
        return True


class Volume:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def reload(self) -> None:
        self.calls.append("reload")

    def commit(self) -> None:
        self.calls.append("commit")


def test_one_writer_at_a_time() -> None:
    leases = Leases()
    with modal_app.exclusive_writer(leases, "first"):
        with pytest.raises(LockBusyError, match="another call of this app, first.\nIf that one is no more"):
            modal_app.change_volume(Volume(), leases, "second", lambda: pytest.fail("two writers"))
        with modal_app.exclusive_writer(leases, "first"):  # the same call, which Modal has moved to another container
            pass
    volume = Volume()
    assert modal_app.change_volume(volume, leases, "second", lambda: len(leases)) == 1
    assert volume.calls == ["reload", "commit"]
    assert not leases
    with modal_app.exclusive_writer(leases, "first"):
        leases["writer"] = "second"  # somebody has cleared the lease, and another call took it
    assert leases == {"writer": "second"}


def test_what_was_done_before_a_failure_is_committed() -> None:
    volume, leases = Volume(), Leases()
    with pytest.raises(ZeroDivisionError):
        modal_app.change_volume(volume, leases, "me", lambda: 1 // 0)
    assert volume.calls == ["reload", "commit"]
    assert not leases


def test_modals_own_classes_have_what_is_used_of_them() -> None:
    import inspect

    assert inspect.signature(modal.Dict.put).parameters["skip_if_exists"].kind is inspect.Parameter.KEYWORD_ONLY
    assert all(callable(getattr(modal.Dict, name)) for name in ("get", "pop"))
    assert all(callable(getattr(modal.Volume, name)) for name in ("reload", "commit"))


@pytest.mark.parametrize(("tested", "checked"), [(True, True), (True, False), (False, True)])
def test_the_outcome_of_a_run(tested: bool, checked: bool, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = {"init_rootstock_volume": {"empty": True}, "a": {"passed": tested}, "b": {"passed": checked}}
    assert modal_app.exit_code(outcomes) == (0 if tested and checked else 1)
    assert capsys.readouterr().out.splitlines() == [
        "init_rootstock_volume: done",
        f"a: {'passed' if tested else 'FAILED'}",
        f"b: {'passed' if checked else 'FAILED'}",
    ]  # fmt: skip
