"""`rootstock-site lock`: what a lock holds, when it fits, and what an installation makes of it."""

from __future__ import annotations

import json
import os
import tomllib

import pytest

from rootstock.builds.uv import find_uv
from rootstock.builds.uv_scripts import recipe_text
from rootstock.cli.command import PENDING
from rootstock.config.clusters import get_cluster
from rootstock.config.environment_file import read_source
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build, read_build
from tests.support.commands import run
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
        assert str(lock) in done.stderr
        assert "`uv.lock`" not in done.stderr
        assert f"To have it made anew, remove it: rm {lock}" in done.stderr
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


def test_one_environment_that_cannot_be_locked_keeps_none_of_the_others_from_it(tiny_site):
    root, on_root = tiny_site
    other = root.layout.environment_file("other")
    other.write_text(root.layout.environment_file("tiny").read_text().replace(ALPHA, BETA))
    lock = root.layout.lock_file("other")
    root.require(f"{ALPHA}==9")
    for options in (["--check"], []):
        done = on_root("lock", *options, check=False)
        assert done.returncode == 14
        assert "write environments/other.py.lock: 1 package\n" in done.stdout
        assert "Error: 1 of 2 locks failed; the others are " in done.stderr
        assert "\ntiny: uv lock failed" in done.stderr
        assert lock.is_file() == (not options)
    done = on_root("lock", "--check", "--json", check=False)
    assert (done.returncode, [each["name"] for each in json.loads(done.stdout)["problems"]]) == (14, ["tiny"])
    # A file that cannot be read is no other case.
    other.write_text("no header")
    root.require(ALPHA)
    done = on_root("lock", "--check", check=False)
    assert done.returncode == 3
    assert "Error: 1 of 2 locks failed; the others are checked.\nother: " in done.stderr


def too_large(lock):
    os.truncate(lock, 2**30)


def closed(lock):
    lock.chmod(0)


def a_pipe(lock):
    lock.unlink()
    os.mkfifo(lock)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(too_large, "it is larger than 256 MB"), (closed, "does not let you in"), (a_pipe, "it is a pipe, not a file")],
)
def test_one_lock_that_cannot_be_read_keeps_none_of_the_others_from_anything(tiny_site, spoil, said):
    root, on_root = tiny_site
    other = root.layout.environment_file("other")
    other.write_text(root.layout.environment_file("tiny").read_text().replace(ALPHA, BETA))
    lock = root.layout.lock_file("tiny")
    spoil(lock)
    for command in (["lock"], ["install", "--set", "environments=tiny,other", "--no-client"]):
        done = on_root(*command, check=False)
        assert done.returncode == 10, done.stderr
        assert f"\ntiny: Cannot read {lock}: " in done.stderr
        assert said in done.stderr
        if spoil is not closed:
            assert f"To have it made anew, remove it: rm {lock}" in done.stderr
        assert root.layout.lock_file("other").is_file()
    assert active_build(root.layout.active("other"))


def test_a_package_that_is_not_there_cannot_be_upgraded(tiny_site):
    root, on_root = tiny_site
    done = on_root("lock", "--upgrade", "rsalfa", check=False)
    assert done.returncode == 3
    assert f"No environment here has a package 'rsalfa'. Did you mean {ALPHA!r}? There are: {ALPHA}." in done.stderr
    make_wheel(root.wheels, ALPHA, "2.0")
    assert f"{ALPHA} 1.0 -> 2.0" in on_root("lock", "--upgrade", "RSAlpha").stdout


# -- for which platforms and Pythons

ELSEWHERE = ("sys_platform == 'win32'", "python_version < '3.11'", "python_version >= '3.20'")


@pytest.mark.parametrize("marker", ELSEWHERE)
def test_what_only_another_platform_or_python_needs_is_not_looked_for(tiny_site, marker):
    root, on_root = tiny_site
    make_wheel(root.wheels, "rsgamma", needs=(f"nowhere; {marker}", f"{BETA}; sys_platform == 'linux'"))
    root.require(ALPHA, "rsgamma; python_version >= '3.0'")
    done = on_root("install", "--env", "tiny", "--no-client")
    assert "(environment file changed)" in done.stdout
    assert read_build(root.active()).packages == {ALPHA: "1.0", BETA: "1.0", "rsgamma": "1.0"}
    for upgrade in ([], ["--upgrade"], ["--upgrade", ALPHA]):
        assert "nothing to do" in on_root("lock", *upgrade).stdout
    assert "nothing to do" in on_root("install", "--env", "tiny", "--no-client").stdout


@pytest.mark.parametrize("override", ["rsgamma==1.0", "nowhere==1.0"])
def test_overrides_hold_on_this_platform_only(tiny_site, override):
    root, on_root = tiny_site
    make_wheel(root.wheels, "rsgamma", needs=("nowhere; sys_platform == 'win32'",))
    root.require("rsgamma")
    done = on_root("install", "--env", "tiny", "--no-client", "--set", f"uv.overrides={override}", check=False)
    assert (done.returncode == 0) == (override != "nowhere==1.0")  # an override says that it is needed everywhere


def test_a_lock_for_everything_stays_one_until_it_is_renewed(tiny_site):
    root, on_root = tiny_site
    lock = root.layout.lock_file("tiny")
    recipe = root.path.parent / "recipe.py"
    source = read_source(root.layout.environment_file("tiny"))
    recipe.write_text(recipe_text(source.header, get_cluster("local"), "cpu"))
    build = active_build(root.layout.active("tiny"))
    run(find_uv(), "lock", "--script", recipe, "--python", read_build(build).interpreter, check=True)
    lock.write_bytes(recipe.with_name("recipe.py.lock").read_bytes())
    on_root("install", "--env", "tiny", "--no-client")
    first = root.active()
    assert first != build
    assert (first / "recipe.py").read_text() == recipe.read_text()
    assert lock.read_bytes() == recipe.with_name("recipe.py.lock").read_bytes()
    for command in (["install", "--env", "tiny", "--no-client"], ["lock"]):
        assert "nothing to do" in on_root(*command).stdout
    # What it cannot keep because it is for too much says so.
    text = root.layout.environment_file("tiny").read_text()
    make_wheel(root.wheels, "rsgamma", needs=("nowhere; sys_platform == 'win32'",))
    root.require(ALPHA, "rsgamma")
    done = on_root("lock", check=False)
    assert done.returncode == 14
    assert f"{lock} is for every platform and Python." in done.stderr
    root.layout.environment_file("tiny").write_text(text)
    done = on_root("lock", "--upgrade", ALPHA)
    assert "update environments/tiny.py.lock: the same versions, for other requirements" in done.stdout
    assert f"use build {build.name} of tiny" in on_root("install", "--env", "tiny", "--no-client").stdout
    assert active_build(root.layout.active("tiny")) == build


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
