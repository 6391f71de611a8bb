"""Pinned versions of an environment: each has a file, a lock and a build; the model string picks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rootstock import RootstockCalculator
from rootstock.config.environment_file import packaged_source
from rootstock.errors import ConfigurationError, UnknownEnvironmentError
from tests.conftest import Site
from tests.models.conftest import Build, as_arguments, exactly, rock_salt, run_in
from tests.support.commands import ROOTSTOCK, run

PINNED, OLD = "lj@2025.04.11", "3.25.0"


@pytest.fixture(scope="module")
def root(site: Site, like_root: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with Lennard-Jones twice, built by one command: with today's ASE and with an older one."""
    base = tmp_path_factory.mktemp("pinned")
    text = packaged_source("lj").text
    assert '"ase>=3.23"' in text
    (base / f"{PINNED}.py").write_text(text.replace('"ase>=3.23"', f'"ase=={OLD}"'))
    both = ("--env", "lj", "--env", base / f"{PINNED}.py")
    site("install", "--cluster", "local", "--root", base / "root", "--no-client", *both, *like_root)
    return base / "root"


def rootstock(root: Path, *arguments: str) -> Any:
    return json.loads(run(ROOTSTOCK, *arguments, "--root", root, "--json", check=True).stdout)


def test_each_has_a_file_a_lock_and_a_build(root: Path) -> None:
    for name in ("lj", PINNED):
        assert (root / "environments" / f"{name}.py").is_file()
        assert (root / "environments" / f"{name}.py.lock").is_file()
        assert (root / "active" / name).resolve().parent == root / "builds" / name


@pytest.mark.parametrize("model", ["", "argon"])
def test_the_model_string_picks_one(root: Path, model: str) -> None:
    atoms = rock_salt(("Ar", "Ar"))
    versions = []
    for name in ("lj", PINNED):
        code = f"import runpy; calc = runpy.run_path({str(root / 'environments' / 'lj.py')!r})['setup']({model!r})"
        printed = run_in(root, name, "direct.py", code, json.dumps([as_arguments(atoms)]))
        expected = json.loads(printed.partition("RESULT")[2])[0]
        with RootstockCalculator(f"{name}-{model}".rstrip("-"), root=root, device="cpu", threads=1) as calc:
            atoms.calc = calc
            assert exactly(atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()) == expected
            versions.append(calc.info()["versions"]["ase"])
    assert versions[0] != versions[1] == OLD


def test_users_are_told_of_both(root: Path) -> None:
    listed = {row["model"]: row["version"] for row in rootstock(root, "list")["models"]}
    assert set(listed) == {"lj", "lj-argon", PINNED, f"{PINNED}-argon"}
    assert listed[PINNED] == listed[f"{PINNED}-argon"] == OLD != listed["lj"]
    assert rootstock(root, "show", f"{PINNED}-argon")["versions"]["ase"] == OLD
    with pytest.raises(ConfigurationError, match=rf"Environment '{PINNED}' has no model 'xenon'. It has: .*argon"):
        RootstockCalculator(f"{PINNED}-xenon", root=root, device="cpu")
    nearby = rf"'lj@2024.01.01' not found in .*Available there: lj, {PINNED}\."
    with pytest.raises(UnknownEnvironmentError, match=nearby):
        RootstockCalculator("lj@2024.01.01-argon", root=root, device="cpu")


@pytest.mark.models
def test_two_releases_of_a_real_model_give_the_same_numbers(build: Build) -> None:
    """SevenNet 0.11 beside today's, with the same weights: what a result came from is told by the version."""
    atoms, seen = rock_salt(), {}
    for name in ("sevennet", "sevennet@0.11"):
        with RootstockCalculator(f"{name}-0", root=build(name), device="cpu", threads=1) as calc:
            atoms.calc = calc
            seen[calc.info()["versions"]["sevenn"]] = (atoms.get_potential_energy(), atoms.get_forces())
    new, old = seen
    assert old == "0.11.2.post1" != new
    (energy, forces), (old_energy, old_forces) = seen.values()
    assert energy == pytest.approx(old_energy, abs=1e-5) and np.abs(forces - old_forces).max() < 1e-5


def test_admins_treat_them_as_two(root: Path, site: Site) -> None:
    found = json.loads(site("verify", "--root", root, "--env", PINNED, "--json").stdout)
    assert [each["environment"] for each in found["verifications"]] == [PINNED]
    assert "nothing to do" in site("lock", "--root", root, "--check").stdout
