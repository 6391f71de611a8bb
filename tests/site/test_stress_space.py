"""Roots on file systems that are full or read-only."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from tests.support.commands import SITE, run
from tests.support.folders import small_disk
from tests.support.needs import need, need_root
from tests.support.tiny_root import PACKAGES, TinyRoot

OLD, NEW = PACKAGES[0], " ".join(PACKAGES)
KIB = 1024
# Seen by us beforehand; by us or by uv on the way; or uv said something else, and we looked why.
FULL = "has room for .*; these builds take about|No space left on device|The file system of .* is nearly full"


def spare_blocks(folder: Path, kept: int) -> None:
    """Fill a file system so that `kept` bytes are left."""
    status = os.statvfs(folder)
    with (folder / "ballast").open("wb") as file:
        file.write(b"\0" * (status.f_bavail * status.f_frsize - kept))


def spare_inodes(folder: Path, kept: int) -> None:
    """Fill a file system so that `kept` more files can be made."""
    ballast = folder / "ballast"
    ballast.mkdir()
    for i in range(os.statvfs(folder).f_favail - kept):
        (ballast / str(i)).touch()


def let_go(folder: Path) -> None:
    ballast = folder / "ballast"
    shutil.rmtree(ballast) if ballast.is_dir() else ballast.unlink()


@pytest.fixture
def small(tmp_path):
    """Return a folder with a file system of its own, of 16 MiB and 2,000 files."""
    with small_disk(tmp_path / "small", "size=16m", "nr_inodes=2000", "mode=755") as folder:
        yield folder


@pytest.mark.parametrize(
    ("fill", "kept"),
    [(spare_blocks, kept * KIB) for kept in (0, 24, 160)] + [(spare_inodes, kept) for kept in (0, 8, 45, 60)],
)
def test_a_full_file_system_is_one_clear_error_and_publishes_nothing(small, tmp_path, fill, kept):
    root = TinyRoot.create(small / "root", tmp_path / "wheels")
    assert root.install().returncode == 0
    root.require(*PACKAGES)
    fill(small, kept)
    done = root.install()
    assert done.returncode in (10, 16), done.stderr
    assert done.stderr.count("Error: ") == 1, done.stderr
    assert re.search(FULL, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert root.imports() == OLD
    assert root.leftovers() == []
    let_go(small)
    assert root.install().returncode == 0
    assert root.imports() == NEW


# -- read-only

COMPUTE = """
import sys
from ase.build import bulk
from rootstock import RootstockCalculator
with RootstockCalculator("emt", root=sys.argv[1], device="cpu") as calculator:
    print(calculator.get_property("energy", bulk("Cu")))
"""


def read_only(folder: Path) -> list[str]:
    """Return the prefix of a command that sees a folder, and only that, as a read-only file system."""
    need_root()
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, str(folder)]
    probe = run(*prefix, "touch", folder / "probe")
    need("Read-only file system" in probe.stderr, f"the right to mount ({probe.stderr.strip()})")
    return prefix


def test_a_reader_computes_from_a_read_only_file_system(root):
    done = run(*read_only(root), sys.executable, "-c", COMPUTE, root)
    assert done.returncode == 0, done.stderr
    copper = bulk("Cu")
    copper.calc = EMT()
    assert float(done.stdout) == copper.get_potential_energy()


def test_nothing_to_do_needs_no_writing(root):
    command = [SITE, "install", "--yes", "--root", root, "--env", "emt", "--env", "lj"]
    done = run(*read_only(root), *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{root}: nothing to do.\n"


def test_an_installation_into_a_read_only_root_is_refused(tmp_path):
    root = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")
    assert root.install().returncode == 0
    root.require(*PACKAGES)
    done = root.install(*read_only(root.path))
    assert done.returncode in (10, 16), done.stderr
    assert done.stderr.count("Error: ") == 1, done.stderr
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr
    assert root.imports() == OLD
