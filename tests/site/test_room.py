"""A build that does not fit is refused before anything is fetched."""

from __future__ import annotations

import io
import json
import os
import random
import re
import tarfile

import pytest

from rootstock.builds.subprocesses import Programs
from rootstock.errors import SiteError
from tests.support.commands import SITE, run
from tests.support.environment_files import header
from tests.support.folders import small_disk
from tests.support.needs import need_program
from tests.support.tiny_root import SETUP, TinyRoot, write_wheel


def file(room):
    return header("[tool.rootstock]", f"room = {room}", dependencies=("six",), python="") + SETUP


@pytest.mark.parametrize(
    ("room", "code", "message"),
    [
        ("{ megabytes = 1e12, files = 10 }", 10, "these builds take about 1,000,000,000.0 GB and 10 files"),
        ("{ megabytes = 1, files = 1000000000000 }", 10, "and 1000000000000 files"),
        ("{ megabytes = 1 }", 3, "room must be a table such as { megabytes = 350, files = 10500 }"),
        ('"much"', 3, "room must be a table such as"),
        ("{ megabytes = 1, files = 10, cuda = 6000 }", 3, "room: cuda must be a table such as { megabytes = 6000 }"),
        ("{ megabytes = 1, files = 10, cuda = { megabytes = 1e12 } }", 10, "1,000,000,000.0 GB and 10 files"),
        ("{ megabytes = 1, files = 10, cuda = { mb = 1 } }", 3, "room: cuda must be a table such as"),
        ("{ cuda = { megabytes = 1e12, files = 20 } }", 3, "room must be a table such as"),
    ],
)
def test_what_does_not_fit(site, tmp_path, room, code, message):
    path = tmp_path / "large.py"
    path.write_text(file(room))
    install = ["install", "--cluster", "local", "--root", root := tmp_path / "root", "--no-client", "--env", path]
    done = site(*install, "--accelerator", "cuda", check=False)
    if "cuda" in room and code == 10:
        assert site(*install, "--dry-run").returncode == 0
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert not root.exists()


def test_the_plan_says_what_a_build_takes(site, tmp_path):
    path = tmp_path / "small.py"
    path.write_text(file("{ megabytes = 1.5, files = 30 }"))
    options = ["--cluster", "local", "--root", tmp_path / "root", "--no-client", "--env", path, "--dry-run"]
    assert "(not built yet), about 2 MB and 30 files" in site("install", *options).stdout
    plan = json.loads(site("install", *options, "--json").stdout)
    assert plan["builds"][0]["room"] == {"bytes": 1_500_000, "files": 30}
    assert plan["room"]["bytes"] > 0


@pytest.fixture
def unknown(tmp_path):
    """Return an environment file that says nothing of its size, and needs 4 MB that no compression shrinks."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, "rslarge", "1.0", {"rslarge.bin": random.Random(0).randbytes(4 * 10**6)})
    path = tmp_path / "unknown.py"
    uv = ("[tool.uv]", "no-index = true", f'find-links = ["{folder}"]')
    path.write_text(header(*uv, dependencies=("rslarge",), python="") + SETUP)
    return path


def test_what_nobody_says_takes_at_least_what_is_fetched(site, tmp_path, unknown):
    options = ["--cluster", "local", "--root", tmp_path / "root", "--no-client", "--env", unknown]
    assert "(not built yet), at least 4 MB\n" in site("install", *options, "--dry-run").stdout
    (build,) = json.loads(site("install", *options, "--dry-run", "--json").stdout)["builds"]
    assert 4 * 10**6 < build["room"]["bytes"] < 4.1 * 10**6
    assert build["room"]["files"] is None
    # What a header says for CPUs is not enough for what an accelerator has fetched.
    room = "# [tool.rootstock]\n# room = { megabytes = 1, files = 2 }\n# ///\ndef"
    unknown.write_text(unknown.read_text().replace("# ///\ndef", room))
    assert "(not built yet), at least 4 MB\n" in site("install", *options, "--dry-run").stdout
    site("install", *options)
    # The root has the package already.
    other = unknown.with_name("other.py")
    other.write_text(unknown.read_text().replace("megabytes = 1", "megabytes = 2"))
    assert "(not built yet), about 2 MB and 2 files\n" in site("install", *options[:-1], other, "--dry-run").stdout


def test_what_is_fetched_does_not_fit(site, tmp_path, unknown):
    with small_disk(tmp_path / "small", "size=3m") as small:
        options = ["--cluster", "local", "--root", small / "root", "--no-client", "--env", unknown]
        for more in (["--dry-run"], []):
            done = site("install", *options, *more, check=False)
            assert done.returncode == 10
            assert "these builds take at least 4 MB.\nMake room: rootstock-site gc --dry-run" in done.stderr
            assert not (small / "root").exists()


def test_a_file_system_that_counts_no_files(site, tmp_path, unknown):
    with small_disk(tmp_path / "small", "size=3m", "nr_inodes=0") as small:
        options = ["--cluster", "local", "--root", small / "root", "--no-client", "--env", unknown]
        done = site("install", *options, "--dry-run", check=False)
    assert done.returncode == 10
    assert f"{small}/root has room for 3 MB; these builds take at least 4 MB." in done.stderr


# -- nothing more can be written while uv or Python runs


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Disk quota exceeded (os error 122)", "Your quota there is used up."),
        ("No space left on device (os error 28)", "Make room: rootstock-site gc --dry-run shows what can go."),
        ("OSError: [Errno 27] File too large", "A limit of this shell forbids files of that size: ulimit -f"),
    ],
)
def test_a_program_that_cannot_write_more_is_an_error_of_space(said, hint):
    with pytest.raises(SiteError, match=re.escape(said)) as caught:
        Programs().run(["sh", "-c", f"echo 'error: failed to copy: {said}'; exit 2"], os.environ)
    assert caught.value.hint.startswith(hint)
    assert caught.value.exit_code == 16


def test_a_limit_for_the_size_of_files_is_told(site, tmp_path, unknown):
    root = tmp_path / "root"
    command = [SITE, "install", "--yes", "--cluster", "local", "--root", root, "--no-client", "--env", unknown]
    done = run(need_program("prlimit", "util-linux"), f"--fsize={35 * 10**5}", *command)
    assert done.returncode == 16, done.stderr
    assert "File too large" in done.stderr
    assert "A limit of this shell forbids files of that size: ulimit -f shows it.\n" in done.stderr
    assert not list((root / "builds").glob("*/*"))


def test_a_full_root_that_is_locked_says_what_makes_room_there(site, tmp_path):
    with small_disk(tmp_path / "small", "size=30m") as small:
        root = TinyRoot.create(small / "root", tmp_path / "wheels")
        assert root.install().returncode == 0
        files = {
            "PKG-INFO": b"Metadata-Version: 2.2\nName: rsgamma\nVersion: 1.0\n",
            "pyproject.toml": b'[project]\nname = "rsgamma"\nversion = "1.0"\n',
            "data": random.Random(0).randbytes(4 * 10**6),
        }
        with tarfile.open(root.wheels / "rsgamma-1.0.tar.gz", "w:gz") as archive:  # which uv unpacks in its cache
            for name, content in files.items():
                info = tarfile.TarInfo(f"rsgamma-1.0/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        root.require("rsgamma")
        status = os.statvfs(small)
        (small / "ballast").write_bytes(b"\0" * (status.f_bavail * status.f_frsize - 10**6))
        done = site("lock", "--root", root.path, check=False)
    assert done.returncode == 16, done.stderr
    assert "No space left on device" in done.stderr
    assert "\nMake room: rootstock-site gc --dry-run shows what can go.\n" in done.stderr
    assert "TMPDIR" not in done.stderr


def test_a_damaged_record_of_another_build_stops_no_plan(site, tiny_root):
    (tiny_root / "environments/other.py").write_text((tiny_root / "environments/tiny.py").read_text())
    (record,) = tiny_root.glob("builds/tiny/*/build.json")
    record.chmod(0o644)
    record.write_text("{")
    done = site("install", "--root", tiny_root, "--no-client", "--env", "other", "--dry-run")
    assert "build other with Python" in done.stdout
