"""The table of aliases in a root: right after every change, and made again when somebody has removed it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms

from rootstock import RootstockCalculator
from rootstock.config.model_names import find_alias
from rootstock.errors import ConfigurationError
from rootstock.root.layout import RootLayout
from rootstock.simulations.provenance import note_calculator
from tests.conftest import Site
from tests.support.commands import ROOTSTOCK, Done, clean_environment, run

NAMED = """\
# [tool.rootstock]
# all-models-listed = true
# models = {{ "" = "a", a = "one", b = "another" }}
# aliases = {}
# ///
"""


def with_aliases(text: str, aliases: str) -> str:
    """Return an environment file with two models, a and b, and such aliases."""
    return text.replace("# ///\n", NAMED.format(aliases)).replace("# # /// script", "# /// script", 1)


def install(site: Site, root: Path, path: Path, *options: str, check: bool = True) -> Done:
    return site("install", "--cluster", "local", "--root", root, "--env", path, "--no-client", *options, check=check)


def show(root: Path, name: str) -> Done:
    return run(ROOTSTOCK, "show", name, env=clean_environment(ROOTSTOCK_ROOT=str(root)))


@pytest.fixture
def named(site: Site, tiny: Path, tiny_root: Path) -> RootLayout:
    """Return a root whose environment tiny has the alias `field`, for its model a."""
    tiny.write_text(with_aliases(tiny.read_text(), '{ field = "a" }'))
    install(site, tiny_root, tiny)
    return RootLayout(tiny_root)


def test_each_change_leaves_the_right_table(site: Site, named: RootLayout, tiny: Path) -> None:
    root, text = named.root, tiny.read_text()
    assert find_alias(named, "field") == ("tiny", "a") and named.aliases_file.is_file()
    first = named.active("tiny").readlink().name
    tiny.write_text(text.replace('field = "a"', 'other = "b"'))
    install(site, root, tiny)
    assert (find_alias(named, "field"), find_alias(named, "other")) == (None, ("tiny", "b"))
    table = json.loads(named.aliases_file.read_text())
    assert table["aliases"] == {"tiny": {"other": "b"}} and table["active"]["tiny"] != first
    site("rollback", "--root", root)
    assert (find_alias(named, "field"), find_alias(named, "other")) == (("tiny", "a"), None)
    assert json.loads(named.aliases_file.read_text()) == {
        "active": {"tiny": first},
        "aliases": {"tiny": {"field": "a"}},
    }
    site("gc", "--root", root, "--keep", "1")
    assert show(root, "field").stdout.startswith("field is tiny-a\n")
    # Before the environment had aliases: there is no file to say so, or one that says there are none.
    site("rollback", "--root", root, "--to", "1", check=False)
    assert find_alias(named, "other") is None
    assert oct(named.aliases_file.stat().st_mode & 0o777) == oct(named.marker.stat().st_mode & 0o777)
    assert not named.strangers()
    site("uninstall", "--root", root)
    assert not root.exists()


def test_a_root_without_aliases_has_no_table(tiny_root: Path) -> None:
    layout = RootLayout(tiny_root)
    assert not layout.aliases_file.exists() and find_alias(layout, "field") is None
    done = show(tiny_root, "field")
    assert (done.returncode, "'field' not found" in done.stderr) == (4, True)


def test_results_name_the_model_and_not_its_alias(named: RootLayout) -> None:
    """An alias may mean another model tomorrow."""
    calc, atoms = RootstockCalculator("field", root=named.root, device="cpu"), Atoms("Cu")
    note_calculator(atoms, calc)
    assert (calc.parameters["model"], calc.model_name, atoms.info["rootstock_model"]) == ("field", "tiny-a", "tiny-a")


@pytest.mark.parametrize("command", [("repair", "--yes"), ("install", "--no-client")])
@pytest.mark.parametrize("damage", ["", "{", '{"active": {}, "aliases": {"tiny": 3}}'])
def test_a_table_that_is_gone_or_damaged_is_written_anew(
    site: Site, named: RootLayout, command: tuple[str, ...], damage: str
) -> None:
    before = named.aliases_file.read_text()
    if damage:
        named.aliases_file.write_text(damage)
    else:
        named.aliases_file.unlink()
    assert find_alias(named, "field") == ("tiny", "a")  # the builds' records say the same
    looked = site(*command, "--root", named.root, "--dry-run")
    assert "write the table of aliases anew" in looked.stdout
    site(*command, "--root", named.root)
    assert named.aliases_file.read_text() == before
    assert "nothing to do" in site(*command, "--root", named.root).stdout


def test_a_table_of_other_builds_does_not_count(site: Site, named: RootLayout) -> None:
    """As a version of Rootstock before aliases leaves it, which puts builds into use and knows of no table."""
    table = json.loads(named.aliases_file.read_text())
    table["active"]["tiny"], table["aliases"]["tiny"] = "0" * 16, {"old": "b"}
    named.aliases_file.write_text(json.dumps(table))
    assert (find_alias(named, "field"), find_alias(named, "old")) == (("tiny", "a"), None)
    assert "write the table of aliases anew" in site("repair", "--root", named.root, "--yes").stdout


def test_the_same_alias_in_two_files_is_an_error(site: Site, named: RootLayout, tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(tiny.read_text())
    for more in ((), ("--dry-run",)):
        done = install(site, named.root, other, *more, check=False)
        assert done.returncode == 3
        assert f"Alias 'field' is in two files: {named.environment_file('tiny')} and {other}." in done.stderr
    assert not named.environment_file("other").exists()
    done = site("check-env", tiny, other, check=False)
    assert done.returncode == 3
    assert done.stdout.count(f"error: alias 'field' is in two files: {tiny} and {other}.") == 2
    report = json.loads(site("check-env", tiny, other, "--json", check=False).stdout)
    assert (report["errors"], [each["errors"] for each in report["files"]]) == (2, [1, 1])
    assert site("check-env", other).returncode == 0
    pinned = tmp_path / "tiny@1.0.py"  # its aliases would be those of the file without a version
    pinned.write_text(tiny.read_text())
    install(site, named.root, pinned)
    assert find_alias(named, "field") == ("tiny", "a")
    assert "warning: aliases of a pinned version are not used" in site("check-env", tiny, pinned).stdout


def test_two_files_that_got_the_same_alias_by_hand(tmp_path: Path, named: RootLayout, tiny: Path) -> None:
    (named.environments / "other.py").write_text(tiny.read_text())
    with pytest.raises(ConfigurationError, match="'field' is an alias in several environments .*tiny-a, other-a"):
        find_alias(named, "field")


def test_an_alias_that_is_the_name_of_an_environment_is_an_error(
    site: Site, named: RootLayout, tiny: Path, tmp_path: Path
) -> None:
    for name, file in (("tiny", named.environment_file("tiny")), ("chgnet", None)):  # of the root, and of ours
        other = tmp_path / "other.py"
        other.write_text(tiny.read_text().replace("{ field =", f"{{ {name} ="))
        fault = f"lias {name!r} in {other} is the name of an environment: it wins."
        done = site("check-env", other, *([file] if file else []), check=False)
        assert (done.returncode, f"error: a{fault}" in done.stdout) == (3, True), done.stdout
        if file:
            done = install(site, named.root, other, "--dry-run", check=False)
            assert (done.returncode, f"A{fault}" in done.stderr) == (3, True), done.stderr
