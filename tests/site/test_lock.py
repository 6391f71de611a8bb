"""The lock of a root, between real processes."""

from __future__ import annotations

import os
import re
import signal

import pytest

from rootstock.root.layout import RootLayout
from tests.support.commands import SITE, read_until, run, started
from tests.support.needs import need_program
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
