"""Builds whose files were changed behind our back: each is found, and named."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from rootstock.builds.installed import check_records
from rootstock.errors import BuildError, RootError
from rootstock.root.checksums import Problem, check_build, read_contents
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from rootstock.root.records import active_build, read_build
from tests.support.commands import run


@pytest.fixture
def build(tiny_root):
    """Return an active build whose files the test may change."""
    return writable(active_build(RootLayout(tiny_root).active("tiny")))


def writable(build):
    for path in (build, *build.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return build


def site_packages(build):
    return next(build.glob("lib/python*/site-packages"))


def problems(build, **options):
    return [str(problem) for problem in check_build(build, **options)]


def test_a_build_as_it_was_published(build):
    assert problems(build) == problems(build, sample=5) == []
    # The list covers bytecode and what is in no RECORD, and a well-known program can read it.
    listed = (build / "SHA256SUMS").read_text()
    assert {"environment.py", "recipe.py.lock", "pyvenv.cfg"} <= {line[66:] for line in listed.splitlines()}
    assert "/__pycache__/six." in listed
    run("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS", cwd=build, check=True)


def test_every_kind_of_change_is_named(build):
    site = site_packages(build)
    inside = site.relative_to(build)
    with (site / "six.py").open("r+b") as file:  # the same size and, below, the same time
        file.seek(100)
        file.write(b"#")
    os.utime(site / "six.py", ns=(0, 0))
    next((site / "__pycache__").glob("six.*.pyc")).unlink()
    (site / "sitecustomize.py").write_text("import evil\n")
    (site / "numpy").symlink_to("/tmp")
    (build / "bin" / "python").unlink()
    (build / "bin" / "python").symlink_to("/usr/bin/env")
    (build / "lib64").unlink()
    found = {problem.path: problem.what for problem in check_build(build)}
    pyc = next(path for path in found if path.endswith(".pyc"))
    assert found == {
        "bin/python": "changed",
        "lib64": "missing",
        f"{inside}/six.py": "changed",
        pyc: "missing",
        f"{inside}/sitecustomize.py": "extra",
        f"{inside}/numpy": "extra",
    }
    assert f"{inside}/six.py: is not the file that was published" in problems(build)


def test_a_sample_looks_at_so_many_files(build):
    changed = [path for path in site_packages(build).rglob("*") if path.is_file()]
    for path in changed:
        path.write_text("changed")
    total = len((build / "SHA256SUMS").read_text().splitlines())
    assert problems(build, sample=0) == []
    found = [len(problems(build, sample=total - left_out)) for left_out in (0, 1, 2)]
    assert found[0] == len(changed) > 2
    assert found[0] - 1 <= found[1] <= found[0]
    assert found[0] - 2 <= found[2] <= found[0]


def test_a_list_that_was_changed_vouches_for_nothing(build):
    sums = build / "SHA256SUMS"
    sums.write_text(sums.read_text().replace("six.py", "five.py"))
    assert Problem("SHA256SUMS", "changed") in check_build(build)
    sums.unlink()
    assert Problem("SHA256SUMS", "missing") in check_build(build, sample=3)


def test_what_is_no_file_is_named_and_nobody_waits_for_it(build):
    site = site_packages(build)
    (site / "six.py").unlink()
    os.mkfifo(site / "six.py")
    metadata = next(site.glob("six-*/METADATA"))
    metadata.unlink()
    metadata.mkdir()
    assert sorted(problem.what for problem in check_build(build)) == ["unreadable", "unreadable"]
    (build / "build.json").write_text("{")
    assert check_build(build) == [Problem("build.json", "unreadable")]


def test_a_record_of_another_build(build, tmp_path):
    copy = tmp_path / "0123456789abcdef"
    shutil.copytree(build, copy, symlinks=True)
    assert problems(copy) == ["build.json: is not the file that was published"]
    (copy / "build.json").unlink()
    with pytest.raises(RootError, match=r"is not a build: it has no build\.json"):
        check_build(copy)


def test_a_build_of_the_time_before_the_list(build):
    record = build / "build.json"
    record.write_text(record.read_text().replace(f'"files_sha256": "{read_build(build).files_sha256}",\n', ""))
    (build / "SHA256SUMS").unlink()
    assert problems(build) == []
    (site_packages(build) / "six.py").write_text("changed")
    assert len(problems(build)) == 1


def test_what_differs_from_its_record_is_not_published(build):
    installed = check_records(build, read_contents(build))
    assert (installed.packages.keys(), installed.files > 5) == ({"six"}, True)
    (site_packages(build) / "six.py").write_text("changed")
    with pytest.raises(BuildError, match=r"six\.py is not the file that six 1.17.0 was published with"):
        check_records(build, read_contents(build))
    (site_packages(build) / "six.py").unlink()
    with pytest.raises(BuildError, match=r"six\.py is missing"):
        check_records(build, read_contents(build))
    remove_tree(site_packages(build) / next(site_packages(build).glob("*.dist-info")).name)
    with pytest.raises(BuildError, match="holds no packages"):
        check_records(build, read_contents(build))


def test_verify_names_every_file_that_is_wrong(build, tiny_root, site):
    clean = site("verify", "--files", "--root", tiny_root)
    assert clean.stdout.endswith(": as published\n")
    (site_packages(build) / "six.py").write_text("changed")
    (build / "more").write_text("")
    done = site("verify", "--files", "--root", tiny_root, check=False)
    assert done.returncode == 10
    inside = site_packages(build).relative_to(build)
    lines = done.stdout.splitlines()
    assert lines[0].endswith("(main): 2 files are wrong")
    assert lines[1:] == [
        f"  {inside}/six.py: is not the file that was published",
        "  more: was not there when the rest was published",
    ]
    assert f"Other files than were published are in {build.resolve()}.\nrootstock-site repair --root" in done.stderr
    printed = json.loads(site("verify", "--files", "--env", "tiny", "--root", tiny_root, "--json", check=False).stdout)
    [found] = printed["published"]
    assert (found["kind"], found["name"], found["folder"]) == ("environment", "tiny", str(build.resolve()))
    assert [problem["path"] for problem in found["problems"]] == [f"{inside}/six.py", "more"]
    unknown = site("verify", "--files", "--env", "none", "--root", tiny_root, check=False)
    assert unknown.returncode == 4
