"""`gc` removes from uv's cache what no build and no lock names, and says what that frees."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rootstock.builds.package_cache import no_uv_runs
from tests.support.commands import SITE, clean_environment, run
from tests.support.needs import need_program
from tests.support.no_flock import like_nfs, without_flock
from tests.support.tiny_root import PACKAGES, TinyRoot, make_wheel

ALPHA, BETA = PACKAGES
GC = ("gc", "--keep", "1", "--older-than", "0")
SLACK = 64 * 1024  # some file systems allot blocks ahead, or late


def taken(root: Path) -> int:
    """Return the bytes of all files in a root, each once, but for logs, records and locks."""
    sizes = {}
    for folder, _, names in os.walk(root):
        if Path(folder).relative_to(root).parts[:1] not in (("log",), ("generations",), ("locks",)):
            for name in (".", *names):
                status = os.lstat(os.path.join(folder, name))
                sizes[status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())


@pytest.fixture
def upgraded(site, tmp_path):
    """Return a root whose one package has had a newer version, and how to run a command on it."""
    root = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")
    for version in ("1.0", "2.0"):
        noise = random.Random(version).randbytes(100_000).hex()
        make_wheel(root.wheels, ALPHA, version, payload=f"# {noise}\n".encode())
        if version == "2.0":
            site("lock", "--root", root.path, "--upgrade")
        site("install", "--cluster", "local", "--root", root.path, "--env", "tiny", "--no-client")
    return root, lambda command, *arguments, **options: site(command, "--root", root.path, *arguments, **options)


def cached(root: TinyRoot) -> set[str]:
    return {info.stem for info in root.layout.uv_cache.glob("archive-v*/*/*.dist-info")}


def test_what_no_build_names_goes_and_frees_what_was_promised(upgraded):
    root, on_root = upgraded
    assert cached(root) == {f"{ALPHA}-1.0", f"{ALPHA}-2.0"}
    plan = json.loads(on_root(*GC, "--dry-run", "--json").stdout)
    assert plan["packages"] == [{"name": ALPHA, "version": "1.0"}]
    before = taken(root.path)
    said = on_root(*GC).stdout
    assert f"  remove {ALPHA} 1.0 from the package cache: no build and no lock names it\n" in said
    assert before - taken(root.path) == pytest.approx(plan["frees"]["bytes"], abs=SLACK)
    assert plan["frees"]["bytes"] > 400_000
    assert cached(root) == {f"{ALPHA}-2.0"}
    assert "nothing to do" in on_root(*GC).stdout
    # The cache is whole: what is left is linked, what is gone comes again.
    text = root.layout.environment_file("tiny").read_text()
    root.layout.environment_file("tiny").write_text(text.replace(f'"{ALPHA}"', f'"{ALPHA}==1.0"'))
    on_root("install", "--env", "tiny", "--no-client")
    assert root.imports() == ALPHA
    assert cached(root) == {f"{ALPHA}-1.0", f"{ALPHA}-2.0"}


def test_what_other_names_keep_is_not_promised(upgraded):
    root, on_root = upgraded
    text = root.layout.environment_file("tiny").read_text()
    root.layout.environment_file("other").write_text(text.replace(f'"{ALPHA}"', f'"{ALPHA}==1.0"'))
    on_root("install", "--env", "other", "--no-client")
    plan = json.loads(on_root(*GC, "--dry-run", "--json").stdout)
    assert (len(plan["builds"]), plan["packages"]) == (1, [])
    before = taken(root.path)
    on_root(*GC)
    assert before - taken(root.path) == pytest.approx(plan["frees"]["bytes"], abs=SLACK)
    assert plan["frees"]["bytes"] < 400_000


def test_what_a_lock_names_stays(upgraded):
    root, on_root = upgraded
    lock = root.layout.lock_file("tiny")
    lock.write_text(lock.read_text().replace('version = "2.0"', 'version = "1.0"'))
    assert json.loads(on_root(*GC, "--dry-run", "--json").stdout)["packages"] == []


def test_what_cannot_be_read_keeps_everything_and_is_named(upgraded):
    root, on_root = upgraded
    (idle,) = {*root.layout.builds("tiny").iterdir()} - {root.layout.active("tiny").resolve()}
    for path in (root.layout.lock_file("tiny"), idle / "build.json"):
        kept = path.read_bytes()
        os.chmod(path, 0o644)
        path.write_text("<html>")
        plan = json.loads(on_root("gc", "--dry-run", "--older-than", "0", "--json").stdout)
        assert plan["packages"] == []
        assert str(path) in plan["cache_kept"]
        assert f"  keep all of the package cache: {plan['cache_kept']}\n" in on_root("gc", "--dry-run").stdout
        done = on_root("status", "--sizes", check=False)
        assert done.returncode != 0
        assert f"gc keeps all of the package cache: {plan['cache_kept']}\n" in done.stdout
        path.write_bytes(kept)


def removes_with(upgraded, **variables):
    """Collect, and say what was told of the cache; the old build goes in any case."""
    root, on_root = upgraded
    done = on_root(*GC, environment=clean_environment(**variables))
    assert len([*root.layout.builds("tiny").iterdir()]) == 1
    return re.findall("the packages in the cache stay: .*", done.stderr), cached(root)


def test_nfs_locks_only_what_is_open_for_writing(upgraded, tmp_path):
    cache = upgraded[0].layout.uv_cache
    assert removes_with(upgraded, **like_nfs(tmp_path, cache)) == ([], {f"{ALPHA}-2.0"})


def test_without_a_lock_the_packages_stay(upgraded, tmp_path):
    cache = upgraded[0].layout.uv_cache
    told = f"the packages in the cache stay: {cache}/.lock cannot be locked: No locks available"
    assert removes_with(upgraded, **without_flock(tmp_path, cache)) == ([told], {f"{ALPHA}-1.0", f"{ALPHA}-2.0"})


def test_without_the_file_of_the_lock_the_packages_stay(upgraded):
    cache = upgraded[0].layout.uv_cache
    (cache / ".lock").unlink()
    told = f"the packages in the cache stay: {cache}/.lock cannot be locked: No such file or directory"
    assert removes_with(upgraded) == ([told], {f"{ALPHA}-1.0", f"{ALPHA}-2.0"})


def test_only_what_can_lead_to_packages_is_looked_through(upgraded, tmp_path):
    root, _ = upgraded
    cache, log = root.layout.uv_cache, tmp_path / "log"
    for name in ("environments-v2/a/deep", "simple-v9/deep", "sdists-v9/a/src/deep"):
        (cache / name).mkdir(parents=True)
    strace = (need_program("strace", "strace"), "-f", "-o", log, "-e", "trace=openat")

    def opened(*command):
        run(*strace, SITE, *command, "--root", root.path, "--yes", check=True)
        return log.read_text()

    assert "/wheels-v" not in opened("gc")  # nothing goes
    looked = opened(*GC)
    assert "/wheels-v" in looked and "/deep" not in looked


def test_what_is_new_stays(upgraded):
    _, on_root = upgraded
    assert json.loads(on_root("gc", "--keep", "1", "--dry-run", "--json").stdout)["packages"] == []


def test_status_says_what_could_go(upgraded):
    root, on_root = upgraded
    key = "unneeded-packages"
    for link in root.layout.builds("tiny").iterdir():
        record = json.loads((link / "build.json").read_text())
        if record["packages"][ALPHA] == "1.0":
            old = link
    assert key not in json.loads(on_root("status", "--sizes", "--json").stdout)["sizes"]
    run("rm", "-rf", old, check=True)
    assert json.loads(on_root("status", "--sizes", "--json").stdout)["sizes"][key]["bytes"] > 400_000
    row = "cache/uv, of it named by no build and no lock (rootstock-site gc)"
    assert row in on_root("status", "--sizes").stdout


def test_nothing_is_taken_from_a_uv_that_runs(tmp_path):
    (tmp_path / ".lock").touch()
    program = (
        "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_SH); print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path / ".lock"], stdin=-1, stdout=-1) as uv:
        uv.stdout.readline()
        with no_uv_runs(tmp_path, 0) as fault:
            assert fault == "uv is using it; run gc again when it is done"
        uv.communicate()
        with no_uv_runs(tmp_path, 100) as fault:
            assert not fault
