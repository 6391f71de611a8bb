"""Files that nobody would write, in the places where other people write: each is one error, and no program waits."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rootstock.builds.uv_scripts import recipe_text
from rootstock.config.clusters import get_cluster
from rootstock.config.environment_file import read_source
from rootstock.config.environment_text import header_blocks
from rootstock.config.header_kinds import KEYS
from rootstock.config.reference_structure import reference_atoms
from rootstock.errors import ConfigurationError, RootstockError
from rootstock.reports.envfile_lint import check_environment
from rootstock.root.layout import RootLayout
from rootstock.root.plain_files import parse_toml
from tests.conftest import Site
from tests.support.commands import ROOTSTOCK, SITE, clean_environment, run
from tests.support.tiny_root import SETUP

# The reference expression of the specification of inline script metadata.
BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
LINES = ("# /// script", "# ///", "#", "# a = 1", "x = 1", "", "# /// x-y", "#x", "# # ///", " # ///", "# \u2028b")
HEADER = '# /// script\n# requires-python = ">=3.10"\n# dependencies = ["ase>=3.23"]\n'


def test_headers_are_those_of_the_specification() -> None:
    chance = random.Random(1)
    for _ in range(20_000):
        text = "\n".join(chance.choices(LINES, k=chance.randrange(14))) + chance.choice(["", "\n"])
        blocks = [match for match in BLOCK.finditer(text) if match["type"] == "script"]
        expected = [
            (text.count("\n", 0, match.start()) + 1, [line[2:] for line in match["content"].split("\n")])
            for match in blocks
        ]
        assert [(block.begin, block.toml.split("\n")) for block in header_blocks(text)] == expected, text


def header(*lines: str) -> str:
    return HEADER + "".join(f"# {line}\n" for line in lines) + "# ///\n" + SETUP


HOSTILE = {
    "beginnings of headers": ("# /// script\n" * 20_000, None, "has 0 headers"),
    "a header without an end": ("# /// script\n" + "# x\n" * 60_000, None, "has 0 headers"),
    "20,000 lines": (header(*["#"] * 20_000), 1, "it has more than 10000 lines"),
    "lists in lists": (header("a = " + "[" * 60_000), 20, "It is nested too deep"),
    "lists that end": (header("a = " + "[" * 100 + "]" * 100), 20, "It is nested too deep"),
    "tables in tables": (header("a." * 60_000 + "a = 1"), 4, "A key is nested too deep"),
    "a number": (header("a = " + "9" * 5000), 20, "Exceeds the limit"),
    "a version": (header().replace(">=3.10", f">={'9' * 5000}"), 2, "Exceeds the limit"),
    "signs": (f"{header()}x = {'-' * 100_000}1\n", None, "nested too deep"),
    "attributes": (f"{header()}x{'.a' * 100_000}\n", None, "nested too deep"),
    "a megabyte": (header() + "#" * 2**20, None, "it is larger than 256 kB"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_environment_file_that_nobody_would_write_is_one_error(site: Site, tmp_path: Path, case: str) -> None:
    text, line, message = HOSTILE[case]
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(message)) as raised:
        read_source(path)
    where = str(raised.value)
    assert str(path) in where
    if line and line != 20:  # the last line, for what has no other
        assert where.startswith(f"{path}:{line}: ")
    done = site("check-env", path, check=False)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert f"{path}" in done.stdout + done.stderr


DOTTED = ".".join(["a"] * 100)


@pytest.mark.parametrize(
    "text",
    [
        f"x = 1 # don't: {DOTTED}",
        f'x = """\n{DOTTED}\n"""',
        f"x = '''\n{DOTTED} '' {DOTTED}\n''' # {DOTTED}",
        f'x = """{DOTTED} \\""" "" {DOTTED} """""',
        f'x = ["", "#", """""", """ # """, "{DOTTED}"]',
        f"x = ['', '#', '''''', ''' # ''', '{DOTTED}']",
    ],
)
def test_only_keys_are_keys(text: str) -> None:
    assert parse_toml(text) == tomllib.loads(text)
    with pytest.raises(ValueError, match=r"A key is nested too deep \(at line \d+, column 1\)"):
        parse_toml(f"{text}\n{DOTTED} = 1")


def test_of_ten_thousand_faults_the_first_hundred_are_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(header("[tool.rootstock]", *(f"a{number} = 1" for number in range(9000))))
    found = check_environment(path)
    assert len(found) == 101
    assert any(each.text == "there is more wrong than these 100: correct them first." for each in found)


def put(kind: str, path: Path) -> None:
    """Put in a file's place what is none."""
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a socket":
        folder = os.open(path.parent, os.O_RDONLY)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    else:
        with path.open("w") as file:
            file.truncate(2**40)


NO_FILES = {
    "a folder": "it is a folder, not a file",
    "a pipe": "it is a pipe, not a file",
    "a device": "it is a device, not a file",
    "a socket": "it is a socket, not a file",
    "a terabyte": "it is larger than ",
}


@pytest.fixture(params=NO_FILES)
def no_file(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, NO_FILES[request.param]


def test_what_is_no_file_is_no_environment_file(site: Site, tmp_path: Path, no_file: tuple[str, str]) -> None:
    path = tmp_path / "mine.py"
    put(no_file[0], path)
    with pytest.raises(ConfigurationError, match=f"Cannot read the environment file {path}: {no_file[1]}"):
        read_source(path)
    done = site("check-env", path, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith(f"Error: Cannot read the environment file {path}: {no_file[1]}")


def test_what_is_no_file_in_a_root_is_told(site: Site, tiny_root: Path, no_file: tuple[str, str]) -> None:
    """One that is a file stays in the list."""
    layout = RootLayout(tiny_root)
    put(no_file[0], layout.environment_file("broken"))
    status = site("status", "--root", tiny_root, check=False).stdout
    assert f"environments/broken.py: Cannot read the environment file {layout.environment_file('broken')}: " in status
    assert no_file[1] in status and "\nenvironment tiny: build " in status
    build = layout.active("tiny").resolve()
    for path, remedy in (
        (build / "build.json", "rootstock-site repair"),
        (layout.generations / "1.json", ".damaged"),
        (layout.marker, "Ask the site's admin."),
    ):
        kept = path.read_bytes()
        os.chmod(path.parent, 0o755)
        put(no_file[0], path)
        done = site("status", "--root", tiny_root, check=False)
        assert f"Cannot read {path}: {no_file[1]}" in done.stdout + done.stderr
        assert remedy in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        path.rmdir() if no_file[0] == "a folder" else path.unlink()
        path.write_bytes(kept)
    for path, code in ((layout.lock_file("tiny"), 0), (build / "SHA256SUMS", 10), (layout.clusters_file, 3)):
        put(no_file[0], path)
        done = site("verify", "--files", "--root", tiny_root, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_what_is_no_file_is_no_registry(site: Site, tmp_path: Path, no_file: tuple[str, str]) -> None:
    path = tmp_path / "rootstock" / "clusters.toml"
    path.parent.mkdir()
    put(no_file[0], path)
    done = site("render", check=False, environment=clean_environment(XDG_CONFIG_HOME=str(tmp_path)))
    assert done.returncode == 3
    assert done.stderr.startswith(f"Note: Cannot read the cluster registry {path}: {no_file[1]}")


def test_a_link_that_leads_to_nothing_is_one_answer(site: Site, tiny_root: Path) -> None:
    link = tiny_root / "environments/emt.py"  # one that ships with Rootstock
    link.symlink_to("/nowhere/emt.py")
    said = f"{link} leads to /nowhere/emt.py, which is not there."
    for command in (["show", "emt"], ["why-not", "emt"], ["doctor", "--wait", "100"]):
        done = run(ROOTSTOCK, *command, "--root", tiny_root)
        assert said in done.stdout + done.stderr
    for command in (["warm", "--env", "emt"], ["lock", "--env", "emt"], ["install", "--env", "emt", "--no-client"]):
        done = site(*command, "--root", tiny_root, check=False)
        assert (done.returncode != 0, said in done.stderr) == (True, True), done.stderr


@pytest.mark.parametrize(
    "words",
    [("page", "--root", "{root}", "-o"), ("render", "--cluster", "local", "--output"), ("new-env", "mine", "-o"),
     ("bundle", "create", "--root", "{root}"), ("lock", "--cluster", "local", "--env"),
     ("install", "--cluster", "local", "--root")],
)  # fmt: skip
def test_a_home_that_nobody_has_is_one_error(tiny_root: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """A folder of that name would be made in the present one."""
    given = (word.format(root=tiny_root) for word in words)
    done = run(SITE, *given, "~nosuch/here/mine.py", cwd=tmp_path, env=clean_environment())
    assert (done.returncode, [*tmp_path.iterdir()]) == (3, []), done.stdout
    assert done.stderr.startswith(
        "Error: ~nosuch/here/mine.py: this machine knows no home folder for ~nosuch.\n"
        "Set HOME, or write the path without ~."
    )


VALUES = (
    "3", "nan", "true", '"x"', "[]", "[1]", '["x"]', "[[1]]", "{}", "{ a = 1 }", '{ a = "x" }', "[{}]", "[{ a = 1 }]",
    "1979-05-27", '{ megabytes = "x", files = 1 }', "{ megabytes = 1, files = 1, cuda = 3 }", '{ "A=B" = "x" }',
    '{ A = "x\\u0000" }', "1" + "0" * 400,
)  # fmt: skip
REFERENCES = (
    'expected = { energy = "x" }, tolerance = { energy = 1 }',
    "expected = { stress = [[1], [1, 2]] }, tolerance = { stress = 1 }",
    'cell = "x"', "cell = [0, 0, 0], pbc = 7", "positions = [[1979-05-27, 0, 0]]", "versions = { a = 1 }",
    f'versions = {{ a = ">={"9" * 5000}" }}', "options = { a = 1979-05-27 }", "model = 3", "options = []",
)  # fmt: skip
SYMBOLS = ("H999999999", "(((((((", "(H99999)99999", "")


def cases() -> list[str]:
    """Return lines of headers, each with a key that is of another kind than it must be, or about to be."""
    ours = [f"tool.rootstock.{key} = {value}" for key in KEYS for value in VALUES]
    uvs = [f"tool.uv.{key} = {value}" for key in ("sources", "index", "find-links", "x") for value in VALUES]
    tops = [f"{key} = {value}" for key in ("tool", "tool.uv", "tool.rootstock", "unknown") for value in VALUES]
    inside = ("properties", "elements", "needs", "licence", "unknown")
    variants = [
        f'tool.rootstock.variants = [{{ models = ["x"], {key} = {value} }}]' for key in inside for value in VALUES
    ]
    references = [f'symbols = "Ar", {text}' for text in REFERENCES] + [f'symbols = "{text}"' for text in SYMBOLS]
    references = [f'tool.rootstock.references = [{{ name = "a", source = "b", {text} }}]' for text in references]
    return [*ours, *uvs, *tops, *variants, *references]


def use(path: Path) -> None:
    """Use all that a header says, as commands do."""
    source, cluster = read_source(path), get_cluster("local")
    assert source.requires_python is not None
    json.dumps(
        [source.summary(), source.strings(), source.released, source.warm, source.room("cuda"), source.doubt("x")]
    )
    dict(source.cache_variables)
    for model in ("x", *source.models):
        source.capabilities(model)
    for reference in source.references():
        json.dumps([reference_atoms(reference, source).get_chemical_formula(), reference.model, reference.options])
        assert all(np.isfinite(np.asarray(value, dtype=float)).all() for value in reference.expected.values())
    assert [dict(source.rootstock.get("consistency", {})), source.rootstock.get("licence", {}).get("weights")]
    recipe_text(source.header, cluster, "cpu")


@pytest.mark.parametrize("look", [use, check_environment], ids=["used", "checked"])
def test_a_header_of_wrong_kinds_is_one_error_or_can_be_used(tmp_path: Path, look: Callable[[Path], object]) -> None:
    path, refused = tmp_path / "mine.py", 0
    for line in cases():
        path.write_text(HEADER + f"# {line}\n# ///\n" + SETUP)
        try:
            look(path)
        except RootstockError:
            refused += 1
    assert look is check_environment or refused > 200


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tool.rootstock.models = 3", "4: models must be a table of strings, not 3."),
        (
            'tool.rootstock.citation = "\\u001b[31mred"',
            "4: citation must be a string or a list of tables, not '\\x1b[31mred'.",
        ),
        ('tool.rootstock.room = "x"', "4: room must be a table such as { megabytes = 350, files = 10500 }, not 'x'."),
        ("tool.rootstock.references = {}", "4: references must be a list of tables, not {}."),
        ("tool.rootstock.licence = []", "4: licence must be a table of strings, not []."),
        ("tool.rootstock.cache = []", "4: cache must be a table, not []."),
        ("tool = 3", "4: tool must be a table, not 3."),
        ("tool.uv.sources = 3", "4: [tool.uv] sources must be a table of tables, not 3."),
    ],
)
def test_the_kind_and_the_line_are_told(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEADER + f"# {line}\n# ///\n" + SETUP)
    with pytest.raises(ConfigurationError) as raised:
        read_source(path)
    assert str(raised.value) == f"{path}:{message}"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('dependencies = ["ase>=3.23"]', 'dependencies = "x"', "3: dependencies must be a list of strings, not 'x'."),
        ('requires-python = ">=3.10"', "requires-python = 3", "2: requires-python must be a string, not 3."),
    ],
)
def test_the_keys_of_the_specification_are_told_too(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(header().replace(before, after))
    with pytest.raises(ConfigurationError) as raised:
        read_source(path)
    assert str(raised.value) == f"{path}:{message}"


def test_a_record_whose_header_is_of_wrong_kinds_hides_no_other(site: Site, tiny_root: Path) -> None:
    layout = RootLayout(tiny_root)
    path = layout.active("tiny").resolve() / "build.json"
    record = json.loads(path.read_text())
    os.chmod(path, 0o644)
    path.write_text(json.dumps(record | {"header": {"tool": {"rootstock": {"models": 3}}}}))
    done = site("status", "--root", tiny_root, check=False)
    assert f"\ntiny: Cannot read {path}: header: models must be a table of strings, not 3. " in done.stdout
    assert f"rootstock-site repair --root {tiny_root} --env tiny" in done.stdout
