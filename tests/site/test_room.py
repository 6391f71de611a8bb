"""A build that does not fit is refused before anything is fetched."""

from __future__ import annotations

import json

import pytest

from tests.support.environment_files import header
from tests.support.tiny_root import SETUP


def file(room):
    return header("[tool.rootstock]", f"room = {room}", dependencies=("six",), python="") + SETUP


@pytest.mark.parametrize(
    ("room", "code", "message"),
    [
        ("{ megabytes = 1e12, files = 10 }", 10, "these builds take about 1,000,000,000.0 GB and 10 files"),
        ("{ megabytes = 1, files = 1000000000000 }", 10, "and 1000000000000 files"),
        ("{ megabytes = 1 }", 3, "room must be a table such as { megabytes = 350, files = 10500 }"),
        ('"much"', 3, "room must be a table such as"),
    ],
)
def test_what_does_not_fit(site, tmp_path, room, code, message):
    path = tmp_path / "large.py"
    path.write_text(file(room))
    root = tmp_path / "root"
    done = site("install", "--cluster", "local", "--root", root, "--no-client", "--env", path, check=False)
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
