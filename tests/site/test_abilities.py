"""What environment files say of their models: the packaged ones, and wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.data import chemical_symbols

from rootstock.config.capabilities import SYMBOLS, compress, expand
from rootstock.config.environment_file import packaged_names, packaged_source, read_source
from rootstock.errors import ConfigurationError
from rootstock.worker.channel.memory import PROPERTY_BITS
from tests.conftest import Site
from tests.support.environment_files import header

LENNARD_JONES = """\
from ase.calculators.lj import LennardJones


def setup(model, device="cpu"):
    return LennardJones()
"""
REFERENCE = 'references = [{ name = "dimer", source = "none", symbols = "Ar2", positions = [[0, 0, 0], [0, 0, 1]] }]'


def written(folder: Path, *lines: str) -> Path:
    path = folder / "mine.py"
    path.write_text(header("[tool.rootstock]", *lines) + LENNARD_JONES)
    return path


def test_symbols_are_those_of_ase() -> None:
    assert list(SYMBOLS) == chemical_symbols[1:]


@pytest.mark.parametrize("name", packaged_names())
def test_packaged_environments_say_what_their_models_do(name: str) -> None:
    source = packaged_source(name)
    for model in source.models:
        said = source.capabilities(model)
        assert {"energy", "forces"} <= set(said.properties) <= set(PROPERTY_BITS)
        assert said.code_licence


def test_a_variant_replaces_what_is_said_above_it() -> None:
    mace = packaged_source("mace")
    assert len(mace.capabilities("medium").elements) == 89
    assert (mace.capabilities("medium").licence, mace.capabilities("").licence) == ("MIT", "MIT")
    assert mace.capabilities("off-small").elements == ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")
    assert mace.capabilities("off-small").licence == mace.capabilities("small-omat-0").licence == "ASL"
    assert mace.capabilities("omol-extra-large").needs == ("charge", "spin")
    assert packaged_source("orb").capabilities("orb-v3-direct-omol").needs == ("charge", "spin")


def test_elements_are_written_briefly_and_read_back() -> None:
    assert compress(expand(["H-Bi", "Ac-Pu"])) == "H-Bi Ac-Pu"
    assert compress(["I", "H", "C", "N", "O", "F", "P", "S", "Cl", "Br"]) == "H C-F P-Cl Br I"
    assert compress(["Pt", "Au"]) == "Pt Au"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('elements = ["H", "Xx"]', "'Xx' is neither an element nor a range"),
        ('elements = ["C-H"]', "'C-H' is neither"),
        ('elements = "H"', "elements must be a list of strings, not 'H'"),
        ('licence = "MIT"', "licence must be a table of strings"),
        (
            'variants = [{ models = ["a"], colour = "red" }]',
            "variant 1 has an unknown key 'colour'; known: conservative, ",
        ),
        ('variants = [{ elements = ["H"] }]', "variant 1 names no models"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path, line)
    with pytest.raises(ConfigurationError, match=f"{path}:(\\d+:)? .*{message}"):
        read_source(path).capabilities("")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['properties = ["energy", "magmoms"]'], "computes magmoms; the worker computes energy, "),
        (['elements = ["C-O"]'], "has no Ar among its elements; its reference 'dimer' has"),
    ],
)
def test_a_build_that_does_not_do_what_its_file_says_is_refused(
    site: Site, like_root: tuple[str, ...], tmp_path: Path, lines: list[str], message: str
) -> None:
    path, root = written(tmp_path, *lines, REFERENCE), tmp_path / "root"
    install = ("install", "--cluster", "local", "--root", root, "--env", path, "--no-client")
    done = site(*install, *like_root, check=False)
    assert done.returncode == 15
    assert message in done.stderr
    assert not (root / "active/mine").exists()


@pytest.mark.parametrize("folder", ['"../../elsewhere"', '"/tmp/elsewhere"', "3"])
def test_a_cache_outside_of_the_root_is_refused_before_anything_is_made(
    bare_root: Path, site: Site, tmp_path: Path, folder: str
) -> None:
    path = written(tmp_path, f"cache = {{ SOME_CACHE = {folder} }}")
    done = site("install", "--root", bare_root, "--env", path, "--no-client", "--yes", check=False)
    assert done.returncode == 3
    assert "[tool.rootstock.cache] SOME_CACHE must name a folder under the root's cache, not " in done.stderr
    assert not (bare_root / "builds").joinpath("mine").exists()
    assert not (bare_root.parent / "elsewhere").exists()
