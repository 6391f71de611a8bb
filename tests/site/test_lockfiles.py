"""`rootstock-site lock`: what a lock holds, when it fits, and what an installation makes of it."""

from __future__ import annotations

import json
import tomllib

import pytest

from rootstock.cli.command import PENDING
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build, read_build
from tests.support.environment_files import header
from tests.support.tiny_root import PACKAGES, SETUP, TinyRoot, make_wheel

ALPHA, BETA = PACKAGES


@pytest.fixture
def tiny_site(site, tmp_path):
    """Return a root whose one environment takes its packages from a folder, and how to run a command on it."""
    root = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")

    def on_root(command, *arguments, **options):
        return site(command, "--root", root.path, *arguments, **options)

    on_root("install", "--cluster", "local", "--env", "tiny", "--no-client")
    return root, on_root


def versions(lock):
    return {package["name"]: package["version"] for package in tomllib.loads(lock.read_text())["package"]}


def test_a_lock_that_fits_is_left_alone(tiny_site):
    root, on_root = tiny_site
    lock = root.layout.lock_file("tiny")
    before = lock.stat().st_mtime_ns
    assert on_root("lock", "--check").returncode == 0
    assert "nothing to do" in on_root("lock").stdout
    assert lock.stat().st_mtime_ns == before
    assert len(list(root.layout.generations.iterdir())) == 1


@pytest.mark.parametrize("how", ["missing", "other requirements", "not a lock"])
def test_a_lock_that_does_not_fit(tiny_site, how):
    root, on_root = tiny_site
    lock = root.layout.lock_file("tiny")
    if how == "missing":
        lock.unlink()
    elif how == "not a lock":
        lock.write_text("<html>")
    else:
        root.require(ALPHA, BETA)
    before = lock.read_text() if lock.exists() else None
    done = on_root("lock", "--check", check=False)
    if how == "not a lock":
        assert (done.returncode, "Traceback" in done.stderr) == (14, False)
        return
    assert done.returncode == PENDING
    assert "environments/tiny.py.lock" in done.stdout
    assert (lock.read_text() if lock.exists() else None) == before
    assert on_root("lock", "--dry-run").returncode == 0
    assert (lock.read_text() if lock.exists() else None) == before
    on_root("lock")
    assert versions(lock).keys() == ({ALPHA} if how == "missing" else {ALPHA, BETA})
    assert on_root("lock", "--check").returncode == 0
    # What is locked and not built yet is what an installation builds.
    on_root("install", "--env", "tiny", "--no-client")
    assert root.imports() == (ALPHA if how == "missing" else f"{ALPHA} {BETA}")


def test_versions_stay_until_an_upgrade_is_asked_for(tiny_site):
    root, on_root = tiny_site
    root.require(ALPHA, BETA)
    on_root("install", "--env", "tiny", "--no-client")
    for package in PACKAGES:
        make_wheel(root.wheels, package, "2.0")
    lock = root.layout.lock_file("tiny")
    assert on_root("lock", "--check").returncode == 0
    done = on_root("lock", "--upgrade", ALPHA)
    assert f"update environments/tiny.py.lock: {ALPHA} 1.0 -> 2.0\n" in done.stdout
    assert versions(lock) == {ALPHA: "2.0", BETA: "1.0"}
    plan = json.loads(on_root("lock", "--upgrade", "--json", "--dry-run").stdout)
    assert plan["locks"][0]["new"] == {ALPHA: "2.0", BETA: "2.0"}
    assert versions(lock)[BETA] == "1.0"
    on_root("lock", "--upgrade")
    assert versions(lock) == {ALPHA: "2.0", BETA: "2.0"}
    assert read_build(root.active()).packages == {ALPHA: "1.0", BETA: "1.0"}
    assert "(lock changed)" in on_root("install", "--env", "tiny", "--no-client").stdout
    assert read_build(root.active()).packages == {ALPHA: "2.0", BETA: "2.0"}


def test_requirements_that_cannot_be_met_change_nothing(tiny_site):
    root, on_root = tiny_site
    before = root.layout.lock_file("tiny").read_text()
    root.require(f"{ALPHA}==9")
    done = on_root("lock", check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (14, False)
    assert f"{ALPHA}==9" in done.stderr
    assert root.layout.lock_file("tiny").read_text() == before


FILE = header("[tool.uv]", 'exclude-newer = "2021-05-01T00:00:00Z"', dependencies=("six>=1.10",)) + SETUP


def test_a_file_has_its_lock_beside_it_and_an_installation_takes_it(site, tmp_path):
    file, lock = tmp_path / "old.py", tmp_path / "old.py.lock"
    file.write_text(FILE)
    command = ("lock", "--cluster", "local", "--root", tmp_path / "root", "--env", file)
    assert site(*command, "--check", check=False).returncode == PENDING
    site(*command)
    assert not (tmp_path / "root").exists()
    # 1.16.0 is of May 5th.
    assert versions(lock) == {"six": "1.15.0"}
    (package,) = tomllib.loads(lock.read_text())["package"]
    assert all(found["hash"].startswith("sha256:") for found in [package["sdist"], *package["wheels"]])
    install = ("install", "--cluster", "local", "--root", tmp_path / "root", "--env", file, "--no-client")
    site(*install)
    layout = RootLayout(tmp_path / "root")
    assert layout.lock_file("old").read_text() == lock.read_text()
    first = active_build(layout.active("old"))
    # Another lock beside the file is another build.
    file.write_text(FILE.replace("2021-05-01", "2020-05-01"))
    site(*command, "--upgrade")
    assert versions(lock) == {"six": "1.14.0"}
    site(*install)
    assert layout.lock_file("old").read_text() == lock.read_text()
    assert active_build(layout.active("old")) != first
    assert "nothing to do" in site(*install).stdout


def test_a_relative_path_is_refused(site, tmp_path):
    file = tmp_path / "near.py"
    file.write_text(FILE.replace("exclude-newer", 'find-links = ["wheels"]\n# exclude-newer'))
    done = site("lock", "--cluster", "local", "--env", file, check=False)
    assert done.returncode == 3
    assert "[tool.uv] in an environment file names 'wheels', a relative path." in done.stderr
