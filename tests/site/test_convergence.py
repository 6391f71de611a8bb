"""An installation that names no environment brings a root to what it was ever asked to hold."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from rootstock import __version__
from rootstock.admin.asked_for import asked_for
from rootstock.admin.environment_sources import find_source
from rootstock.admin.install_notes import notes_of_edits
from rootstock.config.clusters import get_cluster
from rootstock.config.environment_file import packaged_source
from rootstock.config.site import Site as RootSite
from rootstock.config.site import installed_versions
from rootstock.root.layout import RootLayout
from rootstock.root.managed_files import sha256
from rootstock.root.records import active_build
from tests.conftest import Site
from tests.support.commands import Done


@pytest.fixture
def della(site: Site, tiny: Path, tmp_path: Path) -> RootLayout:
    """Return a root of della, whose own list has mace and others, with two small environments in their place."""
    other = tiny.with_name("other.py")
    shutil.copy(tiny, other)
    root = tmp_path / "root"
    site("install", "--cluster", "della", "--root", root, "--no-client", "--yes", "--env", tiny, "--env", other)
    return RootLayout(root)


@pytest.fixture
def install(site: Site, della: RootLayout) -> Callable[..., Done]:
    def call(*options: str, check: bool = True) -> Done:
        return site("install", "--root", della.root, "--no-client", "--yes", *options, check=check)

    return call


def in_use(layout: RootLayout) -> dict[str, str]:
    """Return the digest of each build in use; of a link that leads nowhere, nothing."""
    builds = {link.name: active_build(link) for link in layout.all_active.iterdir()}
    return {name: build.name for name, build in builds.items() if build}


def recorded(layout: RootLayout) -> list[str]:
    names: list[str] = tomllib.loads(layout.clusters_file.read_text())["clusters"]["della"]["environments"]
    return names


def actions(done: Done) -> list[str]:
    return [line.split(" with Python")[0].strip() for line in done.stdout.splitlines() if line.startswith("  build ")]


def test_what_was_asked_for_is_what_there_is(della: RootLayout, install: Callable[..., Done], site: Site) -> None:
    assert install().stdout == f"{della.root}: nothing to do.\n"
    shown = json.loads(site("status", "--root", della.root, "--json").stdout)
    assert [environment["name"] for environment in shown["environments"]] == ["other", "tiny"]
    assert recorded(della) == ["tiny", "other"]
    install("--set", "environments=tiny")  # what is asked for can be said anew
    (della.all_active / "other").unlink()
    assert not actions(install())
    install("--env", "other")  # and one more is added to it
    assert recorded(della) == ["tiny", "other"]


def test_what_was_edited_or_removed_is_made_or_put_back(della: RootLayout, install: Callable[..., Done]) -> None:
    before = in_use(della)
    made = della.build("tiny", before["tiny"]).stat().st_ctime_ns
    (della.all_active / "tiny").unlink()
    os.unlink(della.all_active / "other")
    os.symlink("../builds/other/nowhere", della.all_active / "other")
    said = install().stdout
    assert f"  use build {before['tiny']} of tiny\n" in said and f"  use build {before['other']} of other\n" in said
    assert in_use(della) == before
    assert della.build("tiny", before["tiny"]).stat().st_ctime_ns == made  # only the link was made
    with della.environment_file("tiny").open("a") as file:
        file.write("# edited\n")
    assert actions(install()) == ["build tiny"]
    after = in_use(della)
    assert (after["tiny"] == before["tiny"], after["other"]) == (False, before["other"])
    assert install().stdout == f"{della.root}: nothing to do.\n"


def test_builds_for_other_accelerators_follow(della: RootLayout, install: Callable[..., Done]) -> None:
    """The cluster's is cuda; a build for cpu was asked for once, and an edit is for both."""
    install("--env", "tiny", "--accelerator", "cpu")
    before = in_use(della)
    (beside,) = {*before} - {"tiny", "other"}
    with della.environment_file("tiny").open("a") as file:
        file.write("# edited\n")
    assert actions(install()) == ["build tiny", f"build {beside}"]
    after = in_use(della)
    assert {name for name in after if after[name] != before[name]} == {"tiny", beside}
    (della.all_active / beside).unlink()
    assert f"  use build {after[beside]} of {beside}\n" in install().stdout
    assert in_use(della) == after


def test_what_cannot_be_built_keeps_nothing_else_from_it(della: RootLayout, install: Callable[..., Done]) -> None:
    file = della.environment_file("other")
    text = file.read_text()
    file.write_text(text.replace(">=3.10", ">=3.99"))
    with della.environment_file("tiny").open("a") as edited:
        edited.write("# edited\n")
    before = in_use(della)
    shown = install("--dry-run", "--json", check=False)
    assert (shown.returncode, [each["name"] for each in json.loads(shown.stdout)["problems"]]) == (14, ["other"])
    done = install(check=False)
    assert (done.returncode, actions(done)) == (14, ["build tiny"])
    assert "other cannot be built: No Python >=3.99 for environment 'other'." in done.stderr
    assert "1 of 2 builds failed; the others are in use." in done.stderr and "failed" not in shown.stderr
    after = in_use(della)
    assert (after["tiny"] == before["tiny"], after["other"]) == (False, before["other"])
    # Nothing is left to do, and what cannot be done is still said; whoever names only that is refused at once.
    assert install(check=False).returncode == 14
    generations = sorted(della.generations.iterdir())
    assert install("--env", "other", check=False).returncode == 14
    assert sorted(della.generations.iterdir()) == generations
    # One that its admin cannot read: it gets its mode back, and can be read the next time.
    file.write_text(text)
    file.chmod(0)
    done = install(check=False)
    assert (done.returncode, "other cannot be built: Cannot read the environment file" in done.stderr) == (3, True)
    assert install().stdout == f"{della.root}: nothing to do.\n"
    # A file that is no environment file, and one that is gone.
    for content, code in (("def setup(:\n", 3), (None, 4)):
        file.unlink()
        if content is not None:
            file.write_text(content)
        with della.environment_file("tiny").open("a") as edited:
            edited.write("# again\n")
        done = install(check=False)
        assert (done.returncode, actions(done)) == (code, ["build tiny"]), done.stderr
        assert "other cannot be built: " in done.stderr and "Traceback" not in done.stderr
        if content is None:
            file.write_text(text)
    assert install().stdout == f"{della.root}: nothing to do.\n"


def test_an_older_release_leaves_what_a_newer_one_wrote(tmp_path: Path) -> None:
    """And a newer one says that there is something newer than what an admin has made of an older file."""
    layout = RootLayout(tmp_path)
    file = layout.environment_file("emt")
    file.parent.mkdir()
    of_another = packaged_source("emt").text + "# of another release\n"
    file.write_text(of_another)
    written = {"environments/emt.py": [sha256(of_another.encode())]}
    older = ("2025.12.0", "2026.9.1", f"{__version__}rc1", "of-somebody", __version__)
    for version, text in (*((each, packaged_source("emt").text) for each in older), ("2999.1.0", of_another)):
        layout.runtime(version).mkdir(parents=True)
        assert find_source(layout, "emt", written).text == text, version
    assert installed_versions(layout) == ["of-somebody", *older[:3], __version__, "2999.1.0"]
    shutil.rmtree(layout.runtime("2999.1.0"))
    file.write_text(of_another + "# edited\n")
    asked = asked_for(RootSite(layout, get_cluster("local")), ["emt"], written, None, created=False)
    assert [*notes_of_edits(asked, written, None)] == [
        f"You have edited {file}. rootstock {__version__} has a newer one: move yours away to use that."
    ]


def test_a_name_that_is_wrong_stops_all(della: RootLayout, install: Callable[..., Done]) -> None:
    """What a person has just typed is for them to mend, before anything is done."""
    generations = sorted(della.generations.iterdir())
    with della.environment_file("tiny").open("a") as edited:
        edited.write("# edited\n")
    done = install("--env", "tiny", "--env", "othr", check=False)
    assert (done.returncode, sorted(della.generations.iterdir())) == (4, generations)
