"""``rootstock-site verify``: published values, laws, and what is kept of a run; with real workers."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from rootstock import __version__
from rootstock.admin import verify_physics as physics
from rootstock.admin.verify_checks import compare
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from rootstock.root.records import active_build, read_build
from rootstock.root.verification_records import read_verifications
from tests.conftest import Site
from tests.support.commands import ROOTSTOCK, SITE, run, started
from tests.support.folders import open_to_readers
from tests.support.needs import need, need_root
from tests.support.processes import wait_for
from tests.support.readers import need_readers, run_as_reader


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a copy of the root, whose builds may be spoilt.

    Builds are looked up by links that lead from the root, so a copy has its own; what nobody writes to is linked.
    """
    shutil.copytree(root, tmp_path / "root", symlinks=True, ignore=shutil.ignore_patterns("client"), copy_function=own)
    yield tmp_path / "root"
    remove_tree(tmp_path / "root")


def own(source: str, target: str) -> None:
    """Link a file of a package, which has too many of them to be copied, and copy any other."""
    try:
        if "site-packages" in source:
            os.link(source, target)
            return
    except OSError:  # another file system
        pass
    shutil.copy2(source, target)


def spoil(root: Path, name: str, old: str, new: str) -> None:
    """Change the environment file of a build, which nothing but a test does."""
    path = (root / "active" / name).resolve() / "environment.py"
    text = path.read_text()
    assert old in text
    path.parent.chmod(0o755)
    path.unlink()
    path.write_text(text.replace(old, new))


# In place of the end of EMT's `setup()`.
ENDLESS = """\
    class Endless(EMT):
        def calculate(self, atoms=None, *rest):
            import time

            if len(atoms) > 1:
                time.sleep(1000)
            super().calculate(atoms, *rest)

    return Endless()
"""


@pytest.mark.parametrize(
    ("value", "error"),
    [([[0.0, 0.0, 0.0], [0.0, 0.3, 0.0]], 0.3), ([[0.0, 0.0, 0.0], [0.0, -0.05, 0.0]], 0.05),
     ([0.0, 0.0, 0.0], np.inf), ([[np.nan, 0.0, 0.0], [0.0, 0.0, 0.0]], np.nan)],
)  # fmt: skip
def test_the_largest_deviation_of_any_number_counts(value: object, error: float) -> None:
    check = compare("forces", "a paper", value, np.zeros((2, 3)), 0.1)
    assert check["error"] == pytest.approx(error, nan_ok=True)
    assert check["passed"] == (error == 0.05)


def runs(root: Path, name: str):
    build = active_build(root / "active" / name)
    assert build is not None
    return read_verifications(RootLayout(root), name, build.name)


def test_every_result_is_kept(copy: Path, site: Site) -> None:
    printed = json.loads(site("verify", "--root", copy, "--json").stdout)
    assert [each["environment"] for each in printed["verifications"]] == ["emt", "lj"]
    [seen] = runs(copy, "emt")
    assert seen.ended and seen.missed == 0 and seen.not_run == 0 and seen.device == "cpu"
    assert seen.versions["ase"] and seen.versions["python"] and seen.seconds > 0
    assert {check["source"] for check in seen.checks} == {
        "ASE tutorial 'Atomization energy'", "finite differences", "rotation", "permutation", "supercell",
    }  # fmt: skip
    assert all(check["seconds"] >= 0 and check["tolerance"] > 0 for check in seen.checks)
    # The same was checked when it was built.
    build = active_build(copy / "active" / "emt")
    assert build is not None
    record = read_build(build)
    assert record is not None

    def keys(checks):
        return [(c["reference"], c["source"], c["property"]) for c in checks]

    assert keys(record.verification) == keys(seen.checks)
    listed = run(ROOTSTOCK, "list", "--root", copy, "--json", check=True)
    assert "verified" in listed.stdout


def test_a_missed_value_ends_with_15_and_others_go_on(copy: Path, site: Site) -> None:
    spoil(copy, "emt", "energy = 5.10", "energy = 5.30")
    done = site("verify", "--root", copy, check=False)
    assert done.returncode == 15
    assert "missed: N atom: energy differs by 0.2 eV, allowed is 0.005" in done.stdout
    assert "lj (cpu): " in done.stdout and "emt (cpu): " in done.stdout
    [seen] = runs(copy, "emt")
    assert seen.missed == 1 and seen.passed > 5


def test_versions_that_values_hold_for_name_packages_however_they_are_spelt(copy: Path, site: Site) -> None:
    spoil(copy, "emt", 'versions = { ase = ">=3.23" }', 'versions = { ASE = ">=3.23" }')
    site("verify", "--root", copy, "--env", "emt")
    [seen] = runs(copy, "emt")
    assert seen.missed == 0 and seen.passed > 5
    spoil(copy, "emt", 'ASE = ">=3.23"', 'ASE = ">=99"')
    done = site("verify", "--root", copy, "--env", "emt", check=False)
    assert done.returncode == 15
    assert f"holds for ASE >=99; installed is {ase.__version__}." in done.stdout


def test_forces_that_are_no_derivatives_are_compared_with_none(copy: Path, site: Site) -> None:
    wrong = "class Direct(EMT):\n    def calculate(self, *rest):\n        super().calculate(*rest)\n"
    wrong += "        self.results['forces'] = 1.5 * self.results['forces']\n\n\ndef setup("
    spoil(copy, "emt", "def setup(", wrong)
    spoil(copy, "emt", "return EMT(", "return Direct(")
    done = site("verify", "--root", copy, "--env", "emt", check=False)
    assert done.returncode == 15 and "(source: finite differences)" in done.stdout
    spoil(copy, "emt", "# all-models-listed = true", "# all-models-listed = true\n# conservative = false")
    done = site("verify", "--root", copy, "--env", "emt")
    assert "0 missed" in done.stdout
    assert [check for check in runs(copy, "emt")[-1].checks if check["source"] == "rotation"]


def test_a_worker_that_does_not_start_is_a_miss(copy: Path, site: Site, tmp_path: Path) -> None:
    spoil(copy, "lj", "def setup(", "raise RuntimeError('broken')\ndef setup(")
    done = site("verify", "--root", copy, "--env", "lj", check=False)
    assert done.returncode == 15 and "broken" in done.stdout
    [seen] = runs(copy, "lj")
    assert seen.missed >= 1 and seen.ended
    # It has no numbers to be shown.
    shown = run(ROOTSTOCK, "show", "lj-argon", "--root", copy, check=True).stdout
    assert re.search(r"\n  FAILED +argon.*could not start: RuntimeError: broken", shown), shown
    site("page", "--root", copy, "--output", tmp_path / "page")
    assert "could not start: RuntimeError: broken" in (tmp_path / "page" / "index.html").read_text()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("error", None, "checks[0].error must be a number, not None."),
        ("tolerance", "1", "checks[0].tolerance must be a number, not '1'."),
        ("seconds", [], "checks[0].seconds must be a number, not []."),
        ("reference", ..., "checks[0] has no 'reference'."),
    ],
)
def test_a_damaged_check_is_named(copy: Path, key: str, value: object, message: str) -> None:
    build = active_build(copy / "active" / "emt")
    assert build is not None
    folder = RootLayout(copy).verifications("emt", build.name)
    folder.mkdir(parents=True, exist_ok=True)
    check = {"reference": "a", "property": "energy", "error": 0.0, "tolerance": 1, "unit": "eV", "source": "b"}
    check |= {key: value} if value is not ... else {}
    if value is ...:
        del check[key]
    (folder / "run.json").write_text(
        json.dumps({"environment": "emt", "build": "x", "device": "cpu", "checks": [check]})
    )
    for words in (("show", "emt"), ("list",)):
        done = run(ROOTSTOCK, *words, "--root", copy)
        assert f"Cannot read {folder}/run.json: {message}\nAn admin may remove it: rm " in done.stderr
        assert "Traceback" not in done.stderr
    assert "\nlj" in done.stdout  # the others are listed


def test_a_model_without_references_and_a_wrong_one(copy: Path, site: Site) -> None:
    done = json.loads(site("verify", "--root", copy, "--env", "lj", "--model", "argon", "--json").stdout)
    [seen] = done["verifications"]
    assert {check["model"] for check in seen["checks"]} == {"argon"} and len(seen["checks"]) > 3
    wrong = site("verify", "--root", copy, "--env", "lj", "--model", "neon", check=False)
    assert wrong.returncode == 3 and "has no model 'neon'" in wrong.stderr


def test_a_root_that_cannot_be_written_is_verified_all_the_same(root: Path, tmp_path: Path) -> None:
    """As a user who is no admin: an unprivileged one, by the kernel's word."""
    need_readers()
    open_to_readers(tmp_path)
    client = RootLayout(root).client(__version__) / "bin"
    shown = run_as_reader(4242, [client / "rootstock-site", "verify", "--root", root, "--env", "emt"], tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "the results are not stored: Permission denied" in shown.stderr
    assert "0 missed" in shown.stdout


def test_a_killed_run_leaves_what_it_had(copy: Path) -> None:
    # The first reference is an atom, the second a molecule, which has no end.
    spoil(copy, "emt", "    return EMT(asap_cutoff=asap_cutoff)\n", ENDLESS)
    with started([SITE, "verify", "--root", copy, "--env", "emt"]) as process:
        wait_for(lambda: [each for each in runs(copy, "emt") if each.checks], "the first check")
        process.kill()
        process.wait()
    [seen] = runs(copy, "emt")
    assert seen.checks
    assert not seen.ended


class Wrong(EMT):
    """Breaks one law at a time."""

    def __init__(self, law: str) -> None:
        super().__init__()
        self.law = law

    def calculate(self, atoms=None, *rest):
        super().calculate(atoms, *rest)
        if self.law == "forces":
            self.results["forces"] = self.results["forces"] * 1.05
        if self.law == "stress":
            self.results["stress"] = self.results["stress"] * 2
        if self.law == "rotation":
            self.results["energy"] += 0.01 * atoms.positions[:, 0].std()
        if self.law == "permutation":
            self.results["energy"] += 0.01 * atoms.positions[0, 0]
        if self.law == "supercell":
            self.results["energy"] += 0.1


@pytest.mark.parametrize("law", ["", "forces", "stress", "rotation", "permutation", "supercell"])
def test_each_law_is_noticed_when_it_is_broken(law: str) -> None:
    calc = Wrong(law)

    def compute(atoms: Atoms, properties):
        calc.calculate(atoms, list(properties), ["positions", "cell", "numbers", "pbc"])
        return {name: np.copy(calc.results[name]) for name in properties}

    atoms = bulk("Cu", cubic=True) * (1, 1, 2)
    properties = ["energy", "forces", "stress"]
    laws = [
        *physics.derivatives(compute, atoms, properties, physics.FINITE_DIFFERENCES),
        *physics.symmetries(compute, atoms, properties, physics.CONSISTENCY, rotation=True),
    ]
    assert len(laws) == 7
    broken = {
        check["source"] if check["source"] != "finite differences" else check["property"].split()[0]
        for check in laws
        if not check["passed"]
    }
    assert (law in broken) if law else not broken


def test_a_gpu_that_is_not_there_is_refused_and_nothing_is_recorded(copy: Path, site: Site) -> None:
    need(not list(Path("/dev").glob("nvidia[0-9]*")), "a machine without a GPU")
    for command in (("verify",), ("install", "--dry-run")):
        done = site(*command, "--root", copy, "--device", "cuda", check=False)
        assert done.returncode == 18
        assert "device='cuda' was asked for, but no GPU is visible" in done.stderr
    assert not list((copy / "verification").rglob("*.json"))


# A node whose kernel has a GPU, as far as that can be told without asking a library.
WITH_A_GPU = """
set -e
mkdir "$0"; mount -t tmpfs gpu "$0"
for name in null zero full random urandom; do touch "$0/$name"; mount --bind "/dev/$name" "$0/$name"; done
mkdir "$0/shm"; touch "$0/nvidia0"; mount --rbind "$0" /dev
exec "$@"
"""


def test_what_computes_on_the_processor_is_not_recorded_as_verified_on_a_gpu(copy: Path, tmp_path: Path) -> None:
    need_root()
    prefix = ("unshare", "--mount", "sh", "-c", WITH_A_GPU, tmp_path / "dev")
    done = run(*prefix, SITE, "verify", "--root", copy, "--env", "emt", "--device", "cuda")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("emt (cpu): 17 passed")
    (path,) = (copy / "verification/emt").rglob("*.json")
    record = json.loads(path.read_text())
    assert record["device"] == "cpu" and {check["device"] for check in record["checks"]} == {"cpu"}


def test_a_misspelt_device_is_refused_and_nothing_is_recorded(copy: Path, site: Site) -> None:
    for command in (("verify",), ("install",), ("install", "--dry-run")):
        done = site(*command, "--root", copy, "--device", "cdua", check=False)
        assert (done.returncode, "device='cdua' is unknown. Did you mean 'cuda'?" in done.stderr) == (3, True), done
    assert site("verify", "--root", copy, "--device", "", check=False).returncode == 3
    assert not list((copy / "verification").rglob("*.json"))
