"""The lock of a root, between real processes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from rootstock.root.layout import RootLayout
from tests.conftest import SITE, clean_environment, need

HOLD = """
import sys
from pathlib import Path
from rootstock.root.layout import RootLayout
from rootstock.root.lock import Admin, admin_lock
with admin_lock(RootLayout(Path(sys.argv[1])), Admin("rootstock-site build mace", report=print)):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(root, *prefix):
    """Hold the lock in a process of its own, until its standard input ends."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        lines = iter(process.stdout.readline, "")
        said = [line.strip() for line in iter(lambda: next(lines), "held\n")]
        try:
            yield process, said
        finally:
            process.stdin.close()
            process.wait(timeout=60)


CHANGE = ("--set", "environments=", "--set", "contact=me", "--no-client")


def change(site, root, *options, check=True):
    return site("install", "--root", root, *CHANGE, *options, check=check)


def start(*command, **streams):
    """Start a command that is none of the fixture's."""
    return subprocess.Popen(command, env=clean_environment(), stdin=subprocess.DEVNULL, text=True, **streams)


def test_the_holder_is_named(site, bare_root):
    with holder(bare_root) as (process, _):
        done = change(site, bare_root, check=False)
        assert done.returncode == 11
        error, hint = done.stderr.splitlines()[-2:]
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        who = f"{user} on {os.uname().nodename} (process {process.pid}, since 20"
        assert error.startswith(f"Error: {bare_root} is being changed by {who}")
        assert error.endswith(": rootstock-site build mace).")
        assert hint == "Wait for it with --wait SECONDS. If it will never end, take the lock from it with --break-lock."
    change(site, bare_root)


def test_readers_need_no_lock(site, bare_root):
    with holder(bare_root):
        done = site("status", "--root", bare_root)
        assert "\nbeing changed by " in done.stdout


def test_waiting_for_the_holder(bare_root):
    with holder(bare_root) as (process, _):
        command = (SITE, "install", "--root", bare_root, *CHANGE, "--wait", "100")
        waiting = start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        line = next(line for line in waiting.stderr if "waiting for" in line)
        assert f"(process {process.pid}, since" in line
    waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert 'contact = "me"' in (bare_root / "clusters.toml").read_text()


def test_breaking_the_lock(site, bare_root):
    with holder(bare_root) as (process, _):
        done = change(site, bare_root, "--break-lock")
        assert re.search(rf"took the lock from \w+ on \S+ \(process {process.pid}, since", done.stderr)
        # Whoever lost the lock does not take the record of the next one with it.
        with holder(bare_root) as (second, _):
            process.stdin.close()
            process.wait(timeout=60)
            assert f'"pid": {second.pid}' in RootLayout(bare_root).admin_owner.read_text()
            assert change(site, bare_root, "--set", "url=x", check=False).returncode == 11


def test_a_killed_holder_is_none(site, bare_root):
    with holder(bare_root) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        assert RootLayout(bare_root).admin_owner.is_file()
        change(site, bare_root)
    assert not RootLayout(bare_root).admin_owner.exists()


def without_flock(root, error):
    """Return what makes a program find no flock on the file system of `root`."""
    need(shutil.which("strace"), "strace")
    lock = RootLayout(root).admin_lock
    inject = ["-P", str(lock), "-e", "trace=flock", "-e", f"inject=flock:error={error}"]
    return ["strace", "-f", "-qq", "-o", os.devnull, *inject]


@pytest.mark.parametrize("error", ["ENOSYS", "EOPNOTSUPP", "ENOLCK"])
def test_a_file_system_without_flock(site, bare_root, error):
    prefix = without_flock(bare_root, error)
    with holder(bare_root, *prefix) as (_, said):
        assert said == [
            f"the file system of {bare_root} has no flock: the record admin.json is the lock, and stays when this "
            "process is killed (--break-lock)"
        ]
        second = start(*prefix, SITE, "install", "--root", bare_root, *CHANGE, stderr=subprocess.PIPE)
        said = second.communicate(timeout=60)[1]
        assert second.returncode == 11
        assert f"Error: {bare_root} is being changed by " in said
    assert not RootLayout(bare_root).admin_owner.exists()


def test_without_flock_a_killed_holder_of_this_machine_is_none(bare_root):
    prefix = without_flock(bare_root, "ENOSYS")
    with holder(bare_root, *prefix) as (process, _):
        pid = int(RootLayout(bare_root).admin_owner.read_text().split('"pid": ')[1].split(",")[0])
        os.kill(pid, signal.SIGKILL)
        process.wait(timeout=60)
        with holder(bare_root, *prefix):
            pass


def test_a_lock_that_cannot_be_taken(bare_root):
    prefix = without_flock(bare_root, "EIO")
    done = start(*prefix, SITE, "install", "--root", bare_root, *CHANGE, stderr=subprocess.PIPE)
    said = done.communicate(timeout=60)[1]
    assert done.returncode == 10
    assert f"Error: Cannot lock {bare_root}/locks/admin.lock: Input/output error.\n" in said
