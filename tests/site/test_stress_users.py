"""Several users of one root: its owner, its readers, and those who may not read it.

The users are numbers that no account belongs to. They run the root's own client, as nothing else of the machine that
runs the tests need be readable for them.
"""

from __future__ import annotations

import grp
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from rootstock import __version__
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build, read_build
from tests.support.commands import run, started
from tests.support.folders import open_to_readers
from tests.support.readers import need_readers, run_as_reader, seen_under, traced
from tests.support.tiny_root import ENVIRONMENT, PACKAGES, TinyRoot

OWNER, READER, OUTSIDER = 54310, 54311, 54312

COMPUTE = """
import sys
from ase.build import bulk
from rootstock import RootstockCalculator
with RootstockCalculator(sys.argv[2], root=sys.argv[1], device="cpu", launch=sys.argv[3]) as calculator:
    print(calculator.get_property("energy", bulk("Cu")))
"""
LOOK_UP = """
import sys
from pathlib import Path
from rootstock.client.resolve import resolve
from rootstock.root.layout import RootLayout
print(resolve(RootLayout(Path(sys.argv[1])), sys.argv[2]).launch().command[0])
"""
REPORT_ERRORS = """
import sys
def report(kind, error, traceback):
    print(f"{kind.__name__}: {error}", file=sys.stderr)
sys.excepthook = report
"""


@pytest.fixture
def place(tmp_path):
    """Return a folder that every user can get to."""
    need_readers()
    open_to_readers(tmp_path)
    return tmp_path


@pytest.fixture
def as_user(place, root):
    """Return a function that runs a command as a user who has no network and, as HOME, a folder of somebody else."""
    client = RootLayout(root).client(__version__) / "bin"

    def command(uid, program, *arguments, groups="", umask="022", prefix=()):
        words = ["sh", "-c", f'umask {umask}; exec "$0" "$@"', *prefix, client / program, *arguments]
        return run_as_reader(uid, words, place, groups=groups)

    return command


def energy_of_copper():
    copper = bulk("Cu")
    copper.calc = EMT()
    return copper.get_potential_energy()


def test_an_outsider_computes_and_writes_nothing_into_the_root(as_user, root, place):
    log = place / f"scratch-{OUTSIDER}" / "log"
    done = as_user(OUTSIDER, "python", "-c", COMPUTE, root, "emt", "build", prefix=traced(log))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == energy_of_copper()
    touched, changing = seen_under(log, root)
    assert len(touched) > 500  # the client and the worker were both seen
    assert changing == []


def test_uv_run_is_refused_where_one_cannot_write(as_user, root):
    done = as_user(OUTSIDER, "python", "-c", REPORT_ERRORS + COMPUTE, root, "emt", "uv-run")
    assert done.returncode == 1
    assert re.fullmatch(
        r"RootError: .* you cannot write .*\(Permission denied\).*\n"
        r"An admin builds it with: rootstock-site install --root .* --env emt\n",
        done.stderr,
    ), done.stderr


def test_a_root_for_a_group_refuses_an_outsider_and_serves_a_member(as_user, place):
    group = grp.getgrnam("daemon")  # of every Unix; nobody that runs here is a member
    tiny = TinyRoot.create(place / "root", place / "wheels")
    command = [*tiny.install_command, "--set", "access.readers=group", "--set", f"access.group={group.gr_name}"]
    run(*command, check=True)
    done = as_user(READER, "python", "-c", LOOK_UP, tiny.path, ENVIRONMENT, groups=str(group.gr_gid))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tiny.active()}/bin/python\n"
    done = as_user(OUTSIDER, "python", "-c", REPORT_ERRORS + COMPUTE, tiny.path, ENVIRONMENT, "auto")
    assert done.returncode == 1
    assert re.fullmatch(
        rf"RootError: Cannot read {tiny.path}.*\nAsk the site's admin to add you to the group {group.gr_name}; .*\n",
        done.stderr,
    ), done.stderr


@pytest.mark.parametrize("umask", ["077", "000"])
def test_modes_do_not_depend_on_the_umask_of_the_owner(as_user, place, umask):
    tiny = TinyRoot.create(place / "root", place / "wheels")
    for path in (tiny.path, tiny.layout.environments, tiny.layout.environment_file(ENVIRONMENT)):
        os.chown(path, OWNER, OWNER)
    options = ("--env", ENVIRONMENT, "--no-client", "--set", "access.readers=world")
    command = ("install", "--yes", "--cluster", "local", "--root", tiny.path, *options)
    done = as_user(OWNER, "rootstock-site", *command, umask=umask)
    assert done.returncode == 0, done.stderr
    done = as_user(OUTSIDER, "python", "-c", LOOK_UP, tiny.path, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    done = as_user(OUTSIDER, "python", "-c", f"import subprocess; subprocess.run(['{done.stdout.strip()}', '-c', ''])")
    assert (done.returncode, done.stderr) == (0, "")
    for folder, folders, files in os.walk(tiny.path):
        for path in [Path(folder, name) for name in folders + files]:
            assert path.lstat().st_uid == OWNER
            if not path.is_symlink() and not path.is_relative_to(tiny.layout.cache):
                assert path.stat().st_mode & 0o002 == 0, path
    assert tiny.writable() == []


SWAP = """
import sys
from pathlib import Path
from rootstock.root.records import point
link, *builds = map(Path, sys.argv[1:])
swaps = 0
print("swapping", flush=True)
while not (link.parent.parent / "over").exists():
    point(link, builds[swaps % 2])
    swaps += 1
"""


def test_readers_never_fail_while_the_active_build_is_swapped(tmp_path):
    tiny = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")
    builds = []
    for packages in (PACKAGES[:1], PACKAGES):
        tiny.require(*packages)
        assert tiny.install().returncode == 0
        builds.append(tiny.active())
    link, looks, seen, swaps = tiny.layout.active(ENVIRONMENT), 0, [], 0
    with started([sys.executable, "-c", SWAP, link, *builds], stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout.readline() == "swapping\n"
        before = ""
        # Whatever part of the processor each of the two gets: until a reader has seen it change often enough.
        while looks < 20_000 or swaps < 1000:
            now = os.readlink(link)
            with open(os.path.join(link.parent, now, "build.json"), "rb") as record:
                assert record.read().endswith(b"}\n")
            swaps += now != before
            before = now
            if looks % 20 == 0:  # as a starting worker does it
                build = active_build(link)
                assert read_build(build).digest == build.name
                seen.append(build)
            looks += 1
            assert swapper.poll() is None
        (tiny.path / "over").touch()
        _, said = swapper.communicate()
    assert (swapper.returncode, said) == (0, "")
    assert set(seen) == set(builds)
