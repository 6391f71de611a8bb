"""Weights that are inside the packages of a build: they are proven, named, and not fetched."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from rootstock import RootstockCalculator
from rootstock.admin.bundled_weights import Bundled
from rootstock.config.environment_file import read_source
from rootstock.root.layout import RootLayout
from rootstock.root.record_files import parse_record
from rootstock.root.records import BuildRecord, active_build, read_build
from tests.conftest import Site
from tests.support.commands import ROOTSTOCK, run
from tests.support.environment_files import header
from tests.support.folders import once_per_run
from tests.support.tiny_root import write_wheel

pytestmark = pytest.mark.xdist_group("bundled")

BINARY = b"2.5".ljust(99) + b"\0" * 100_000
TABLES = """\
[tool.rootstock]
bundled = ["sai*"]
warm = ["inside", "said", "fetched"]
[tool.rootstock.models]
"" = "inside"
"inside" = "its weights are in the package"
"said" = "the file says so"
"fetched" = "its weights are in the cache"
[tool.rootstock.cache]
RS_CACHE = "rs"
"""
REFERENCE = """\
[[tool.rootstock.references]]
name = "argon"
model = "MODEL"
source = "none"
symbols = "Ar2"
positions = [[0, 0, 0], [0, 0, 1.1]]
"""
SETUP = """\
import os
from pathlib import Path

import rsweights
from ase.calculators.lj import LennardJones


def setup(model, device="cpu"):
    folder = Path(os.environ["RS_CACHE"]) if model == "fetched" else Path(rsweights.__file__).parent
    for name in ("small.bin", "table.json") if model != "fetched" else ():
        (folder / name).read_bytes()
    return LennardJones(epsilon=float((folder / "model.pt").read_bytes()[:99]))
"""


@pytest.fixture(scope="session")
def root(site: Site, like_root: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    def install(base: Path) -> None:
        files = {"__init__.py": b"", "model.pt": BINARY, "small.bin": b"\0", "table.json": b"[1, 2]".ljust(100_000)}
        write_wheel(base, "rsweights", "1.0", {f"rsweights/{name}": content for name, content in files.items()})
        fetched = REFERENCE.replace("MODEL", "fetched") + "needs_weights = true"
        tables = (f'[tool.uv]\nfind-links = ["{base}"]', TABLES, REFERENCE.replace("MODEL", ""), fetched)
        (base / "inside.py").write_text(header(*tables, dependencies=("ase>=3.23", "rsweights")) + SETUP)
        options = ("--cluster", "local", "--no-client", "--env", base / "inside.py", *like_root)
        done = site("install", "--root", base / "root", *options)
        assert "not verified, for lack of weights: argon" in done.stderr

    return once_per_run(tmp_path_factory, "bundled", install) / "root"


@pytest.fixture
def build(root: Path) -> Path:
    build = active_build(RootLayout(root).active("inside"))
    assert build is not None
    return build


def test_the_build_names_what_was_opened(build: Path) -> None:
    record = read_build(build)
    assert record is not None and record.bundled.keys() == {"inside"}
    [file] = record.bundled["inside"]  # no code, no text, nothing small
    assert (file.bytes, file.sha256) == (len(BINARY), hashlib.sha256(BINARY).hexdigest())
    assert file.path.endswith("site-packages/rsweights/model.pt") and (build / file.path).read_bytes() == BINARY


def test_a_record_of_an_earlier_version_has_none(build: Path) -> None:
    data = json.loads((build / "build.json").read_text())
    del data["bundled"]
    assert parse_record(BuildRecord, data).bundled == {}


def test_users_are_told(root: Path) -> None:
    listed = json.loads(run(ROOTSTOCK, "list", "--root", root, "--json", check=True).stdout)["models"]
    states = {model["argument"]: (model["weights"], model["weights_bytes"]) for model in listed}
    package = ("package", len(BINARY))
    assert states == {"": package, "inside": package, "said": ("package", 0), "fetched": ("unknown", 0)}
    assert run(ROOTSTOCK, "list", "--root", root, check=True).stdout.count("\tin the package\t") == 3
    shown = run(ROOTSTOCK, "show", "inside", "--root", root, check=True).stdout
    assert "weights     in the package\n" in shown and hashlib.sha256(BINARY).hexdigest() in shown
    found = run(ROOTSTOCK, "why-not", "inside-said", "--root", root, check=True).stdout
    assert "they are in an installed package" in found


def test_info_names_them(root: Path) -> None:
    with RootstockCalculator("inside", root=root, device="cpu") as calc:
        calc.start()
        [file] = calc.info()["weights"]
    assert file["path"].startswith("builds/inside/") and (root / file["path"]).read_bytes() == BINARY


def test_nothing_is_fetched_for_them(root: Path, site: Site) -> None:
    plan = site("warm", "--root", root, "--dry-run", "--json")
    told = json.loads(plan.stdout)
    assert [model["model"] for model in told["models"]] == ["fetched"]
    assert told["packaged"] == ["inside-inside", "inside-said"]
    done = site("warm", "--root", root, "--model", "inside", "--model", "inside-said")
    assert "inside-said: the weights are in an installed package; there is nothing to fetch." in done.stderr
    assert "nothing to do" in done.stdout


def test_what_comes_from_the_cache_is_no_proof(root: Path, build: Path, tmp_path: Path) -> None:
    source, layout = read_source(build / "environment.py", "inside"), RootLayout(root)
    first, second = source.references()
    inside = next(str(path) for path in build.rglob("model.pt"))
    cached = layout.cache / "rs" / "model.pt"
    proof = Bundled(build)
    proof.add(source, layout, [second], [inside])  # which needs weights, of whatever is here
    proof.add(source, layout, [first], [inside, os.path.realpath(cached)])
    assert proof.files == {}
    proof.add(source, layout, [first], [])
    assert proof.files == {"inside": ()}
