"""`rootstock-site render`: the renderings of a root, and those that are committed here."""

from __future__ import annotations

import shutil

import pytest

from rootstock import __version__
from rootstock.config.committed_modulefiles import compare, write
from rootstock.config.packaged import data_folder
from rootstock.config.render import committed_renderings
from tests.support.commands import clean_environment

MODULE = f"della/rootstock/{__version__}.lua"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copy(tmp_path):
    """Return a copy of the committed renderings."""
    return shutil.copytree(data_folder("modulefiles"), tmp_path / "modulefiles")


def test_the_committed_renderings_are_those_of_now(site):
    done = site("render", "--output", data_folder("modulefiles"), "--check")
    assert (done.stdout, done.returncode) == ("", 0)


def test_what_is_written_is_written_whether_or_not_somebody_reads_what(copy):
    (copy / MODULE).unlink()
    write(compare(copy, committed_renderings(__version__)))
    assert (copy / MODULE).is_file()


def test_check_names_what_differs_is_missing_or_left_over(site, copy):
    wanted = contents(copy)
    text = (copy / MODULE).read_text()
    (copy / MODULE).write_text(text.replace("\n", " \n", 1))  # one blank at the end of a line
    (copy / "modal/rootstock/.modulerc").unlink()
    (copy / "della/rootstock/0.2.0.lua").write_text(text)
    (copy / "hill/rootstock").mkdir(parents=True)
    (copy / f"hill/rootstock/{__version__}.lua").write_text(text)
    (copy / "hill/rootstock/notes").write_text("not a rendering\n")
    before = contents(copy)
    done = site("render", "--output", copy, "--check", check=False)
    assert done.returncode == 20
    assert [line for line in done.stdout.splitlines() if line.startswith(("missing", "differs", "left over"))] == [
        f"left over: {copy}/della/rootstock/0.2.0.lua",
        f"differs: {copy}/{MODULE}",
        f"left over: {copy}/hill/rootstock/{__version__}.lua",
        f"missing: {copy}/modal/rootstock/.modulerc",
    ]
    assert f"--- {copy}/{MODULE} (now)\n+++ {copy}/{MODULE} (new)\n@@ -1,4 +1,4 @@\n" in done.stdout
    assert contents(copy) == before
    assert site("render", "--output", copy).stdout.splitlines() == [
        f"removed {copy}/della/rootstock/0.2.0.lua",
        f"wrote {copy}/{MODULE}",
        f"removed {copy}/hill/rootstock/{__version__}.lua",
        f"wrote {copy}/modal/rootstock/.modulerc",
    ]
    (copy / "hill/rootstock/notes").unlink()
    assert contents(copy) == wanted


@pytest.mark.parametrize(("variable", "system"), [("LMOD_CMD", "lmod"), ("MODULES_CMD", "tcl")])
def test_a_module_system_that_nobody_named(site, bare_root, variable, system):
    """Each sets its variable in the shell of the admin."""
    env = clean_environment(**{variable: "/usr/libexec/it"})
    done = site("render", "--root", bare_root, "--check", environment=env)
    assert f"--root {bare_root} --set modules.system={system}\n" in done.stderr
    assert done.stderr.startswith("Note: This shell has ")
    site("install", "--root", bare_root, "--no-client", "--set", f"modules.system={system}", environment=env)
    done = site("render", "--root", bare_root, "--check", environment=env)
    assert (done.stdout, done.stderr) == (f"{bare_root}: nothing to do.\n", "")
    kept = [path.name for path in (bare_root / "modulefiles/rootstock").glob(".modulerc*")]
    assert kept == [".modulerc.lua" if system == "lmod" else ".modulerc"]


def test_one_cluster_somewhere_else(site, tmp_path):
    (tmp_path / "modal/rootstock").mkdir(parents=True)
    other = tmp_path / "modal/rootstock/0.1.0.lua"
    other.write_text((data_folder("modulefiles") / MODULE).read_text())
    site("render", "--cluster", "della", "--output", tmp_path)
    other.unlink()  # another cluster's are left alone
    committed = contents(data_folder("modulefiles"))
    assert contents(tmp_path) == {path: text for path, text in committed.items() if path.parts[0] == "della"}


def test_a_cluster_without_a_root_of_its_own(site, tmp_path):
    done = site("render", "--cluster", "alps", "--output", tmp_path, check=False)
    assert (done.returncode, done.stderr.splitlines()) == (3, [
        "Error: Cluster 'alps' is a template: only its site knows where the root is.",
        "Give its path: root='/path/to/rootstock' in Python, --root /path/to/rootstock in a command.",
    ])  # fmt: skip
    site("render", "--cluster", "alps", "--root", "/capstor/rootstock", "--output", tmp_path)
    text = (tmp_path / f"alps/rootstock/{__version__}.lua").read_text()
    assert 'setenv("ROOTSTOCK_ROOT", "/capstor/rootstock")' in text


def test_a_root_is_rendered_anew_when_its_templates_change(site, bare_root):
    module = bare_root / f"modulefiles/rootstock/{__version__}.lua"
    assert site("render", "--root", bare_root, "--check").stdout == f"{bare_root}: nothing to do.\n"
    (bare_root / "templates").mkdir()
    (bare_root / "templates/modulefile.lua.j2").write_text(
        '{% extends "rootstock/modulefile.lua.j2" %}{% block extra %}\n-- ours\n{% endblock %}\n'
    )
    done = site("render", "--root", bare_root, "--check", check=False)
    assert done.returncode == 20
    assert done.stdout.startswith(f"{bare_root}:\n  update modulefiles/rootstock/{__version__}.lua\n--- modulefiles/")
    assert "\n+-- ours" in done.stdout
    assert "-- ours" not in module.read_text()
    site("render", "--root", bare_root)
    assert "-- ours" in module.read_text()


def test_a_root_that_does_not_hold_this_version(site, bare_root):
    (bare_root / f"runtime/{__version__}").rename(bare_root / "runtime/0.2.9")
    done = site("render", "--root", bare_root, check=False)
    assert done.returncode == 10
    assert f"Error: {bare_root} holds rootstock 0.2.9, not {__version__}.\n" in done.stderr
