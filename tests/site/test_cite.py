"""`rootstock cite`: works as BibTeX, and a sentence that is also in `calc.info()`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ase.build import bulk

from rootstock import RootstockCalculator, __version__
from rootstock.client.methods import methods_of
from rootstock.config.citations import ASE, OWN, Work, bibtex, line, with_keys, works_of
from rootstock.config.environment_file import packaged_names, packaged_source
from rootstock.root.layout import RootLayout
from rootstock.root.records import read_build
from tests.support.commands import REPOSITORY, ROOTSTOCK, Done, clean_environment, run
from tests.support.environment_files import header
from tests.support.roots import put_environment
from tests.support.tiny_root import SETUP

Ask = Callable[..., Done]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Run ``rootstock`` as a user without settings would."""

    def call(*command: str | Path) -> Done:
        return run(ROOTSTOCK, *command, env=clean_environment(XDG_CONFIG_HOME=str(tmp_path)), cwd=tmp_path)

    return call


def entries(text: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Read BibTeX as BibTeX does: what is outside of entries is a comment, and braces count whatever is before them."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    place = 0
    while (begin := text.find("@", place)) >= 0:
        head = re.compile(r"@(\w+)\{([^\s,{}\"#%'()=~]+),\s*").match(text, begin)
        assert head, text[begin : begin + 80]
        kind, key = head.groups()
        assert key not in found
        fields: dict[str, str] = {}
        place = head.end()
        while text[place] != "}":
            name = re.compile(r"(\w+)\s*=\s*\{").match(text, place)
            assert name and name[1] not in fields, text[place : place + 80]
            depth, end = 1, name.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            fields[name[1]] = text[name.end() : end - 1]
            after = re.compile(r",?\s*").match(text, end)
            assert after
            place = after.end()
        place += 1
        found[key] = (kind, fields)
    return found


def plain(value: str) -> str:
    """Return what TeX prints."""
    for name, letter in {"backslash": "\\", "braceleft": "<", "braceright": ">", "asciitilde": "~"}.items():
        value = value.replace(rf"\text{name}{{}}", letter)
    return re.sub(r"\\([&%$#_])", r"\1", value.replace(r"\textasciicircum{}", "^"))


def test_the_works_of_a_model(ask: Ask, mace_root: RootLayout) -> None:
    done = ask("cite", "mace-off-small", "--root", mace_root.root)
    assert (done.returncode, done.stderr) == (0, "")
    sentence, _, text = done.stdout.partition("\n\n")
    record = read_build(mace_root.active("mace").resolve())
    assert record
    assert sentence == (
        "Energies and forces were computed with MACE, model off-small (mace-torch 0.3.16; trained on SPICE 1, "
        "wB97M-D3(BJ)) [batatia2022mace, kovacs2025mace], ASE 3.29.0 [larsen2017atomic] and Rootstock "
        f"{__version__} [rootstock{__version__[:4]}] (build mace/{record.digest})."
    )
    found = entries(text)
    assert list(found) == [
        "batatia2022mace",
        "kovacs2025mace",
        "larsen2017atomic",
        f"rootstock{__version__[:4]}",
    ]
    kind, fields = found["kovacs2025mace"]
    assert (kind, fields["doi"], fields["eprint"], fields["archiveprefix"], fields["year"]) == (
        "article", "10.1021/jacs.4c07099", "2312.15211", "arXiv", "2025",
    )  # fmt: skip
    assert fields["author"].startswith("Kovács, Dávid Péter and Moore, J. Harry and")
    assert entries(done.stdout) == found  # the sentence before them is a comment to BibTeX


def test_the_weights_that_are_recorded(ask: Ask, mace_root: RootLayout) -> None:
    hashes = json.loads(ask("show", "mace", "--json", "--root", mace_root.root).stdout)["weights_record"]["files"]
    only = ask("cite", "mace", "--format", "text", "--root", mace_root.root).stdout
    assert f"; weights SHA-256 {hashes[0]['sha256']})." in only and "@" not in only
    assert "MACE, model medium-mpa-0 (mace-torch 0.3.16; trained on MPtrj + sAlex, PBE+U)" in only
    assert ask("cite", "mace", "--format", "bibtex", "--root", mace_root.root).stdout.startswith(
        "@article{batatia2022mace,"
    )


def test_the_same_as_json(ask: Ask, mace_root: RootLayout) -> None:
    data = json.loads(ask("cite", "mace-mh-1", "--json", "--root", mace_root.root).stdout)
    assert (data["schema"], data["model"]) == (1, "mace-mh-1")
    assert [work["key"] for work in data["works"]] == [*entries(data["bibtex"])]
    assert "2510.25380" in {work.get("arxiv") for work in data["works"]}
    assert all(f"{work['key']}" in data["methods"] for work in data["works"])
    by_alias = json.loads(ask("cite", "mace-mp-0-medium", "--json", "--root", mace_root.root).stdout)
    assert by_alias["model"] == "mace-medium"


def test_a_calculator_has_the_same_sentence(ask: Ask, root: Path) -> None:
    atoms = bulk("Ar", cubic=True)
    with RootstockCalculator(root=root, model="lj-argon") as calc:
        atoms.calc = calc
        atoms.get_potential_energy()
        info = calc.info()
    assert info["build"] in info["methods"] and info["methods"].startswith(
        "Energies and forces were computed with Lenn"
    )
    assert ask("cite", "lj-argon", "--format", "text", "--root", root).stdout == info["methods"] + "\n"
    with RootstockCalculator(root=root, model="lj-argon", setup_kwargs={"rc": 12.0}) as calc:
        assert 'Lennard-Jones, model argon (options {"rc": 12.0}) [' in calc.info()["methods"]


def test_a_checkpoint_of_ones_own_is_not_said_to_be_the_files(ask: Ask, mace_root: RootLayout) -> None:
    done = ask("cite", "mace-/data/mine.model", "--root", mace_root.root, "--format", "text")
    assert "MACE, model /data/mine.model (mace-torch 0.3.16) [batatia2022mace]," in done.stdout


def test_files_of_before(ask: Ask, tiny_root: Path, tmp_path: Path) -> None:
    record = read_build(RootLayout(tiny_root).active("tiny").resolve())
    assert record
    lines = ("[tool.rootstock]", 'citation = "A. Nobody & B., 50% {of} a_b #1, doi:10.1000/1"')
    (tmp_path / "old.py").write_text(header(*lines, dependencies=("six",)) + SETUP)
    put_environment(RootLayout(tiny_root), tmp_path / "old.py", record)
    done = ask("cite", "old", "--root", tiny_root)
    (kind, fields), *_ = entries(done.stdout).values()
    assert (kind, [*fields]) == ("misc", ["note"])
    assert plain(fields["note"]) == "A. Nobody & B., 50% <of> a_b #1, doi:10.1000/1"
    nothing = ask("cite", "tiny", "--root", tiny_root)
    assert [*entries(nothing.stdout)] == ["larsen2017atomic", f"rootstock{__version__[:4]}"]


def test_a_file_that_cites_ase_itself() -> None:
    source = replace(packaged_source("emt"), header={"tool": {"rootstock": {"citation": [dict(ASE)]}}})
    found = methods_of(source, "", None, ())
    assert "with emt, ASE [larsen2017atomic] and Rootstock" in found.sentence and len(found.works) == 2


def test_what_would_break_an_entry() -> None:
    hostile = r"}, year = {1}} @comment{ \input{x} $ ~ ^ \\ { {{"
    works: list[Work] = [
        dict.fromkeys(("authors", "title", "journal", "pages", "doi", "arxiv", "url", "note"), hostile),
        {"authors": "Ann", "title": "On the one", "year": 2020}, {"authors": "Ann", "title": "The one", "year": 2020},
        {"authors": "Ann", "title": "The one", "year": 2020}, {},
    ]  # fmt: skip
    found = entries(bibtex(with_keys(works)))
    assert len(found) == 4 and {"ann2020one", "ann2020oneb", "work"} < {*found}
    _, fields = next(iter(found.values()))
    assert "year" not in fields
    assert plain(fields["note"]) == hostile.replace("{", "<").replace("}", ">")


@pytest.mark.parametrize("name", packaged_names())
def test_every_packaged_model_has_works(name: str) -> None:
    source = packaged_source(name)
    for model in source.released:
        works = works_of(source.rootstock["citation"], model)
        assert works
        for work in works:
            assert {"authors", "title", "year"} <= {*work} and {"doi", "arxiv"} & {*work}
            assert re.fullmatch(r"10\.\d{4,9}/\S+", work.get("doi", "10.1000/1"))
            assert re.fullmatch(r"\d{4}\.\d{4,5}", work.get("arxiv", "2000.00000"))
        assert len(entries(bibtex(with_keys(works)))) == len(works)


def test_a_line_for_people() -> None:
    assert line(ASE) == (
        "Larsen et al., The atomic simulation environment---a Python library for working with atoms, "
        "Journal of Physics: Condensed Matter 29, 273002 (2017), doi:10.1088/1361-648X/aa680e"
    )
    assert line({"authors": "Jones, J. E.", "year": 1924}) == "Jones, (1924)"
    assert line({"note": "as told"}) == "as told"


def test_our_own_entry_is_that_of_the_repository() -> None:
    text = (REPOSITORY / "CITATION.cff").read_text()
    assert f'title: "{OWN["title"]}"' in text and f"version: {OWN['version']}" in text
    assert f"- name: {OWN['authors'].strip('{}')}" in text


@pytest.mark.parametrize(("model", "code"), [("mace-of-small", 3), ("maze", 4)])
def test_a_misspelt_model(ask: Ask, mace_root: RootLayout, model: str, code: int) -> None:
    done = ask("cite", model, "--root", mace_root.root)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Did you mean" in done.stderr
