"""What a client does with the header of an environment file: it refuses before it computes, and finds names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

from rootstock.calculator import FailureClass, RootstockCalculator
from rootstock.config.demands import setup_arguments
from rootstock.config.environment_file import packaged_source
from rootstock.errors import ConfigurationError
from rootstock.root.layout import RootLayout
from rootstock.root.records import read_build
from tests.conftest import Site
from tests.support.commands import ROOTSTOCK, SITE, Done, clean_environment, run
from tests.support.environment_files import header
from tests.support.folders import once_per_run, open_to_readers

pytestmark = pytest.mark.xdist_group("rules")

FILE = (
    header(
        "[tool.rootstock]",
        "all-models-listed = true",
        'properties = ["energy", "free_energy", "forces"]',
        'optional-properties = ["energies"]',
        'elements = ["H-Ar"]',
        "variants = [",
        '  { models = ["charged"], needs = ["charge", "spin"] },',
        '  { models = ["atomic"], needs = ["initial_charges"] },',
        '  { models = ["magnetic"], needs = ["initial_magmoms"] },',
        '  { models = ["headed"], needs = ["head", "task_name"] },',
        '  { models = ["on-gpu"], needs = ["gpu"] },',
        '  { models = ["damped"], dispersion = "offered" },',
        '  { models = ["with-d3"], dispersion = "included" },',
        "]",
        "[tool.rootstock.models]",
        '"" = "plain"',
        *(
            f'"{name}" = "a model"'
            for name in (
                "plain",
                "charged",
                "atomic",
                "magnetic",
                "headed",
                "on-gpu",
                "damped",
                "with-d3",
                "mf-0/PBE",
                "mf-0/R2SCAN",
            )
        ),
        '"/path/to/file.pt" = "a checkpoint of your own"',
        "[tool.rootstock.aliases]",
        '"rules-of-the-field" = "plain"',
        '"mf-r2scan" = "mf-0/R2SCAN"',
        '"field/charged" = "charged"',
        "[[tool.rootstock.references]]",
        'name = "a charged dimer"',
        'source = "none"',
        'model = "charged"',
        'symbols = "Ar2"',
        "positions = [[0, 0, 0], [0, 0, 1.2]]",
        "info = { charge = 1, spin = 2 }",
        "[[tool.rootstock.references]]",
        'name = "a magnetic dimer"',
        'source = "none"',
        'model = "magnetic"',
        'symbols = "Ar2"',
        "positions = [[0, 0, 0], [0, 0, 1.2]]",
        "magmoms = [1.0, 0.5]",
    )
    + """\
from ase.calculators.calculator import all_changes
from ase.calculators.lj import LennardJones


class Picky(LennardJones):
    \"\"\"Says in its energy what it was given.\"\"\"

    def __init__(self, model, **options):
        super().__init__()
        self.model, self.extra = model, 1000.0 * bool(options.get("dispersion"))

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        given = self.extra
        if self.model == "charged":
            given += atoms.info["charge"] + 10 * atoms.info["spin"]
        if self.model == "magnetic":
            given += abs(atoms.get_initial_magnetic_moments()).sum()
        if self.model == "atomic":
            given += atoms.get_initial_charges().sum()
        self.results["energy"] += given
        self.results["free_energy"] = self.results["energy"]


def setup(model, device="cpu", **options):
    return Picky(model, **options)
"""
)
DIMER = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.2]])


@pytest.fixture(scope="module")
def root(site: Site, like_root: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with `rules`, and with `lj`, whose file lists no elements. Tests must not change it."""

    def install(folder: Path) -> None:
        open_to_readers(folder)
        (folder / "rules.py").write_text(FILE)
        site(
            "install", "--cluster", "local", "--root", folder / "root", "--env", folder / "rules.py", "--env", "lj",
            "--no-client", *like_root,
        )  # fmt: skip

    return once_per_run(tmp_path_factory, "rules", install) / "root"


class Make:
    """Makes calculators of the root, and closes them."""

    def __init__(self, root: Path) -> None:
        self.root, self.made = root, list[RootstockCalculator]()

    def __call__(self, model: str, **arguments: object) -> RootstockCalculator:
        calc = RootstockCalculator(model, root=self.root, **{"device": "cpu", **arguments})  # type: ignore[arg-type]
        self.made.append(calc)
        return calc


@pytest.fixture
def make(root: Path) -> Iterator[Make]:
    maker = Make(root)
    yield maker
    for calc in maker.made:
        calc.close()


def started(calc: RootstockCalculator) -> bool:
    return calc._session._connection is not None


def rootstock(root: Path, *command: str | Path, cwd: Path | None = None) -> Done:
    return run(ROOTSTOCK, *command, env=clean_environment(ROOTSTOCK_ROOT=str(root)), cwd=cwd)


# -- elements


def test_an_element_that_a_model_does_not_know_is_refused_before_a_worker_starts(make: Make) -> None:
    calc = make("rules")
    with pytest.raises(
        ValueError, match=r"Model rules does not know the elements At, Og: .* It knows H-Ar\."
    ) as refused:
        calc.get_potential_energy(Atoms("Ar2AtOg", positions=np.arange(12).reshape(4, 3)))
    assert type(refused.value) is ConfigurationError and not started(calc)
    assert calc.get_potential_energy(DIMER) < 0
    with pytest.raises(ConfigurationError, match="does not know the element number 0"):
        calc.get_forces(Atoms("ArX", positions=DIMER.positions))
    changed = DIMER.copy()
    changed.calc = calc
    assert changed.get_potential_energy() < 0
    changed.numbers[1] = 79
    with pytest.raises(ConfigurationError, match="does not know the element Au"):
        changed.get_potential_energy()
    assert make("lj").get_potential_energy(Atoms("Og2", positions=DIMER.positions)) < 0  # its file lists none


def test_checkpoints_of_ones_own_are_not_restricted(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_text("")
    gold = Atoms("Au2", positions=DIMER.positions)
    own = make(f"rules-{tmp_path}/mine.pt")
    assert own.get_potential_energy(gold) < 0
    assert "stress" in own.implemented_properties
    (tmp_path / "rules.py").write_text(FILE)
    by_file = make(str(tmp_path / "mine.pt"), environment=tmp_path / "rules.py")
    assert by_file.get_potential_energy(gold) < 0
    with pytest.raises(ConfigurationError, match="Model rules-plain does not know the element Au"):
        make("plain", environment=tmp_path / "rules.py").get_potential_energy(gold)


def test_of_many_structures_only_those_fail(make: Make, tmp_path: Path, root: Path) -> None:
    images = [DIMER, Atoms("ArAu", positions=DIMER.positions), DIMER]
    found = make("rules").evaluate_many(images)
    assert [each.failure for each in found] == [None, FailureClass.STRUCTURE, None]
    assert "does not know the element Au" in str(found[1].error)
    assert [each.index for each in make("rules").iter_many(iter(images)) if each.error] == [1]
    write(tmp_path / "in.extxyz", images)
    done = rootstock(root, "singlepoint", "rules", "in.extxyz", "--run", "run", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 22, done.stderr
    assert "does not know the element Au" in done.stderr + done.stdout
    done = rootstock(root, "run", "status", "run", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["done"] == 2, done.stdout
    done = rootstock(root, "relax", "rules", "in.extxyz@1", "--device", "cpu", cwd=tmp_path)
    assert (done.returncode, "in.extxyz@1: Model rules does not know" in done.stderr) == (3, True), done.stderr
    assert "Traceback" not in done.stderr


# -- needs


def test_charge_and_spin_are_asked_for(make: Make, root: Path, tmp_path: Path) -> None:
    calc = make("rules-charged")
    with pytest.raises(ConfigurationError) as refused:
        calc.get_potential_energy(DIMER)
    assert 'needs the total charge in atoms.info["charge"] and the spin multiplicity' in str(refused.value)
    assert 'For example: atoms.info["charge"] = 0; atoms.info["spin"] = 1' in str(refused.value)
    assert not started(calc)
    atoms = DIMER.copy()
    atoms.info |= {"charge": np.int64(1)}
    with pytest.raises(ConfigurationError, match=r"needs the spin multiplicity in atoms.info\[\"spin\"\], which"):
        calc.get_potential_energy(atoms)
    atoms.info["spin"] = 2
    assert calc.get_potential_energy(atoms) == pytest.approx(21 + make("rules").get_potential_energy(DIMER))
    for charge in (1.0, np.array([1])):
        atoms.info["charge"] = charge
        assert calc.get_potential_energy(atoms) == pytest.approx(21 + make("rules").get_potential_energy(DIMER))
    for charge in (float("nan"), float("inf"), None, "one", [1], np.array([1, 0]), 10**400):
        atoms.info["charge"] = charge
        with pytest.raises(ConfigurationError, match=r'needs the total charge as a number: atoms.info\["charge"\] is '):
            calc.get_potential_energy(atoms)
    del atoms.info["charge"]
    with pytest.raises(ConfigurationError, match="total charge"):
        calc.get_potential_energy(atoms)
    DIMER.write(tmp_path / "a.xyz")
    done = rootstock(root, "singlepoint", "rules-charged", "a.xyz", "--device", "cpu", cwd=tmp_path)
    assert (done.returncode, "charge=0 spin=1 in the second line" in done.stderr) == (3, True), done.stderr
    (tmp_path / "a.xyz").write_text((tmp_path / "a.xyz").read_text().replace(" pbc=", " charge=0 spin=1 pbc="))
    done = rootstock(root, "singlepoint", "rules-charged", "a.xyz", "--device", "cpu", cwd=tmp_path)
    assert not done.returncode, done.stderr


def test_a_driver_is_refused_before_it_connects(make: Make, root: Path, tmp_path: Path) -> None:
    DIMER.write(tmp_path / "a.xyz")
    line = ("worker", "rules-charged", "--structure", "a.xyz", "--socket", "nobody-listens", "--no-stress")
    done = rootstock(root, *line, "--device", "cpu", "--wait", "600", cwd=tmp_path)
    assert (done.returncode, 'atoms.info["charge"]' in done.stderr) == (3, True), done.stderr
    calc = make("rules-charged")
    with pytest.raises(ConfigurationError, match="needs the total charge"):
        calc.check_atoms(DIMER)
    charged = DIMER.copy()
    charged.info |= {"charge": 0, "spin": 1}
    calc.check_atoms(charged)


def test_arrays_are_asked_for(make: Make) -> None:
    plain = make("rules").get_potential_energy(DIMER)
    magnetic, atomic = make("rules-magnetic"), make("rules-atomic")
    with pytest.raises(ConfigurationError, match=r"needs initial_magmoms.*\n.*set_initial_magnetic_moments"):
        magnetic.get_potential_energy(DIMER)
    with pytest.raises(ConfigurationError, match=r"needs initial_charges.*\n.*set_initial_charges"):
        atomic.get_potential_energy(DIMER)
    atoms = DIMER.copy()
    atoms.set_initial_charges([1.0, 0.5])
    assert atomic.get_potential_energy(atoms) == pytest.approx(plain + 1.5)
    for moments in ([1.0, 0.5], [[1.0, 0, 0], [0, 0, 0.5]]):
        atoms = DIMER.copy()
        atoms.set_initial_magnetic_moments(moments)
        assert magnetic.get_potential_energy(atoms) == pytest.approx(plain + 1.5)


def test_arguments_of_setup_are_asked_for_when_the_calculator_is_made(make: Make, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make("rules-headed", setup_kwargs={"head": "a"})
    assert "Model rules-headed needs 'task_name' among its setup_kwargs." in str(refused.value)
    assert 'In Python: setup_kwargs={"task_name": "NAME"}' in str(refused.value)
    assert "--calc-kwargs \"{'task_name': 'NAME'}\"" in str(refused.value)
    calc = make("rules-headed", setup_kwargs={"head": "a", "task_name": "b"})
    with pytest.raises(ConfigurationError, match="needs 'head' and 'task_name'"):
        calc.set(setup_kwargs={})
    with pytest.raises(ConfigurationError, match="computes on a GPU only, and the device is 'cpu'"):
        make("rules-on-gpu")
    make("rules-on-gpu", device="cuda")
    DIMER.write(tmp_path / "a.xyz")
    line = ("singlepoint", "rules-headed", "a.xyz", "--device", "cpu")
    done = rootstock(root, *line, cwd=tmp_path)
    assert (done.returncode, "--calc-kwargs" in done.stderr) == (3, True)
    done = rootstock(root, *line, "--calc-kwargs", "{'head': 'a', 'task_name': 'b'}", cwd=tmp_path)
    assert not done.returncode, done.stderr


def test_the_example_says_what_is_needed_and_runs(root: Path, tmp_path: Path) -> None:
    usage = {}
    for model in ("charged", "magnetic", "headed", "on-gpu"):
        done = rootstock(root, "show", f"rules-{model}", "--json")
        usage[model] = json.loads(done.stdout)["usage"]["script"]
    assert 'setup_kwargs={"head": "NAME", "task_name": "NAME"}' in usage["headed"]
    assert 'device="cuda"' in usage["on-gpu"]
    for model in ("charged", "magnetic", "headed"):
        (tmp_path / "run.py").write_text(usage[model])
        run("python3", "-c", "", check=True)
        done = run(SITE.with_name("python"), tmp_path / "run.py", env=clean_environment(ROOTSTOCK_ROOT=str(root)))
        assert not done.returncode, done.stderr
    rows = rootstock(root, "list").stdout
    assert "head,task_name" in rows and "charge,spin" in rows


def test_references_bring_what_a_model_needs(root: Path, site: Site, tmp_path: Path) -> None:
    record = read_build(RootLayout(root).active("rules").resolve())
    assert record and {check["reference"] for check in record.verification} == {"a charged dimer", "a magnetic dimer"}
    assert all(check["passed"] for check in record.verification)
    done = site("verify", "--root", root, "--env", "rules", "--model", "atomic", "--json", check=False)
    assert "needs initial_charges" in done.stdout + done.stderr
    path = tmp_path / "rules.py"
    path.write_text(FILE.replace("# info = { charge = 1, spin = 2 }\n", ""))
    done = site("check-env", path, check=False)
    assert "its reference 'a charged dimer' has none" in done.stdout and done.returncode == 3
    path.write_text(FILE.replace('# model = "magnetic"\n', '# model = "headed"\n'))
    assert "needs head, task_name in setup_kwargs; its reference 'a magnetic dimer'" in site(
        "check-env", path, check=False
    ).stdout.replace("\n", " ")


# -- properties, and dispersion


def test_what_the_file_does_not_list_is_not_offered(make: Make) -> None:
    calc = make("rules")
    assert calc.implemented_properties == ["energy", "free_energy", "forces", "energies"]
    crystal = bulk("Ar", cubic=True)
    assert len(calc.get_property("energies", crystal)) == 4
    with pytest.raises(NotImplementedError, match="does not compute stress"):
        calc.get_stress(crystal)
    with pytest.raises(NotImplementedError, match="does not compute stress"):
        calc.evaluate_many([crystal], ("energy", "stress"))
    assert "stress" not in (calc.evaluate_many([crystal])[0].results or {"stress": 0})


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("with-d3", {"dispersion": True}, "hold dispersion already"),
        ("plain", {"dispersion": True}, "offers no dispersion correction"),
        ("damped", {"dispersion_kwargs": {"xc": "pbe"}}, "is of no use without 'dispersion': True"),
        ("damped", {"dispersion": False, "dispersion_kwargs": {"xc": "pbe"}}, "is of no use without"),
        ("damped", {"dispersion": {"xc": "pbe"}}, "dispersion must be True or False"),
        ("damped", {"dispersion": True, "dispersion_kwargs": "pbe"}, "dispersion_kwargs must be a dict"),
        ("/", {"dispersion_kwargs": {}}, "is of no use without"),
    ],
)
def test_dispersion_is_refused_where_it_would_be_wrong(
    make: Make, model: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"Model rules-{model}: .*{message}"):
        make(f"rules-{model}", setup_kwargs=options)


def test_no_dispersion_is_asked_of_no_model() -> None:
    """The word is for those that offer it: others may not know it."""
    options = {"dispersion": False, "epsilon": 2.0}
    assert setup_arguments(packaged_source("lj"), "", "cpu", options) == {"epsilon": 2.0}


def test_dispersion_that_is_offered(make: Make, root: Path, tmp_path: Path) -> None:
    plain = make("rules-damped").get_potential_energy(DIMER)
    with_d3 = make("rules-damped", setup_kwargs={"dispersion": True, "dispersion_kwargs": {"xc": "pbe"}})
    assert with_d3.get_potential_energy(DIMER) == pytest.approx(plain + 1000)
    (tmp_path / "own.pt").write_text("")
    assert make(f"rules-{tmp_path}/own.pt", setup_kwargs={"dispersion": True}).get_potential_energy(DIMER) > 900
    make("rules-with-d3", setup_kwargs={"dispersion": False})
    assert "dispersion  included: " in rootstock(root, "show", "rules-with-d3").stdout
    assert "dispersion  offered: " in rootstock(root, "show", "rules-damped").stdout
    models = json.loads(rootstock(root, "list", "--json").stdout)["models"]
    said = {model["model"]: model["dispersion"] for model in models}
    assert (said["rules-with-d3"], said["rules-damped"], said["rules-plain"]) == ("included", "offered", "")


# -- a slash in a name


def test_a_model_with_a_task(make: Make, root: Path, tmp_path: Path) -> None:
    assert make("rules-mf-0/R2SCAN").get_potential_energy(DIMER) < 0
    for wrong in ("mf-0/r2scn", "mf-0/omat", "mf-0"):
        with pytest.raises(ConfigurationError, match="rules-mf-0/R2SCAN"):
            make(f"rules-{wrong}")
    write(tmp_path / "in.extxyz", [DIMER, DIMER])
    for command in (
        ("singlepoint", "rules-mf-0/R2SCAN", "in.extxyz", "--run", "folder"),
        ("singlepoint", "rules-mf-0/R2SCAN", "in.extxyz", "--out", "out.extxyz"),
        ("relax", "rules-mf-0/R2SCAN", "in.extxyz@0", "--steps", "1"),
        ("md", "rules-mf-0/R2SCAN", "in.extxyz@0", "--ensemble", "nve", "--steps", "1"),
        ("compare", "in.extxyz", "--models", "rules-mf-0/R2SCAN", "lj", "--out", "compared.csv"),
    ):
        done = rootstock(root, *command, "--device", "cpu", cwd=tmp_path)
        assert done.returncode in (0, 21), (command, done.stderr)
        assert "Traceback" not in done.stderr
    assert read(tmp_path / "out.extxyz").info["rootstock_model"] == "rules-mf-0/R2SCAN"
    for command in (("run", "status", "folder"), ("run", "continue", "folder"), ("show", "rules-mf-0/PBE")):
        done = rootstock(root, *command, cwd=tmp_path)
        assert not done.returncode, (command, done.stderr)


# -- aliases


def test_an_alias_computes_as_its_model(make: Make, root: Path, tmp_path: Path) -> None:
    calc = make("rules-of-the-field")
    assert calc.get_potential_energy(DIMER) == make("rules-plain").get_potential_energy(DIMER)
    assert calc.parameters["model"] == "rules-of-the-field"
    assert (calc.info()["environment"], calc.info()["model"]) == ("rules", "plain")
    build = calc.parameters["build"]
    assert make("rules-of-the-field", build=build).get_potential_energy(DIMER) < 0
    assert make("mf-r2scan").info()["model"] == "mf-0/R2SCAN"
    with pytest.raises(ConfigurationError, match="Model rules-charged needs"):
        make("field/charged").get_potential_energy(DIMER)
    write(tmp_path / "in.extxyz", [DIMER])
    for command in (
        ("singlepoint", "mf-r2scan", "in.extxyz", "--run", "folder", "--device", "cpu"),
        ("run", "status", "folder"),
        ("why-not", "mf-r2scan", "--device", "cpu"),
    ):
        done = rootstock(root, *command, cwd=tmp_path)
        assert not done.returncode, (command, done.stdout, done.stderr)


def test_an_alias_is_explained_completed_and_suggested(root: Path, site: Site) -> None:
    done = rootstock(root, "show", "mf-r2scan")
    assert done.stdout.startswith("mf-r2scan is rules-mf-0/R2SCAN\nrules-mf-0/R2SCAN: a model\n")
    assert "aliases     mf-r2scan\n" in done.stdout
    assert json.loads(rootstock(root, "show", "mf-r2scan", "--json").stdout)["alias"] == "mf-r2scan"
    assert json.loads(rootstock(root, "show", "rules-plain", "--json").stdout)["alias"] is None
    for wrong, meant in (("mf-r2scam", "mf-r2scan"), ("rules-of-the-fields", "rules-of-the-field")):
        done = rootstock(root, "show", wrong)
        assert (done.returncode in (3, 4), f"Did you mean '{meant}'" in done.stderr) == (True, True), done.stderr
    for typed, completed in (("mf-", "mf-r2scan"), ("field/", "field/charged"), ("rules-mf-0/R", "rules-mf-0/R2SCAN")):
        variables = {"COMP_WORDS": f"rootstock show {typed}", "COMP_CWORD": "2", "_ROOTSTOCK_COMPLETE": "bash_complete"}
        done = run(ROOTSTOCK, env=clean_environment(ROOTSTOCK_ROOT=str(root), **variables))
        assert f"plain,{completed}" in done.stdout.splitlines(), done.stdout
    done = site("warm", "--root", root, "--model", "mf-r2scan", "--dry-run")
    assert "rules-mf-0/R2SCAN" in done.stdout
    done = site("warm", "--root", root, "--model", "nothing-such", "--dry-run", check=False)
    assert done.returncode == 4


def test_a_model_of_an_environment_wins(site: Site, like_root: tuple[str, ...], tmp_path: Path) -> None:
    """No builds here: uv makes the environments, and aliases come from the files in the root."""
    layout = RootLayout(tmp_path / "root")
    site("install", "--cluster", "local", "--root", layout.root, "--no-client", "--set", "environments=", *like_root)
    (layout.environments / "rules.py").write_text(FILE.replace('"mf-r2scan"', '"lj"').replace('"rules-of', '"lj-of'))
    (layout.environments / "lj@1.py").write_text(FILE)
    for name, found in (
        ("lj-of-the-field", "rules-plain"),
        ("rules-charged", "rules-charged"),
        ("field/charged", "rules-charged"),
    ):
        assert json.loads(rootstock(layout.root, "show", name, "--json").stdout)["model"] == found
    assert json.loads(rootstock(layout.root, "show", "lj", "--json").stdout)["model"] == "rules-mf-0/R2SCAN"
    (layout.environments / "lj.py").write_text(
        FILE.partition("[tool.rootstock.aliases]")[0].rstrip("# ") + "# ///\n" + FILE.partition("# ///\n")[2]
    )
    assert json.loads(rootstock(layout.root, "show", "lj", "--json").stdout)["model"] == "lj"
    assert not os.path.exists(layout.aliases_file)
