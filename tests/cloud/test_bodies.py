"""What the functions of the app do, on this machine: a root in a folder, no locks there, and no GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modal_app
from rootstock.client.resolve import resolve_environment
from rootstock.errors import BuildError, ConfigurationError, WorkerError
from rootstock.reports.overhead import InProcess, copper, sanity_check, summary, verdict
from rootstock.reports.trial import Check, try_root
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build, read_build
from rootstock.root.weights import weights_of
from tests.support.commands import REPOSITORY, Done, clean_environment, run
from tests.support.environment_files import SMALL_ASE
from tests.support.no_flock import without_flock

CALL = """
import json, sys
import modal_app
root, environments, options = sys.argv[1], sys.argv[2].split(","), json.loads(sys.argv[3])
plan = modal_app.install(root, environments, **options)
if options["build"]:
    plan["warm"] = modal_app.warm(root, environments)
print("PLAN", json.dumps(plan))
"""

pytestmark = pytest.mark.xdist_group("cloud")

Install = Callable[..., Done]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cloud")


@pytest.fixture(scope="module")
def install(base: Path) -> Install:
    """Return `modal_app.install` in a process that finds no locks under the root, as in a container with a Volume."""

    def call(environments: str, *, root: Path = base / "root", **options: Any) -> Done:
        settings = ("hardware.accelerator=cpu", *SMALL_ASE, *options.get("settings", ()))
        env = clean_environment(HOME=str(base / "home"), XDG_CONFIG_HOME=str(base), **without_flock(base, root))
        arguments = (root, environments, json.dumps(options | {"settings": settings}))
        return run(sys.executable, "-c", CALL, *arguments, cwd=REPOSITORY, env=env, timeout=600)

    return call


@pytest.fixture(scope="module")
def bare(install: Install, base: Path) -> Path:
    """Return a root as `init_rootstock_volume` leaves it."""
    done = install("lj,emt", build=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.partition("PLAN")[2])["created"]
    return base / "root"


def failed(found: dict[str, Any]) -> list[str]:
    """Return the checks that failed, but for those of how long something took; for these there is `test_limits`."""
    assert found["passed"] == all(check["passed"] for check in found["checks"])
    names = [check["name"] for check in found["checks"] if not check["passed"]]
    return [name for name in names if not name.endswith(", seconds")]


def test_a_new_root_has_environments_and_no_builds(bare: Path) -> None:
    layout = RootLayout(bare)
    assert sorted(path.name for path in layout.environments.iterdir()) == ["emt.py", "lj.py"]
    assert list(layout.all_builds.iterdir()) == []
    assert 'default = "modal"' in layout.clusters_file.read_text()


def test_cold_and_warm_without_a_build(bare: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run makes the environment, in a cache that holds nothing; the second finds it."""
    monkeypatch.setenv("HOME", str(base / "cold"))
    said: list[str] = []
    cache = base / "cold" / ".cache" / "rootstock" / "uv"
    assert not cache.exists()
    found = try_root(bare, "cpu", report=said.append, model="lj", other="emt", crystal="emt")
    assert failed(found) == []
    assert (found["launch"], found["device"]) == ("uv-run", "cpu")
    assert found["cache_speedup"] == found["first_run_s"] / found["second_run_s"]
    assert [run["atoms"] for run in found["runs"]] == [4, 4, 4, 125]
    assert found["energies_eV"]["first run"] == found["energies_eV"]["second run"]
    assert found["energies_eV"]["other model"] != found["energies_eV"]["first run"]
    assert cache.is_dir()
    assert list(RootLayout(bare).uv_cache.iterdir()) == []
    assert json.loads(json.dumps(found)) == found
    assert sum(line.startswith("pass: ") for line in said) == len(found["checks"])


def test_one_model_in_place_of_two_is_noticed(root: Path) -> None:
    found = try_root(root, "cpu", report=lambda line: None, model="emt", other="emt", crystal="emt")
    assert not found["passed"]
    assert failed(found) == ["energy of the other model against the first, eV/atom"]


@pytest.mark.parametrize(
    ("check", "passed"),
    [
        (Check("x", 5.0, most=5.0), True),
        (Check("x", 5.1, most=5.0), False),
        (Check("x", 0.0, least=1e-6), False),
        (Check("x", float("nan"), most=5.0), False),
        (Check("x", float("nan"), least=0.0), False),
    ],
)
def test_limits(check: Check, passed: bool) -> None:
    assert check.passed is passed
    assert check.to_json()["passed"] is passed
    assert str(check).startswith("pass: " if passed else "FAIL: ")


def test_building_where_there_are_no_locks(install: Install, bare: Path) -> None:
    done = install("emt", build=True)
    assert done.returncode == 0, done.stderr
    layout = RootLayout(bare)
    refused = {line for line in done.stdout.splitlines() + done.stderr.splitlines() if "refused: " in line}
    log = sorted(layout.log.glob("*-install-*"))[-1].read_text()
    assert f"refused: {layout.admin_lock}" in refused  # ours
    assert f"refused: {layout.builds('emt')}/.staging-" in log  # uv's of the environment, which it can do without
    assert "has no flock: the record admin.json is the lock" in done.stdout
    assert not layout.admin_owner.exists()
    build = active_build(layout.active("emt"))
    assert build is not None
    record = read_build(build)
    assert record is not None
    assert record.verification
    assert all(check["passed"] for check in record.verification)
    assert "modal_app.py: install emt" in layout.generation(2).read_text()

    assert weights_of(layout, "emt", "") is not None  # it was seen to have none

    again = install("emt", build=True)
    plan = json.loads(again.stdout.partition("PLAN")[2])
    assert plan["empty"]
    assert plan["warm"]["empty"]
    assert not layout.generation(3).exists()


def test_uv_needs_locks_for_its_cache(install: Install, base: Path) -> None:
    """Without the setting, uv's cache would be on the Volume: what is avoided does happen."""
    root = base / "other"
    done = install("emt", root=root, build=True, settings=[f"uv.cache={root}/cache/uv"])
    assert done.returncode == 1
    assert f"{BuildError.__name__}: uv " in done.stderr
    assert "o locks available" in done.stderr


def test_a_lock_that_a_lost_container_left(install: Install, bare: Path) -> None:
    layout = RootLayout(bare)
    layout.admin_owner.write_text(
        '{"command": "modal_app.py: install emt", "user": "root", "host": "lost", "pid": 1, "since": "2026"}'
    )
    done = install("lj", build=False, settings=["contact=me"])
    assert done.returncode == 0, done.stderr
    assert "took the lock from root on lost (process 1, since 2026: modal_app.py: install emt)" in done.stdout
    assert not layout.admin_owner.exists()


def test_what_a_root_takes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = modal_app.inspect_root(root)
    assert {environment["name"] for environment in found["environments"]} == {"emt", "lj"}
    assert found["sizes"]["builds/emt"]["bytes"] > 10**8
    assert set(found["sizes"]) >= {"builds/emt", "builds/lj", "cache"}
    assert json.loads(json.dumps(found))
    printed = capsys.readouterr().out
    assert "builds/emt" in printed
    assert "environment emt: build" in printed


def test_dynamics_in_process_and_through_rootstock(root: Path) -> None:
    said: list[str] = []
    found = sanity_check(root, "emt", "cpu", rounds=4, steps=2, report=said.append)
    assert (found["atoms"], found["rounds"], found["threads"]) == (1008, 4, 1)
    assert len(found["overheads_percent"]) == 4
    # The same atoms, the same forces: after all steps still the same energy, bit for bit.
    assert found["energy_difference_eV_per_atom"] == 0.0
    assert found["energy_difference_at_the_end_eV_per_atom"] == 0.0
    assert found["in_process_step_s"] > 1e-3  # a thousand atoms were moved, not looked up
    assert found["verdict"] == verdict(found["overhead_percent"])
    assert found["passed"] == (found["verdict"] != "fail")
    assert said[-1] == summary(found)
    assert json.loads(json.dumps(found)) == found


def test_two_sides_that_differ_fail(root: Path) -> None:
    found = sanity_check(root, "emt", "cpu", repeat=(1, 1, 1), rounds=2, steps=1, report=lambda line: None)
    line = summary({**found, "verdict": "pass", "energy_difference_eV_per_atom": 1e-4})
    assert line.endswith("; the two sides differ in energy: fail")


def test_a_model_that_fails_in_process(root: Path) -> None:
    with pytest.raises(ConfigurationError, match="Environment 'lj' has no model 'neon'"):
        sanity_check(root, "lj-neon", "cpu", report=lambda line: None)
    launch = resolve_environment(RootLayout(root), "lj", "neon").launch()
    failed = r"failed in process, without Rootstock:\n(.*\n)*.*valid are: \(empty\), argon"
    with pytest.raises(WorkerError, match=failed), InProcess(launch, "neon", "cpu", copper((1, 1, 1))):
        pass
