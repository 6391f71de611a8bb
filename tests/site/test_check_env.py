"""``rootstock-site new-env`` and ``check-env``."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from rootstock.config.environment_file import packaged_names
from rootstock.config.header_kinds import KEYS
from rootstock.config.packaged import data_folder
from rootstock.reports.envfile_lint import check_environment
from tests.conftest import Site
from tests.support.commands import REPOSITORY, SITE, clean_environment, run
from tests.support.tiny_root import SETUP

# Written out, as the lines are counted in which something is wrong.
HEADER = """\
# /// script
# requires-python = ">=3.10"
# dependencies = ["ase>=3.23"]
#
# [tool.rootstock]
"""
NO_REFERENCES = "there are no references: nobody checks the numbers of a build."
DIMER = '{ name = "pair", source = "none", symbols = "Ar2", positions = [[0, 0, 0], [0, 0, 4]]'


def said(folder: Path, text: str) -> list[tuple[int | None, str, str]]:
    """Return what is found wrong, but for the warning that there are no references."""
    path = folder / "mine.py"
    path.write_text(text)
    found = check_environment(path)
    return [(each.line, each.severity, each.text) for each in found if each.text != NO_REFERENCES]


def header(*lines: str) -> str:
    return HEADER + "".join(f"# {line}\n" for line in lines) + "# ///\n" + SETUP


@pytest.mark.parametrize("path", sorted(data_folder("environments").glob("*.py")), ids=lambda path: path.name)
def test_the_packaged_files_are_right(path: Path) -> None:
    assert check_environment(path) == []


def test_the_packaged_files_are_all_of_them() -> None:
    assert {path.stem for path in data_folder("environments").glob("*.py")} == set(packaged_names()) != set()


def test_every_key_is_documented_and_known() -> None:
    page = (REPOSITORY / "docs/reference/environment-files.md").read_text()
    table = page.split("| key of `[tool.rootstock]` | holds |")[1].split("\n\n")[0]
    assert sorted(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == sorted(KEYS)


def test_a_new_file_passes_and_is_never_replaced(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "my@1.2.py"
    done = site("new-env", "my@1.2", "-o", path)
    assert f"rootstock-site check-env {path} --build" in done.stdout
    shown = site("check-env", path).stdout
    assert shown.endswith(f"{path}: 0 errors, 2 warnings\n") and shown.count(" is still that of the example.") == 2
    before = path.read_text()
    assert "my@1.2: " in before
    path.write_text("mine")
    again = site("new-env", "my@1.2", "-o", path, check=False)
    assert again.returncode == 3
    assert f"{path} exists, and is left as it is." in again.stderr
    assert path.read_text() == "mine"
    dangling = tmp_path / "link.py"
    dangling.symlink_to(tmp_path / "target")
    assert site("new-env", "link", "-o", dangling, check=False).returncode == 3
    assert not (tmp_path / "target").exists()


def test_a_new_file_is_written_where_one_is(tmp_path: Path) -> None:
    run(SITE, "new-env", "mine", cwd=tmp_path, check=True)
    assert os.listdir(tmp_path) == ["mine.py"]


@pytest.mark.parametrize("name", ["../mine", "", "a b", "a;b", "-x", "x" * 101, "mine\n", "mine.py", "naïve"])
def test_names_that_cannot_be_are_refused(site: Site, tmp_path: Path, name: str) -> None:
    done = site("new-env", "-o", tmp_path / "mine.py", "--", name, check=False)
    assert done.returncode == 3
    assert "cannot name an environment" in done.stderr
    assert os.listdir(tmp_path) == []


def test_the_file_must_be_called_as_the_environment(site: Site, tmp_path: Path) -> None:
    done = site("new-env", "mine", "-o", tmp_path / "yours.py", check=False)
    assert done.returncode == 3
    assert f"Give -o {tmp_path}/mine.py" in done.stderr
    nowhere = site("new-env", "mine", "-o", tmp_path / "none/mine.py", check=False)
    assert nowhere.returncode == 16
    assert "No such file or directory" in nowhere.stderr


WRONG = """\
# /// script
# requires-python = "3.10+"
# dependencies = ["ase", "no requirement", "torch>=2"]
# dependancies = []
#
# [tool.rootstock]
# description = 3
# refrences = []
# all-models-listed = true
# elements = ["H", "Xx"]
# properties = ["energy", "force"]
# warm = ["small", "smal"]
#
# [tool.rootstock.models]
# "small" = "a model"
#
# [tool.rootstock.cache]
# MY_CACHE = "../elsewhere"
#
# [[tool.rootstock.references]]
# name = "pair"
# source = "none"
# model = "large"
# symbols = "Ar2"
# positions = [[0.0, 0.0, 0.0]]
# ///
import os


def setup(name, size):
    os.mkdir("executed")
"""


def test_everything_is_said_at_once_with_lines_and_nothing_is_executed(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(WRONG)
    done = run(SITE, "check-env", path, cwd=tmp_path)
    assert done.returncode == 3
    lines = [line.removeprefix(f"{path}:") for line in done.stdout.splitlines()]
    expected = [
        (2, "error: requires-python is no version specifier: '3.10+'."),
        (3, "warning: dependency 'ase' has no lower bound"),
        (3, "error: dependency 'no requirement' is no requirement: "),
        (4, "error: the header has an unknown key 'dependancies'. Did you mean 'dependencies'?"),
        (7, "error: description must be a string, not 3."),
        (8, "error: [tool.rootstock] has an unknown key 'refrences'. Did you mean 'references'?"),
        (10, "error: elements: 'Xx' is neither an element nor a range of elements."),
        (11, "error: ASE has no property 'force'. Did you mean 'forces'"),
        (12, "error: Environment 'mine' has no model 'smal'."),
        (18, "error: [tool.rootstock.cache] MY_CACHE must name a folder under the root's cache, not '../elsewhere'."),
        (20, "error: reference 'pair' is no structure: "),
        (23, "error: Environment 'mine' has no model 'large'. It has: small."),
        (30, "warning: setup()'s first argument is called 'name'"),
        (30, "error: setup() must take an argument with the name device"),
        (30, "error: setup() is given a model and a device only: 'size' needs a default."),
    ]
    assert lines[-1] == " 13 errors, 2 warnings"
    for (number, text), line in zip(expected, lines[:-1], strict=True):
        assert line.startswith(f"{number}: {text}"), line
    assert os.listdir(tmp_path) == ["mine.py"]
    data = json.loads(site("check-env", path, "--json", check=False).stdout)
    assert (data["errors"], data["warnings"], "build" in data) == (13, 2, False)
    assert [each["line"] for each in data["findings"]] == [number for number, _ in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SETUP, "None: error: there is no header"),
        ("\n# /// script\n# a = 1\n" + SETUP, "2: error: this header has no end"),
        (header() + header(), "9: error: another header"),
        (HEADER + "# a = \n# ///\n" + SETUP, "6: error: the header is not TOML: Invalid value."),
        (HEADER + "# a = [\n# ///\n" + SETUP, "7: error: the header is not TOML: "),
        (HEADER + "# a = 1\n# a = 1\n# ///\n" + SETUP, "7: error: the header is not TOML: Cannot overwrite a value"),
        (header().replace("# requires-python", "# #"), "2: error: there is no requires-python"),
        (header().replace('">=3.10"', "3.10"), "2: error: requires-python is no version specifier: 3.1."),
        (header().replace('["ase>=3.23"]', '"ase"'), "3: error: dependencies must be a list of strings"),
        (header().replace("ase>=3.23", "six>=1"), "3: warning: ase is no dependency"),
        (header().replace("ase>=3.23", "ase>=3.23\", \"six<2"), "3: warning: dependency 'six<2' has no lower bound"),
        (header().replace("[tool.rootstock]", "tool = 3"), "5: error: [tool.rootstock] must be a table"),
        (header("models = ['a']"), "6: error: models must be a table of strings"),
        (header("models = { a = 1 }"), "6: error: models must be a table of strings"),
        (header("all-models-listed = 1"), "6: error: all-models-listed must be true or false"),
        (header("licence = 'MIT'"), "6: error: licence must be a table of strings"),
        (header("package = 'mine'"), "6: warning: package 'mine' is no dependency: `rootstock list` shows"),
        (header("licence = { cod = 'MIT' }"), "6: error: licence has an unknown key 'cod'. Did you mean 'code'?"),
        (header("room = { megabytes = 1 }"), "6: error: room must be a table such as"),
        (header("room = { megabytes = 'a', files = 1 }"), "6: error: room: megabytes must be a number"),
        (header("", "[tool.rootstock.consistency]", "rotation = 0"), "8: error: consistency: rotation must be true"),
        (header("batch = { force = 1.0 }"), "6: error: batch has an unknown key 'force'. Did you mean 'forces'?"),
        (header("finite-differences = { forces = nan }"), "6: error: finite-differences: forces must be a number"),
        (header("cache = { A = '/tmp' }"), "6: error: [tool.rootstock.cache] A must name a folder"),
        (header("cache = { A = 3 }"), "6: error: [tool.rootstock.cache] A must name a folder"),
        (header("variants = [{ elements = ['H'] }]"), "6: error: variant 1 names no models"),
        (header("variants = [{ models = ['a'], elements = ['Q'] }]"), "6: error: variant 1: elements: 'Q' is neither"),
        (header("variants = [{ models = ['a'], properties = 'energy' }]"), "6: error: variant 1: properties must be"),
        (header("extra-properties = { q = 'per_atom,' }"), "6: error: extra-properties: 'q' has the shape 'per_atom,'"),
        (header("extra-properties = { q = '3n' }"), "6: error: extra-properties: 'q' has the shape '3n'"),
        (header("extra-properties = { q = 'scalar,3' }"), "6: error: extra-properties: 'q' has the shape 'scalar,3'"),
        (header("extra-properties = { 'a b' = 'N' }"), "6: error: extra-properties: 'a b' cannot name a result"),
        (header("extra-properties = { pbc = 'N' }"), "6: error: extra-properties: files of structures mean something"),
        (header("properties = ['energies']", "extra-properties = { energies = 'models' }"),
         "7: error: extra-properties: 'energies' is among ASE's properties above"),
        (header("variants = [{ models = ['a'], extra-properties = { q = '-1' } }]"),
         "6: error: variant 1: extra-properties: 'q' has the shape '-1'"),
        (header("methods = ['_private']"), "6: error: methods: '_private' is no name of a method"),
        (header("methods = ['get_charges']"), "6: error: methods: 'get_charges' is a method of Rootstock's own"),
        (header("references = [3]"), "6: error: references must be a list of tables"),
        (header("references = [{}]"), "6: error: [[tool.rootstock.references]] number 1 has no string 'name'"),
        (header(f"references = [{DIMER}, expected = 3 }}]"), "6: error: [[tool.rootstock.references]] number 1: "),
        (header(f"references = [{DIMER}, expected = {{ energy = 1 }} }}]"), "6: error: [[tool.rootstock.references]]"),
        (header("aliases = { 'a b' = '' }"), "6: error: alias 'a b' may hold letters, digits and . _ @ + / - only."),
        (header("aliases = { mine = '' }"), "6: error: alias 'mine' is a model string of this file, which wins."),
        (header("models = { a = '' }", "aliases = { mine-a = 'a' }"), "7: error: alias 'mine-a' is a model string"),
        (header("models = { a = '' }", "aliases = { x = 'ab' }"), "7: error: alias 'x' leads to 'ab', which is no"),
        (header("models = { a = '' }", "aliases = { x = '/a' }"), "7: error: alias 'x' leads to '/a', which is no"),
        (header("models = { a = '' }", "aliases = { mine-x = 'a' }"), "7: warning: alias 'mine-x' is never looked for"),
        (header("models = { a = '' }", "bundled = ['b*']"), "7: error: bundled: 'b*' fits no model of this file."),
        (header("optional-properties = ['force']"), "6: error: ASE has no property 'force'. Did you mean 'forces'?"),
        (header("needs = ['two words']"), "6: error: needs: 'two words' is neither charge, spin, mult, "),
        (header("needs = ['device']"), "6: error: needs: 'device' is neither "),
        (header("needs = ['initial_magmom']"), "6: warning: needs: 'initial_magmom' stands for an argument in"),
        (header("variants = [{ models = ['a'], needs = ['a b'] }]"), "6: error: variant 1: needs: 'a b' is neither"),
        (header("dispersion = 'yes'"), "6: error: dispersion must be offered or included, not 'yes'."),
        (header("functional = ' '"), "6: error: functional is empty: leave it out if nobody knows."),
        (header("training-set = ''"), "6: error: training-set is empty"),
        (header("citation = [{ titel = 'a' }]"), "6: error: [[tool.rootstock.citation]] number 1 has an unknown key"),
        (header("citation = [{ year = 2024 }]"), "6: error: [[tool.rootstock.citation]] number 1 names no work"),
        (header("citation = [{ year = '1' }]"), "6: error: [[tool.rootstock.citation]] number 1: year must be a year"),
        (
            header("models = { a = '' }", "citation = [{ models = ['b'] }]"),
            "7: error: [[tool.rootstock.citation]] number 1: models: 'b' fits no model of this file.",
        ),
        (header("home = ['/root/.cache']"), "6: error: home must name folders below the home, such as .cache/"),
        (header("home = ['a/../../b']"), "6: error: home must name folders below the home"),
        (header("home = ['.cache/a', '.cache']"), "6: error: home names '.cache/a', which is in '.cache' already."),
        (header("accelerators.cpu.dependencies = ['jax[cuda']"), "6: error: accelerators.cpu: 'jax[cuda' is no"),
        (header("accelerators.cpu.overrides = ['jax ; x']"), "6: error: accelerators.cpu: 'jax ; x' is no requirement"),
        (header("accelerators.cpu.indexes = ['rel/simple']"), "6: error: accelerators.cpu: index 'rel/simple' is"),
        (header("accelerators = { gpu = {} }"), "6: error: accelerators has an unknown key 'gpu'."),
        (header("accelerators = { cuda = { depends = [] } }"), "6: error: accelerators: cuda must be a table such as"),
        (header("elements = ['H']", f"references = [{DIMER} }}]"), "7: error: mine.py has no Ar among its elements"),
        (header() + "x = (", "9: error: not valid Python: '(' was never closed."),
        (header() + "return 3\n", "9: error: not valid Python: 'return' outside function."),
        (header() + "\0", "None: error: not valid Python: "),
        (header() + "x = '\\d'\n", "9: warning: Python says: invalid escape sequence"),
        (header().replace("setup", "set_up"), "None: error: there is no function setup(model, device)."),
        (header().replace("def", "async def"), "7: error: setup() must be an ordinary function"),
        (header().replace("model, ", ""), "7: error: setup() must take the model first"),
        (header().replace("device=", "gpu="), "7: error: setup() must take an argument with the name device"),
        (header().replace(', device="cpu"', ""), "7: error: setup() must take an argument with the name device"),
        (header().replace('device="cpu"', "device, *, size"), "7: error: setup() is given a model and a device only"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_where_it_is(tmp_path: Path, text: str, expected: str) -> None:
    found = [f"{line}: {severity}: {text}" for line, severity, text in said(tmp_path, text)]
    assert any(each.startswith(expected) for each in found), found
    assert len(found) == 1 or " error: " in expected


@pytest.mark.parametrize(
    "signature",
    ["model, device", "model='', device='cpu', **kwargs", "model, /, *, device", "*args, **kwargs", "model, **options"],
)
def test_every_signature_that_a_worker_can_call_is_right(tmp_path: Path, signature: str) -> None:
    assert said(tmp_path, header().replace('model, device="cpu"', signature)) == []


def hooked(*lines: str) -> str:
    """Return a file with a class, whose first line of content is the 12th."""
    return header() + "\n\nclass Mine:\n" + "".join(f"    {line}\n" for line in lines)


GOOD = "def calculate_batch(self, images, properties): ..."


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["def calculate_batch(self, images): ..."], "12: error: calculate_batch() must take what the worker gives it: "
         "def calculate_batch(self, images, properties)."),
        (["def calculate_batch(self, images, properties, task): ..."], "12: error: calculate_batch() must take"),
        (["def calculate_batch(self, images, properties, *, task): ..."], "12: error: calculate_batch() must take"),
        ([f"async {GOOD}"], "12: error: calculate_batch() must be an ordinary method"),
        ([GOOD, "def batch_cost(self): ..."], "13: error: batch_cost() must take what the worker gives it: def "
         "batch_cost(self, images)."),
        (["def batch_cost(self, images): ..."], "12: warning: the worker uses batch_cost only with calculate_batch("),
        (["fixed_shapes = (1, 2)"], "12: warning: the worker uses fixed_shapes only with calculate_batch("),
        ([GOOD, "fixed_shapes = (64, 32)"], "13: error: fixed_shapes must be ascending sizes, such as (64, 256, 1024), "
         "not (64, 32)."),
        ([GOOD, "fixed_shapes: tuple = (0, 32)"], "13: error: fixed_shapes must be ascending sizes"),
        ([GOOD, "def __init__(self):", "    self.fixed_shapes = 64"], "14: error: fixed_shapes must be ascending"),
        ([GOOD.replace("_batch", "_batches")], "12: warning: the worker ignores method calculate_batches(). Did you "
         "mean 'calculate_batch'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_way_to_compute_many_is_found(tmp_path: Path, lines: list[str], expected: str) -> None:
    [(line, severity, text)] = said(tmp_path, hooked(*lines))
    assert f"{line}: {severity}: {text}".startswith(expected)


def test_a_function_outside_of_the_calculator_is_no_way_to_compute_many(tmp_path: Path) -> None:
    text = header() + GOOD.replace("self, ", "") + "\n"
    [found] = said(tmp_path, text)
    assert found == (
        9,
        "warning",
        "the worker looks for calculate_batch() in the calculator: make it a method of its class.",
    )
    assert said(tmp_path, text + "\n\ncalc.calculate_batch = calculate_batch\n") == []


@pytest.mark.parametrize(
    "lines",
    [
        [GOOD, "def batch_cost(self, images): ...", "fixed_shapes = [64, 128.5]"],
        ["def calculate_batch(self, *args): ...", "batch_cost = None", "fixed_shapes: tuple"],
        ["def calculate_batch(self, images, properties, task=None, **more): ...", "fixed_shapes = tuple(range(1, 9))"],
        [
            "@staticmethod",
            GOOD.replace("self, ", ""),
            "def calculate_batch_of_mine(self): ...",
            "def _batch_cost(self): ...",
        ],
    ],
)
def test_what_a_worker_can_call_is_right(tmp_path: Path, lines: list[str]) -> None:
    assert said(tmp_path, hooked(*lines)) == []


def test_whether_many_are_computed_together_is_said(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(hooked("def batch_cost(self, images): ...", GOOD))
    together = f"{path}: supports batches: batch_cost (line 12), calculate_batch (line 13)\n"
    assert together in site("check-env", path).stdout
    assert json.loads(site("check-env", path, "--json").stdout)["batch"] == {"batch_cost": 12, "calculate_batch": 13}
    path.write_text(header())
    assert "batches" not in site("check-env", path).stdout
    assert json.loads(site("check-env", path, "--json").stdout)["batch"] == {}


def test_a_checkpoint_of_ones_own_may_be_a_reference_where_paths_are_taken(tmp_path: Path) -> None:
    models = ("all-models-listed = true", "models = { a = 'A', '/path/to/it' = 'your own' }")
    assert said(tmp_path, header(*models, f"references = [{DIMER}, model = '/my/own' }}]")) == []
    [refused] = said(tmp_path, header(*models, f"references = [{DIMER}, model = 'b' }}]"))
    assert refused[1:] == ("error", "Environment 'mine' has no model 'b'. It has: a; or the path of a checkpoint.")


def test_a_name_that_cannot_be_and_a_file_that_is_not_there(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "a b.txt"
    path.write_text(header())
    done = site("check-env", path, check=False)
    assert done.returncode == 3
    assert "name ends with .py" in done.stdout and "'a b' cannot name an environment" in done.stdout
    missing = site("check-env", tmp_path / "none.py", check=False)
    assert missing.returncode == 4
    assert "There is no environment file" in missing.stderr


def test_a_build_is_made_and_leaves_nothing(site: Site, tiny: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    cache = tmp_path / "uv"
    done = site(
        "check-env", tiny, "--build", "--set", f"uv.cache={cache}", "--json",
        environment=clean_environment(TMPDIR=str(scratch)),
    )  # fmt: skip
    data = json.loads(done.stdout)
    room = data["build"].pop("room")
    assert data["build"] == {"passed": 0, "not_run": 0, "checks": []}
    assert room["megabytes"] == 1 and room["files"] > 2  # of one module: Python's link, the module, its metadata
    assert (data["errors"], data["warnings"]) == (0, 3)
    assert "tiny" in done.stderr  # its progress
    assert not list(scratch.glob("rootstock-check-*"))
    assert cache.is_dir()
    tiny.write_text(tiny.read_text().replace('"six"', '"six>=1", "ase>=99999"'))
    failed = site(
        "check-env", tiny, "--build", "--set", f"uv.cache={cache}", check=False,
        environment=clean_environment(TMPDIR=str(scratch)),
    )  # fmt: skip
    assert failed.returncode == 14
    assert re.search(r"ase(\{.*\})?>=99999", failed.stderr)
    assert not list(scratch.glob("rootstock-check-*"))


@pytest.mark.parametrize(
    ("lines", "line", "text"),
    [
        ('licence = { code = "mit", weights = "MIT" }', 6,
         "licence 'mit' is in no class: users see it as unknown. Write 'MIT'."),
        ('licence = { code = "MIT", weights = "GPLv3" }', 6,
         "licence 'GPLv3' is in no class: users see it as unknown. "
         "Did you mean 'GPL-3.0-only' or 'GPL-3.0-or-later'?"),
        ('licence = { weights = "ask us" }', 6,
         "licence 'ask us' is in no class: users see it as unknown. Use an identifier of https://spdx.org/licenses/, "
         "ASL or FAIR-Chemistry-1.0; or 'as stated at PAGE'."),
        ('variants = [{ models = ["a"], licence = "academic" }]', 6,
         "variant 1: licence 'academic' is in no class: users see it as unknown. Use an identifier of "
         "https://spdx.org/licenses/, ASL or FAIR-Chemistry-1.0; or 'as stated at PAGE'."),
        ('description = "mine"\nfunctional = "R2SCAN"', 7,
         "functional 'R2SCAN' is none that filters know. Write 'r2SCAN'."),
        ('functional = "PBE+U, wB97M-VV10"', 6,
         "functional 'wB97M-VV10' is none that filters know. Did you mean 'wB97M-V'?"),
        ('training-set = "MPTrj + sAlex"', 6, "training set 'MPTrj' is spelt 'MPtrj' in other files."),
        ('variants = [{ models = ["a"], training-set = "omat 24" }]', 6,
         "variant 1: training set 'omat 24' is spelt 'OMat24' in other files."),
    ],
)  # fmt: skip
def test_words_that_filters_would_not_find(tmp_path: Path, lines: str, line: int, text: str) -> None:
    assert said(tmp_path, header(*lines.split("\n"))) == [(line, "warning", text)]


def test_words_that_are_welcome(tmp_path: Path) -> None:
    text = header(
        'licence = { code = "GPL-3.0-only", weights = "as stated at doi:10.1000/1" }',
        'functional = "PBE+U, wB97M-D3(BJ)"',
        'training-set = "MPtrj (part) + a set of my own"',
    )
    assert said(tmp_path, text) == []


def test_files_of_the_same_name(site: Site, tmp_path: Path) -> None:
    paths = [tmp_path / name / "mine.py" for name in ("without", "with")]
    for path, text in zip(paths, [SETUP, header("models = { a = '' }", "aliases = { emt = 'a' }")], strict=True):
        path.parent.mkdir()
        path.write_text(text)
    done = site("check-env", *paths, check=False)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert f"alias 'emt' in {paths[1]} is the name of an environment" in done.stdout
