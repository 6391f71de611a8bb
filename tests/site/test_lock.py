"""The lock of a root, between real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from rootstock.root.holder import Holder
from rootstock.root.layout import RootLayout
from tests.support.commands import SITE, clean_environment, read_until, run, started
from tests.support.needs import need_program
from tests.support.no_flock import without_flock as no_flock_variables
from tests.support.roots import holder

CHANGE = ("--set", "environments=", "--set", "contact=me", "--no-client")


def change(site, root, *options, check=True):
    return site("install", "--root", root, *CHANGE, *options, check=check)


def test_the_holder_is_named(site, bare_root):
    with holder(bare_root) as (process, _):
        done = change(site, bare_root, check=False)
        assert done.returncode == 11
        error, hint = done.stderr.splitlines()[-2:]
        user = run("id", "-un", check=True).stdout.strip()
        who = f"{user} on {os.uname().nodename} (process {process.pid}, since 20"
        assert error.startswith(f"Error: {bare_root} is being changed by {who}")
        assert error.endswith(": rootstock-site build mace).")
        assert hint == "Wait for it with --wait SECONDS. If it will never end, take the lock from it with --break-lock."
    change(site, bare_root)


def test_readers_need_no_lock(site, bare_root):
    with holder(bare_root):
        done = site("status", "--root", bare_root)
        assert "\nbeing changed by " in done.stdout
        assert json.loads(site("status", "--json", "--root", bare_root).stdout)["holder"]["ended"] is False


def test_a_holder_of_another_machine_cannot_be_looked_at(site, bare_root):
    RootLayout(bare_root).admin_owner.write_text(Holder("rootstock-site gc", "ann", "far", 7, "now").to_json())
    done = site("status", "--root", bare_root)
    assert "\nbeing changed by ann on far (process 7, since now: rootstock-site gc), if it still runs: " in done.stdout
    assert json.loads(site("status", "--json", "--root", bare_root).stdout)["holder"]["ended"] is None


def test_waiting_for_the_holder(bare_root):
    command = [SITE, "install", "--yes", "--root", bare_root, *CHANGE, "--wait", "1000"]
    with holder(bare_root) as (process, _), started(command) as waiting:
        *_, line = read_until(waiting, "waiting for")
        assert f"(process {process.pid}, since" in line
        process.stdin.close()
        assert waiting.wait() == 0
    assert 'contact = "me"' in (bare_root / "clusters.toml").read_text()


def test_breaking_the_lock(site, bare_root):
    with holder(bare_root) as (process, _):
        done = change(site, bare_root, "--break-lock")
        assert re.search(rf"took the lock from \w+ on \S+ \(process {process.pid}, since", done.stderr)
        # Whoever lost the lock does not take the record of the next one with it.
        with holder(bare_root) as (second, _):
            process.stdin.close()
            process.wait()
            assert f'"pid": {second.pid}' in RootLayout(bare_root).admin_owner.read_text()
            assert change(site, bare_root, "--set", "url=x", check=False).returncode == 11


def test_a_killed_holder_is_none(site, bare_root):
    with holder(bare_root) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert RootLayout(bare_root).admin_owner.is_file()
        done = site("status", "--root", bare_root, check=False)
        assert done.returncode == 10  # something is left to do
        told = done.stdout + done.stderr
        assert "\nlast command: the lock is free, its last holder was killed: " in told
        assert f"(process {process.pid}, since" in told and "being changed" not in told
        done = site("status", "--json", "--root", bare_root, check=False)
        assert json.loads(done.stdout)["holder"]["ended"] is True
        change(site, bare_root)
    assert not RootLayout(bare_root).admin_owner.exists()


def without_flock(root, error):
    """Return what makes a program find no flock on the file system of `root`."""
    lock = RootLayout(root).admin_lock
    inject = ["-P", str(lock), "-e", "trace=flock", "-e", f"inject=flock:error={error}"]
    return [need_program("strace", "strace"), "-f", "-qq", "-o", os.devnull, *inject]


@pytest.mark.parametrize("error", ["ENOSYS", "EOPNOTSUPP", "ENOLCK"])
def test_a_file_system_without_flock(site, bare_root, error):
    prefix = without_flock(bare_root, error)
    with holder(bare_root, *prefix) as (_, said):
        assert said == [
            f"the file system of {bare_root} has no flock: the record admin.json is the lock, and stays when this "
            "process is killed (--break-lock)"
        ]
        second = run(*prefix, SITE, "install", "--yes", "--root", bare_root, *CHANGE)
        assert second.returncode == 11
        assert f"Error: {bare_root} is being changed by " in second.stderr
    assert not RootLayout(bare_root).admin_owner.exists()


def test_without_flock_a_killed_holder_of_this_machine_is_none(bare_root):
    prefix = without_flock(bare_root, "ENOSYS")
    with holder(bare_root, *prefix) as (process, _):
        pid = int(RootLayout(bare_root).admin_owner.read_text().split('"pid": ')[1].split(",")[0])
        os.kill(pid, signal.SIGKILL)
        process.wait()
        with holder(bare_root, *prefix):
            pass


def test_a_lock_that_cannot_be_taken(bare_root):
    prefix = without_flock(bare_root, "EIO")
    done = run(*prefix, SITE, "install", "--yes", "--root", bare_root, *CHANGE)
    assert done.returncode == 10
    assert f"Error: Cannot lock {bare_root}/locks/admin.lock: Input/output error.\n" in done.stderr


ADMIN = """
import sys
from pathlib import Path
from rootstock.errors import LockBusyError
from rootstock.root.layout import RootLayout
from rootstock.root.lock import AdminContext, admin_lock
for line in sys.stdin:
    try:
        with admin_lock(RootLayout(Path(sys.argv[1])), AdminContext("rootstock-site install")):
            print("held", flush=True)
            sys.stdin.readline()
    except LockBusyError:
        print("busy", flush=True)
        sys.stdin.readline()
    print("over", flush=True)
"""
ADMINS, TRIALS = 6, 150


def dead_process() -> Holder:
    """Return the record of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return Holder("rootstock-site install", pid=process.pid, start="a boot and a tick")


def ask(admins, line, answers=("over",)):
    for admin in admins:
        admin.stdin.write(f"{line}\n")
        admin.stdin.flush()
    said = [admin.stdout.readline().strip() for admin in admins]
    assert set(said) <= {*answers}
    return said


def test_without_flock_one_of_many_admins_takes_the_lock_of_a_killed_one(bare_root, tmp_path):
    owner, dead = RootLayout(bare_root).admin_owner, dead_process()
    env = clean_environment(**no_flock_variables(tmp_path, bare_root))
    command = [sys.executable, "-c", ADMIN, str(bare_root)]
    with contextlib.ExitStack() as ends:
        admins = [
            ends.enter_context(subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ))
            for _ in range(ADMINS)
        ]  # fmt: skip
        held = []
        for _ in range(TRIALS):
            owner.write_text(dead.to_json())
            held.append(ask(admins, "take it", ("held", "busy")).count("held"))
            ask(admins, "let it go")
            assert not [path.name for path in owner.parent.iterdir() if path.name != "admin.lock"]
    assert held == [1] * TRIALS


# The calls of a process that takes over the lock of one that was killed, at which it is killed, too; and whether its
# turn stays, which only an admin removes.
@pytest.mark.parametrize(("path", "calls", "stays"), [
    ("admin.json", "link,linkat", False),
    ("admin.json.next", "link,linkat", False),
    ("", "rename,renameat,renameat2", True),
    ("admin.json.next", "unlink,unlinkat", True),
])  # fmt: skip
def test_without_flock_whoever_takes_over_may_be_killed_too(site, bare_root, path, calls, stays):
    layout, prefix = RootLayout(bare_root), without_flock(bare_root, "ENOLCK")
    layout.admin_owner.write_text(dead_process().to_json())
    kill = ["-P", str(layout.locks / path)] if path else []  # strace looks at the first path of a renaming only
    kill += ["-e", f"trace=flock,{calls}", "-e", "inject=flock:error=ENOLCK", "-e", f"inject={calls}:signal=KILL"]
    env = clean_environment(PYTHONDONTWRITEBYTECODE="1")  # which would rename, too
    command = [*(prefix if path else prefix[:5]), *kill, SITE, "install", "--yes", "--root", bare_root, *CHANGE]
    killed = run(*command, env=env)
    assert killed.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), killed.stderr
    turn = layout.locks / "admin.json.next"
    assert turn.exists() == stays
    if stays:
        busy = run(*prefix, SITE, "install", "--yes", "--root", bare_root, *CHANGE)
        assert busy.returncode == 11
        assert f"is being changed by nobody, but {turn} is in the way: " in busy.stderr
        assert " was killed.\n" in busy.stderr and "take the lock from it with --break-lock.\n" in busy.stderr
    option = ["--break-lock"] if stays else []
    run(*prefix, SITE, "install", "--yes", "--root", bare_root, *CHANGE, *option, check=True)
    assert not turn.exists() and not layout.admin_owner.exists()


def test_without_flock_and_hard_links(bare_root):
    """As on a file system of a container, which knows neither."""
    prefix = without_flock(bare_root, "ENOLCK")
    owner = RootLayout(bare_root).admin_owner
    links = ["-P", str(owner), "-P", f"{owner}.next", "-e", "trace=flock,link,linkat"]
    prefix += [*links, "-e", "inject=link,linkat:error=EPERM"]
    owner.write_text(dead_process().to_json())
    with holder(bare_root, *prefix):
        second = run(*prefix, SITE, "install", "--yes", "--root", bare_root, *CHANGE)
        assert second.returncode == 11 and ": rootstock-site build mace).\n" in second.stderr
    assert not [path.name for path in owner.parent.iterdir() if path.name != "admin.lock"]
