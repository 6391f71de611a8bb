"""`rootstock-site page`, in a real browser."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rootstock.config.clusters import cluster_from, packaged_scopes
from rootstock.config.environment_file import packaged_source
from rootstock.config.packaged import data_folder
from rootstock.root.layout import RootLayout
from rootstock.root.records import read_build
from rootstock.root.verification_records import Run, Verification
from rootstock.root.weights import Weights, WeightsFile, write_weights
from tests.conftest import Site
from tests.support.browser import Browser
from tests.support.commands import ROOTSTOCK, run
from tests.support.environment_files import header
from tests.support.needs import need_program
from tests.support.roots import put_environment

# They share browsers, each of which takes seconds to start.
pytestmark = pytest.mark.xdist_group("page")

HOSTILE = """<script>alert(1)</script><img src=x onerror=alert(2)>'"&amp;{{ 7 * 7 }}</style></title></td>"""
WIDTHS = [(1440, 900), (820, 1180), (390, 844)]

Open = Callable[..., Browser]


def published(site: Site, root: Path, folder: Path, *options: str | Path) -> Path:
    """Return the page of a root."""
    site("page", "--root", root, "--output", folder, *options)
    return folder / "index.html"


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Browser]]:
    """Return a function that gives a browser with some preferences; each kind is started once."""
    driver = need_program("chromedriver", "chromium-driver")
    kinds: dict[tuple[bool, bool], Browser] = {}

    def get(*, dark: bool = False, script: bool = True) -> Browser:
        if (dark, script) not in kinds:
            home = tmp_path_factory.mktemp("browser")
            kinds[dark, script] = Browser(driver, home, dark=dark, script=script).__enter__()
        return kinds[dark, script]

    yield get
    for browser in kinds.values():
        browser.__exit__()


@pytest.fixture
def verified_root(mace_root: RootLayout) -> RootLayout:
    """Return a root with MACE, verified once with success and once without, and a cluster with long addresses."""
    mace_root.clusters_file.write_text(
        f'default = "local"\n[clusters.local]\ncontact = "{"help" * 20}@hpc.example.org"\n'
        f'url = "https://hpc.example.org/{"potentials" * 9}"\n'
    )
    (mace_root.environments / "two.py").write_text(
        header("[tool.rootstock]", 'elements = ["H", "C"]', dependencies=(), python="")
    )
    record = read_build(mace_root.active("mace").resolve())
    assert record
    folder = mace_root.verifications("mace", record.digest)
    folder.mkdir(parents=True)
    for day, error in (("01", 1e-6), ("02", 1.0)):
        made = Run(folder, Verification("mace", record.digest, "cuda", on="node7", started=f"2026-11-{day}"), 0o644)
        made.add(
            {"model": "medium", "reference": "NaCl", "property": "energy", "source": "janus-core", "value": -27.0,
             "device": "cuda",
             "expected": -27.0 + error, "error": error, "tolerance": 1e-3, "unit": "eV", "passed": error < 1e-3}, {},
        )  # fmt: skip
        made.end()
        next(path for path in folder.iterdir() if len(path.stem) > 8).rename(folder / f"202611{day}.json")
    return mace_root


class Reader(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


# -- what is written


def test_page_and_json_say_the_same_as_list(site: Site, root: Path, tmp_path: Path) -> None:
    done = site("page", "--root", root, "-o", tmp_path / "new" / "page", "--sizes")
    html, data = tmp_path / "new" / "page" / "index.html", tmp_path / "new" / "page" / "status.json"
    assert done.stdout.splitlines() == [f"{html}: 3 models of 2 environments", str(data)]
    assert {path.stat().st_mode & 0o777 for path in (html, data)} == {0o644}
    status = json.loads(data.read_text())
    listed = run(ROOTSTOCK, "list", "--root", root, "--json", check=True)
    assert status["schema"] == 4
    assert status["models"] == json.loads(listed.stdout)["models"]
    assert status["usage"]["script"].splitlines()[1] == "from rootstock import RootstockCalculator"
    emt = next(environment for environment in status["environments"] if environment["name"] == "emt")
    record = read_build(RootLayout(root).active("emt").resolve())
    assert record
    assert (emt["build"]["digest"], emt["build"]["bytes"]) == (record.digest, record.bytes)
    assert len(emt["verification"]["checks"]) == len(record.verification) > 3
    assert status["sizes"]["builds/emt"]["files"] > 1000
    text = html.read_text()
    for wanted in (record.digest, record.lock_sha256, "ASE tutorial", "LGPL-2.1-or-later", "lj-argon", str(root)):
        assert wanted in text
    # Users of the site are nobody's business on the web.
    assert "built_by" not in json.dumps(status)
    assert '"by"' not in data.read_text()


def test_what_the_admin_must_confirm_is_no_business_of_users(site: Site, bare_root: Path, tmp_path: Path) -> None:
    text = f'default = "della"\n[clusters.della]\nroot = "{bare_root}"\n'
    (bare_root / "clusters.toml").write_text(text)
    marker = bare_root / "rootstock.toml"
    marker.write_text(marker.read_text().replace('cluster = "local"', 'cluster = "della"'))
    page = published(site, bare_root, tmp_path / "page")
    notes = cluster_from(packaged_scopes(), "della").notes
    assert any(note.startswith("Confirm contact") for note in notes)
    for file in (page, page.with_name("status.json")):
        assert not [note for note in (*notes, "Confirm") if note in file.read_text()]


@pytest.mark.parametrize("weights", ["unknown", "yes", "missing"])
def test_the_example_is_no_toy_if_a_real_model_runs(site: Site, tiny_root: Path, tmp_path: Path, weights: str) -> None:
    layout = RootLayout(tiny_root)
    record = read_build(layout.active("tiny").resolve())
    assert record
    layout.active("tiny").unlink()
    for name in ("mace", "alignn", "emt"):
        put_environment(layout, packaged_source(name).path, record if name != "alignn" else replace(record, digest="0"))
    layout.active("alignn").unlink()  # is not built
    if weights != "unknown":
        (file := layout.cache / "file").write_text("w")
        layout.weights("mace").mkdir(parents=True)
        files = (WeightsFile.of(file, layout.root),)
        for model in packaged_source("mace").released:
            write_weights(layout, Weights("mace", model, files, (), record.digest, "now", "ann", "here"), 0o644)
    if weights == "missing":
        file.unlink()
    page = published(site, tiny_root, tmp_path / "page")
    status = json.loads(page.with_name("status.json").read_text())
    assert status["usage"]["model"] == ("emt" if weights == "missing" else "mace")


def test_two_runs_differ_in_the_time_only(site: Site, root: Path, tmp_path: Path) -> None:
    first, second = (published(site, root, tmp_path / name, "--sizes") for name in ("a", "b"))
    for one, two in ((first, second), (first.with_name("status.json"), second.with_name("status.json"))):
        texts = [re.sub(r"\d{4}-\d\d-\d\dT[\d:]+[+-]\d{4}", "", path.read_text()) for path in (one, two)]
        assert texts[0] == texts[1]
    assert first.read_text().count('id="generated"') == 1


def test_a_page_that_is_there_is_replaced_whole_or_not_at_all(site: Site, bare_root: Path, tmp_path: Path) -> None:
    page = published(site, bare_root, tmp_path / "page")
    assert "No environment is built yet." in page.read_text()
    before = page.read_text(), page.with_name("status.json").read_text()
    (bare_root / "templates").mkdir()
    own = bare_root / "templates" / "page.html.j2"
    own.write_text('{% extends "rootstock/page.html.j2" %}{% block extra %}{{ nothing }}{% endblock %}')
    done = site("page", "--root", bare_root, "-o", page.parent, check=False)
    assert done.returncode == 17
    assert f"Error: {own}, line 1: 'nothing' is undefined." in done.stderr
    assert (page.read_text(), page.with_name("status.json").read_text()) == before
    own.write_text(
        '{% extends "rootstock/page.html.j2" %}{% block extra %}Down on {{ environments | length }}{% endblock %}'
    )
    with page.open() as reading:
        assert "Down on 0" in published(site, bare_root, page.parent).read_text()
        assert reading.read() == before[0]  # whoever was reading has the old page to its end
    assert sorted(path.name for path in page.parent.iterdir()) == ["index.html", "status.json"]


def test_a_folder_that_cannot_be(site: Site, bare_root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = site("page", "--root", bare_root, "-o", tmp_path / "file" / "page", check=False)
    assert done.returncode == 16
    assert f"Error: Cannot write {tmp_path}/file/page: Not a directory." in done.stderr


def test_a_record_that_cannot_be_read_is_named(site: Site, verified_root: RootLayout, tmp_path: Path) -> None:
    record = next(verified_root.root.glob("verification/mace/*/20261101.json"))
    record.write_text("{")
    page = published(site, verified_root.root, tmp_path).read_text()
    assert f"<strong>{record.relative_to(verified_root.root)}</strong>: Cannot read {record}: " in page
    assert "mace-medium-mpa-0" in page


def test_an_environment_that_cannot_be_read_is_named(site: Site, tiny_root: Path, tmp_path: Path) -> None:
    (tiny_root / "environments" / "broken.py").write_text("# /// script\n# dependencies = [\n# ///\n")
    done = site("page", "--root", tiny_root, "-o", tmp_path, "--json")
    assert "broken is not on the page: " in done.stderr
    assert list(json.loads(done.stdout)["problems"]) == ["broken"]
    assert "<strong>broken</strong>: " in (tmp_path / "index.html").read_text()


# -- what it is made of


def test_one_file_and_its_parts(site: Site, verified_root: RootLayout, tmp_path: Path) -> None:
    text = published(site, verified_root.root, tmp_path).read_text()
    page = Reader(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"img", "iframe", "object", "embed", "base", "form", "video", "audio", "source"}
    assert not any("src" in attributes or "style" in attributes for _, attributes in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    links = {str(attributes["href"]) for attributes in page.all("a")}
    outward = {link for link in links if not link.startswith("#")}
    assert outward == {"status.json", f"https://hpc.example.org/{'potentials' * 9}"}
    assert [attributes["href"] for attributes in page.all("link")] == ["data:,"]
    assert "@import" not in text
    assert "url(" not in text
    policy = next(attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes)
    assert policy
    for kind in ("style", "script"):
        parts = re.findall(rf"<{kind}>(.*?)</{kind}>", text, flags=re.S)
        assert len(parts) == 1
        assert f"'sha256-{base64.b64encode(hashlib.sha256(parts[0].encode()).digest()).decode()}'" in policy


def test_structure_for_screen_readers(site: Site, verified_root: RootLayout, tmp_path: Path) -> None:
    page = Reader(published(site, verified_root.root, tmp_path, "--sizes").read_text())
    assert page.all("html") == [{"lang": "en"}]
    for landmark in ("header", "main", "footer", "h1", "title"):
        assert len(page.all(landmark)) == 1, landmark
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("table")) >= 4
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {str(attributes["aria-labelledby"]) for _, attributes in page.tags if "aria-labelledby" in attributes}
    targets = {str(attributes["href"])[1:] for attributes in page.all("a") if str(attributes["href"]).startswith("#")}
    assert named | targets <= set(ids)


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    """WCAG 2.2, success criterion 1.4.3 (AA): 4.5 to 1."""
    blocks = re.findall(r":root \{(.*?)\}", (data_folder("site_templates") / "page.css").read_text(), flags=re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", blocks[scheme == "dark"]))
    pairs = [(text, back) for text in ("text", "quiet", "accent") for back in ("page", "card", "code")]
    for text, back in [*pairs, *((kind, f"{kind}-back") for kind in ("good", "bad", "unknown"))]:
        low, high = sorted((luminance(colours[text]), luminance(colours[back])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, back)


# -- in a browser


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_it_fits_every_screen(
    browse: Open, site: Site, verified_root: RootLayout, tmp_path: Path, width: int, height: int, dark: bool
) -> None:
    page = published(site, verified_root.root, tmp_path, "--sizes").as_uri()
    browser = browse(dark=dark)
    browser.open(page, width, height)
    browser.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    # What is wider than the screen scrolls by itself, and nothing else is.
    outside = (
        "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && "
        "!e.parentElement.closest('.scroll, pre')).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert browser.evaluate(outside) == []
    back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back))) < 300) is dark
    assert browser.console() == []
    assert browser.requests() == [page]


@pytest.mark.parametrize(("width", "height"), WIDTHS[::2])
def test_sorting(browse: Open, site: Site, verified_root: RootLayout, tmp_path: Path, width: int, height: int) -> None:
    browser = browse()
    browser.open(published(site, verified_root.root, tmp_path).as_uri(), width, height)
    names = "[...document.querySelectorAll('.cards tbody code')].map((e) => e.textContent)"
    order = "[...document.querySelectorAll('.cards thead th')].map((e) => e.getAttribute('aria-sort'))"
    unsorted = browser.evaluate(names)
    assert len(unsorted) > 15
    assert browser.evaluate(order) == ["none"] * 11
    browser.click(".cards thead th:nth-child(1) button")
    browser.wait(f"{order}[0] === 'ascending'")
    assert browser.evaluate(order) == ["ascending"] + ["none"] * 10
    upwards = browser.evaluate(names)
    assert sorted(upwards) == sorted(unsorted)
    assert upwards[0] == "mace"
    assert upwards[-1] == "two"
    assert upwards == sorted(upwards, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    browser.click(".cards thead th:nth-child(1) button")
    browser.wait(f"{order}[0] === 'descending'")
    assert browser.evaluate(names) == upwards[::-1]
    browser.click(".cards thead th:nth-child(6) button")  # elements: by their number, not by what is written
    browser.wait(f"{order}[5] === 'ascending'")
    counts = browser.evaluate(
        "[...document.querySelectorAll('.cards td[data-label=Elements]')].map((e) => +e.dataset.sort)"
    )
    assert counts == sorted(counts)
    assert {2, 10} <= set(counts)  # by their letters they would stand the other way round
    assert browser.console() == []


def test_filtering_by_element_and_word(browse: Open, site: Site, verified_root: RootLayout, tmp_path: Path) -> None:
    browser = browse()
    browser.open(published(site, verified_root.root, tmp_path).as_uri())
    shown = (
        "[...document.querySelectorAll('.cards tbody tr')].filter((e) => e.checkVisibility())"
        ".map((e) => e.cells[0].dataset.sort)"
    )
    every = browser.evaluate(shown)
    browser.type("#filter", "cu wb97m-v academic")
    # What is typed comes letter by letter, and the list after it: this is of the last one.
    wanted = [name for name in every if "omol" in name or "mh-" in name]
    assert 0 < len(wanted) < len(every)
    browser.wait(f"JSON.stringify({shown}) === JSON.stringify({json.dumps(wanted)})")
    browser.wait(f"document.getElementById('shown').textContent.startsWith('{len(wanted)} ')")
    browser.type("#filter", " nothing")
    browser.wait("document.getElementById('shown').textContent.startsWith('0 ')")
    assert browser.evaluate(shown) == []
    assert browser.evaluate("document.getElementById('shown').textContent") == f"0 of {len(every)} models"


def test_a_link_opens_its_environment(browse: Open, site: Site, verified_root: RootLayout, tmp_path: Path) -> None:
    browser = browse()
    browser.open(published(site, verified_root.root, tmp_path).as_uri(), 390, 844)
    opened = "document.getElementById('env-mace').open"
    assert browser.evaluate(opened) is False
    browser.click(".cards td a[href='#env-mace']")
    browser.wait(opened)
    history = browser.evaluate("[...document.querySelectorAll('#env-mace .history li')].map((e) => e.innerText)")
    assert [re.sub(r"^.* (\d (passed|failed)).*$", r"\1", line) for line in history] == ["1 failed", "1 passed"]
    assert browser.evaluate("document.querySelector('#env-mace tbody td:nth-child(5) .bad').textContent") == "failed"


def test_it_is_whole_without_its_script(browse: Open, site: Site, verified_root: RootLayout, tmp_path: Path) -> None:
    browser = browse(script=False)
    browser.open(published(site, verified_root.root, tmp_path).as_uri(), 390, 844)
    text = browser.evaluate("document.body.innerText")
    assert "mace-medium-mpa-0" in text
    assert browser.evaluate("document.querySelectorAll('button').length") == 0
    assert browser.evaluate("document.getElementById('filter').checkVisibility()") is False
    assert browser.evaluate("document.documentElement.scrollWidth") == 390


def test_hostile_texts_are_texts(browse: Open, site: Site, tiny_root: Path, tmp_path: Path) -> None:
    quoted, model = json.dumps(HOSTILE), HOSTILE.replace("/", "")  # with a slash it would be an example of a path
    tables = (
        "[tool.rootstock]", f"description = {quoted}", f"citation = {quoted}", f"notes = [{quoted}]",
        f"licence = {{ code = {quoted}, weights = {quoted} }}", f"needs = [{quoted}]",
        "[tool.rootstock.models]", f"{json.dumps(model)} = {quoted}",
    )  # fmt: skip
    text = header(*tables, dependencies=(), python="") + "def setup(model, device): ...\n"
    (tiny_root / "environments" / "evil.py").write_text(text)
    site("install", "--root", tiny_root, "--set", "environments=", "--set", f"contact={HOSTILE}", "--set",
         f"description={HOSTILE}", "--set", "url=javascript:alert(3)", "--no-client")  # fmt: skip
    page = published(site, tiny_root, tmp_path)
    browser = browse()
    browser.open(page.as_uri())
    assert browser.evaluate("document.scripts.length") == 1
    assert browser.evaluate("document.querySelectorAll('img, [onerror]').length") == 0
    assert browser.evaluate("document.body.textContent.split('<script>alert(1)</script>').length - 1") >= 10
    assert "{{ 7 * 7 }}" in browser.evaluate("document.querySelector('main').textContent")
    assert browser.evaluate("document.querySelectorAll('a[href^=javascript]').length") == 0
    names = browser.evaluate("[...document.querySelectorAll('.cards tbody th')].map((e) => e.dataset.sort)")
    assert f"evil-{model}" in names
    assert browser.console() == []
    assert browser.requests() == [page.as_uri()]
