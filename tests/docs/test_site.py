"""The site of documentation: what is generated from the code, and that a reader's browser asks nobody else."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from rootstock import __version__
from rootstock.config.cluster_settings import Cluster
from tests.support.commands import REPOSITORY, clean_environment, run


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    mkdocs = Path(sys.executable).with_name("mkdocs")
    env = clean_environment(NO_MKDOCS_2_WARNING="1")
    run(mkdocs, "build", "--quiet", "--strict", "--site-dir", folder, cwd=REPOSITORY, env=env, check=True)
    return folder


def test_nothing_is_fetched_from_elsewhere(built: Path) -> None:
    pages = list(built.rglob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//", text), page
        for link in re.findall(r"<link\b[^>]*>", text):
            assert "canonical" in link or not re.search(r"href=\"?(?:https?:)?//", link), page
    for sheet in built.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


def test_every_page_can_be_reached(built: Path) -> None:
    reached, waiting = set(), {built / "index.html"}
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = re.findall(r"<a\b[^>]*\bhref=\"([^\":#?]+\.html)", page.read_text(encoding="utf-8"))
        waiting |= {Path(os.path.normpath(page.parent / link)) for link in links} - reached
    orphans = {page.relative_to(built).as_posix() for page in set(built.rglob("*.html")) - reached}
    assert orphans == {"404.html"}, "a line in mkdocs.yml leads readers to a page"


def test_what_is_cited_is_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {__version__}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_reference_says_something_of_everything() -> None:
    sys.path.insert(0, str(REPOSITORY / "docs"))
    try:
        import reference
    finally:
        sys.path.pop(0)
    for field in reference.fields(Cluster):
        assert not field.metadata or field.metadata["meaning"].endswith("."), field.name
    described = list(reference.described_paths())
    assert {"builds/NAME/DIGEST", "active/NAME", "rootstock.toml"} <= {path for paths, _ in described for path in paths}
    for paths, meaning in described:
        assert meaning.endswith("."), f"RootLayout says nothing of {paths}"
    assert (10, "RootError", "The root is missing, is not a Rootstock root, or cannot be read or written.") in (
        reference.exit_code_table()
    )
    page = reference.on_page_markdown("<!-- reference: commands rootstock-site -->")
    for part in (
        "### `rootstock-site bundle create`",
        "`--older-than DAYS`",
        "rootstock-site render --root ~/rootstock",
    ):
        assert part in page
