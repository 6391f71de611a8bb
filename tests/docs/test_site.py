"""The site of documentation: what is generated from the code, and that a reader's browser asks nobody else."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rootstock import __version__
from rootstock.config.cluster_settings import Cluster
from rootstock.config.environment_file import packaged_names, packaged_source
from rootstock.config.licences import FUNCTIONALS, LICENCES, TRAINING_SETS
from rootstock.config.model_string import model_string
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


@pytest.fixture
def reference() -> Iterator[ModuleType]:
    """Return the program that writes the generated parts, as mkdocs imports it."""
    sys.path.insert(0, str(REPOSITORY / "docs"))
    try:
        yield importlib.import_module("reference")
    finally:
        sys.path.pop(0)


def test_the_page_of_models_has_them_all(reference: ModuleType) -> None:
    page = reference.on_page_markdown((REPOSITORY / "docs/models.md").read_text(encoding="utf-8"))
    for name in packaged_names():
        source = packaged_source(name)
        assert f"\n{source.description}\n" in page
        for model in source.released:
            assert f"| `{model_string(name, model)}`" in page
    assert "| `mace-off-small` | MACE-OFF23, organic molecules of 10 elements | SPICE 1 | wB97M-D3(BJ) |" in page
    assert "| academic: ASL |" in page and "- Licence: open: BSD-3-Clause\n" in page
    assert "- Cite for `mh-*`: Batatia et al., Cross Learning" in page
    rows = [line.count(" | ") for line in page.splitlines() if re.match(r"\| `mace-(?!polar)", line)]
    assert len(rows) > 15 and len({*rows}) == 1


def test_the_words_are_on_the_page_of_environment_files(reference: ModuleType) -> None:
    page = reference.on_page_markdown("<!-- reference: words -->\n")
    assert all(f"`{word}`" in page for word in (*LICENCES, *FUNCTIONALS, *TRAINING_SETS))


def test_what_a_test_run_has_seen_is_on_the_page(reference: ModuleType, tmp_path: Path) -> None:
    record = tmp_path / "models-tested.json"
    assert "".join(reference.model_tables.last_run(record)) == (
        "No test run is recorded: `models-tested.json` is not in this checkout.\n"
    )
    seen = {
        "package": "sevenn", "version": "0.13.0", "python": "3.11", "megabytes": 1549, "files": 46600,
        "weights": "released", "date": "2026-11-30",
        "references": {"passed": 5, "not_run": 8, "missed": 0, "largest": {"energy": 2e-6, "forces": 1.3e-5}},
        "bit_for_bit": True, "conformance": {"passed": 7, "failed": 0},
    }  # fmt: skip
    bad = {
        **seen, "references": {"passed": 0, "not_run": 0, "missed": 2}, "bit_for_bit": False,
        "conformance": {"passed": 6, "failed": 1},
    }  # fmt: skip
    none = {**seen, "references": {"passed": 0, "not_run": 0, "missed": 0}, "bit_for_bit": None, "conformance": None}
    gated = {**none, "weights": "not here", "conformance": {"passed": 1, "failed": 0, "skipped": 6}}
    environments = {"sevennet": seen, "orb": bad, "lj": none, "uma": gated}
    record.write_text(json.dumps({"date": "2026-12-01", "environments": environments}), encoding="utf-8")
    lines = "\n".join(reference.model_tables.last_run(record)).splitlines()
    assert lines[0].startswith("Last run: 2026-12-01. ")
    size = "| sevenn 0.13.0 | 3.11 | released | 1,549 MB, 46,600 files |"
    assert [line for line in lines[4:] if " – | – | – | not run |" not in line][:4] == [
        f"| `lj` {size} none | – | not compared | not run | 2026-11-30 |",
        f"| `orb` {size} 2 **missed** | – | **no** | 6 passed, 1 **failed** | 2026-11-30 |",
        f"| `sevennet` {size} 5 met, 8 not run | energy 2.0e-06, forces 1.3e-05 | yes | 7 passed | 2026-11-30 |",
        f"| `uma` {size.replace('released', 'not here')} none | – | not compared | 1 passed, 6 not run | 2026-11-30 |",
    ]
    assert "| `chgnet` | – | – | – | – | – | – | – | not run | – |" in lines


def test_the_reference_says_something_of_everything(reference: ModuleType) -> None:
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
