"""A run folder and the builds of a root over time: what began a run goes on with it, until it is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms
from ase.io import read, write
from click.testing import CliRunner

from rootstock.cli.user import main as user
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build
from tests.conftest import Site
from tests.support.commands import Done, clean_environment
from tests.support.environment_files import header

# A model without scipy, which is half of what is installed; the energy says which build computed.
_CODE = """
from ase.calculators.calculator import Calculator


class Counting(Calculator):
    implemented_properties = ["energy"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        self.results = {"energy": 1.0 * len(atoms)}


def setup(model, device="cpu"):
    return Counting()
"""
_HEADER = header().replace(
    "override-dependencies = [", """override-dependencies = ["scipy ; sys_platform == 'never'", """
)  # fmt: skip


def test_a_run_keeps_to_its_build_and_outlives_it(
    site: Site, package_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root, text = tmp_path / "root", _HEADER + _CODE
    link = RootLayout(root).active("counting")

    def install(text: str) -> str:
        Path("counting.py").write_text(text)
        cache = f"uv.cache={package_cache}"
        site("install", "--cluster", "local", "--root", root, "--no-client", "--env", "counting.py", "--set", cache)
        build = active_build(link)
        assert build is not None
        return build.name

    def rootstock(*words: str) -> Done:
        done = CliRunner().invoke(user, words, prog_name="rootstock", env=clean_environment(ROOTSTOCK_ROOT=str(root)))
        return Done(words, done.exit_code, done.stdout, done.stderr)

    old = install(text)
    write("a.extxyz", [Atoms("H"), Atoms("H2"), Atoms("H3")])
    done = rootstock("singlepoint", "counting", "a.extxyz", "--run", "s", "--element", "1/3", "--device", "cpu",
                     "--properties", "energy")  # fmt: skip
    assert not done.returncode, done.stderr
    new = install(text.replace("1.0", "2.0"))
    assert new != old
    done = rootstock("run", "continue", "s", "--element", "2/3")
    assert not done.returncode, done.stderr
    site("gc", "--root", root, "--keep", "1", "--older-than", "0")
    done = rootstock("run", "continue", "s")
    assert done.returncode == 3, done.stderr
    assert old in done.stderr and "rootstock run continue --rebase s" in done.stderr, done.stderr
    done = rootstock("run", "continue", "--rebase", "s")
    assert not done.returncode, done.stderr
    found = read("s.extxyz", ":")
    assert [atoms.get_potential_energy() for atoms in found] == [1.0, 2.0, 6.0]
    assert [atoms.info["rootstock_build"] for atoms in found] == [f"counting/{build}" for build in (old, old, new)]
    record = json.loads(Path("s/run.json").read_text())
    assert (record["build"], [each["build"] for each in record["earlier"]]) == (new, [old])
