"""The same structures with several models."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.units import GPa
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from rootstock import Comparison, RootstockCalculator, compare
from rootstock.cli.several import Several
from rootstock.cli.user import main
from rootstock.errors import ConfigurationError, WorkerStartError
from rootstock.root.layout import RootLayout
from rootstock.root.records import read_build
from rootstock.simulations.comparison.offsets import fit_offsets
from tests.run.conftest import HEADER
from tests.support.commands import ROOTSTOCK, Done, started
from tests.support.processes import wait_for
from tests.support.roots import put_environment

# Models of known numbers: each energy has an offset for each element, each force a factor.
MODELS = (
    HEADER
    + """
OFFSETS = {"Cu": 1.5, "Au": -2.25, "Ni": 0.125}


class Known(Calculator):
    factor, offsets, what = 1.0, {}, ""

    def extra(self, properties, system_changes):
        p, symbols = self.atoms.positions, self.atoms.get_chemical_symbols()
        if self.what == "poison" and self.atoms.info.get("poison"):
            raise ValueError("no parameters for this one")
        if self.what == "wait":
            open(os.path.join("@FOLDER@", "waits"), "w").close()
            time.sleep(3600)
        energy = float((p * p).sum()) + sum(self.offsets.get(symbol, 0.0) for symbol in symbols)
        self.results = {"energy": energy, "forces": -2 * self.factor * p, "stress": np.arange(6.0) * self.factor}


def setup(model, device="cpu"):
    if model == "broken":
        raise ValueError("this one never starts")
    calc = Known()
    calc.what = model
    if model in ("shifted", "poison"):
        calc.offsets = OFFSETS
    if model == "shifted":
        calc.factor = 1.5
    return calc
"""
)
OFFSETS = {"Ni": 0.125, "Cu": 1.5, "Au": -2.25}


def cells(*symbols: str) -> list[Atoms]:
    """Return a cell of four atoms for each, of these elements in turn."""
    found = []
    for seed, names in enumerate(symbols):
        atoms = bulk("Cu", cubic=True)
        atoms.set_chemical_symbols(names.split())
        atoms.rattle(0.1, seed=seed)
        found.append(atoms)
    return found


ALLOYS = ("Cu Cu Cu Cu", "Cu Cu Au Au", "Cu Ni Ni Ni", "Au Au Au Ni", "Au Cu Cu Ni", "Ni Ni Au Au")


class Changed(Calculator):
    """A calculator of ASE's kind: a quadratic energy with offsets, and forces times a factor."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, offsets: dict[str, float] | None = None, factor: float = 1.0, noise: float = 0.0) -> None:
        super().__init__()
        self.offsets, self.factor, self.noise = offsets or {}, factor, noise

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = (), system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        assert not [name for name in (*atoms.info, *atoms.arrays) if name.startswith(("ref_", "rootstock_"))]
        p = atoms.positions
        energy = (p * p).sum() + sum(self.offsets.get(each, 0.0) for each in atoms.get_chemical_symbols())
        self.results = {
            "energy": energy + self.noise * p[0, 0], "forces": -2 * p * self.factor, "stress": np.ones(6) * self.factor
        }  # fmt: skip


# -- numbers


def test_offsets_are_found_and_nothing_is_left() -> None:
    images = cells(*ALLOYS)
    found = compare(images, {"one": Changed(), "other": Changed(OFFSETS, 1.5)})
    assert isinstance(found, Comparison) and found.reference == "one"
    energies = found.energies["other"]
    assert energies.offsets is not None and energies.offsets.elements == pytest.approx(OFFSETS, abs=1e-12)
    assert not energies.offsets.together and energies.offsets.fitted == 3
    assert np.abs(energies.rest).max() < 1e-12
    sizes = [sum(OFFSETS[symbol] for symbol in atoms.get_chemical_symbols()) / 4 for atoms in images]
    assert energies.difference == pytest.approx(sizes)
    [pair] = found.pairs
    forces = np.concatenate([2 * atoms.positions for atoms in images])
    assert pair.forces_mae == pytest.approx(np.abs(forces).mean() / 2)
    assert pair.forces_rmse == pytest.approx((forces**2).mean() ** 0.5 / 2)
    assert pair.forces_cosine == pytest.approx(1) and pair.cosine_atoms == pair.atoms == 24
    assert pair.stress_mae == pytest.approx(0.5 / GPa) and pair.stress_structures == 6
    assert pair.largest[2] == pytest.approx(np.linalg.norm(images[2].positions, axis=1).max())


def test_what_is_left_is_least_per_atom_and_listed_by_size() -> None:
    images = cells(*ALLOYS)
    images[1] = images[1] * (2, 1, 1)
    found = compare(images, {"one": Changed(), "other": Changed(OFFSETS, noise=3.0)}, properties=("energy",))
    energies = found.energies["other"]
    fractions = np.array(
        [[atoms.get_chemical_symbols().count(each) / len(atoms) for each in OFFSETS] for atoms in images]
    )
    noise = np.array([3.0 * atoms.positions[0, 0] / len(atoms) for atoms in images])
    offsets, *_ = np.linalg.lstsq(fractions, noise, rcond=None)
    assert energies.rest == pytest.approx(noise - fractions @ offsets)
    assert not found.pairs[0].structures and found.pairs[0].forces_mae is None
    order = [each.index for each in found.disagreements()]
    assert order == sorted(range(6), key=lambda k: -abs(energies.rest[k]))
    assert [each.energy_of for each in found.disagreements()] == ["other"] * 6


def test_opposite_and_vanishing_forces() -> None:
    images = cells(*ALLOYS[:2])
    images[0].positions[:3] = 0.0
    found = compare(images, {"one": Changed(), "other": Changed(factor=-1.0), "third": Changed(factor=2.0)})
    assert {each.models: each.forces_cosine for each in found.pairs} == {
        ("one", "other"): pytest.approx(-1), ("one", "third"): pytest.approx(1), ("other", "third"): pytest.approx(-1)
    }  # fmt: skip
    assert {each.cosine_atoms for each in found.pairs} == {5}
    # factors 1, -1 and 2: their mean is 2/3
    factor = np.sqrt(np.mean((np.array([1, -1, 2]) - 2 / 3) ** 2))
    for atoms, with_spread in zip(images, found.with_spread(), strict=True):
        each = factor * 2 * np.linalg.norm(atoms.positions, axis=1)
        assert with_spread.arrays["forces_spread_atoms"] == pytest.approx(each)
        assert with_spread.info["forces_spread"] == pytest.approx(each.max())


@pytest.mark.parametrize(
    ("symbols", "together", "undetermined", "elements"),
    [
        (["Na Cl Na Cl"] * 5, {"NaCl": 0.75}, {"Na", "Cl"}, {}),
        (["Na Cl Na Cl", "Na Cl Cu Cu", "Cu Cu Cu Cu"], {"NaCl": 0.75}, {"Na", "Cl"}, {"Cu": 1.5}),
        (
            ["Na Cl Na Cl", "K Br K Br", "K Na Br Cl", "Na Cl Na Cl"],
            {"NaCl": 0.75, "KBr": 5.0},
            {"Na", "Cl", "K", "Br"},
            {},
        ),
        (["Na Cl Na Cl", "Na Br Na Br", "Na Na Cl Br"], {"NaCl": 0.75, "NaBr": 3.0}, {"Na", "Cl", "Br"}, {}),
    ],
)
def test_offsets_that_the_structures_do_not_tell_apart(
    symbols: list[str], together: dict[str, float], undetermined: set[str], elements: dict[str, float]
) -> None:
    true = {"Na": 1.0, "Cl": -0.25, "K": 3.0, "Br": 2.0, "Cu": 1.5}
    found = compare(cells(*symbols), {"one": Changed(), "other": Changed(true)})
    offsets = found.energies["other"].offsets
    assert offsets is not None
    assert offsets.together == pytest.approx(together) and set(offsets.undetermined) == undetermined
    assert offsets.elements == pytest.approx(elements)
    assert offsets.fitted == len(together) + len(elements)


def test_structures_that_say_nothing() -> None:
    """No structure is left to compare when the fit takes all; one that has an element alone is none either."""
    counts = np.array([[4, 0], [3, 1]])
    assert np.isnan(fit_offsets(["Cu", "Au"], counts, np.array([1.0, 7.0])).rest).all()
    counts = np.array([[4, 0], [4, 0], [3, 1]])
    rest = fit_offsets(["Cu", "Au"], counts, np.array([1.0, 2.0, 7.0])).rest
    assert rest[:2] == pytest.approx([-0.125, 0.125]) and np.isnan(rest[2])
    found = compare(cells("Cu Cu Cu Cu"), {"one": Changed(), "other": Changed(OFFSETS)})
    assert found.to_dict()["energies"][0]["rest_eV_per_atom"] is None


def with_results(atoms: Atoms, **results: Any) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.mark.parametrize("kind", ["results", "ref_", "REF_"])
def test_data_that_the_structures_carry(kind: str, tmp_path: Path) -> None:
    images = cells(*ALLOYS)
    for atoms in images:
        energy, forces = float((atoms.positions**2).sum()), -2 * atoms.positions
        if kind == "results":
            with_results(atoms, energy=energy, forces=forces)
        else:  # as in the results of a run folder
            with_results(atoms, energy=1e6, forces=forces * 7)
            atoms.info[f"{kind}energy"], atoms.arrays[f"{kind}forces"] = energy, forces
    images[4].calc = None
    images[4].info.pop(f"{kind}energy", None)
    write(tmp_path / "data.extxyz", images)
    read_again = read(tmp_path / "data.extxyz", ":")
    found = compare(read_again, {"other": Changed(OFFSETS)}, against="data")
    assert found.to_dict()["data"] == {"energy": 5, "forces": 5 if kind == "results" else 6, "stress": 0}
    assert found.energies["other"].offsets.elements == pytest.approx(OFFSETS, abs=1e-6)  # type: ignore[union-attr]
    assert np.isnan(found.energies["other"].difference[4])
    assert found.pairs[0].models == ("other", "data") and found.pairs[0].forces_mae == pytest.approx(0, abs=1e-7)


def test_what_cannot_be_compared() -> None:
    images = cells(*ALLOYS)
    with pytest.raises(ConfigurationError, match="carry no data"):
        compare(images, {"one": Changed()}, against="data")
    with pytest.raises(ConfigurationError, match="one model alone"):
        compare(images, {"one": Changed()})
    with pytest.raises(ConfigurationError, match="three is none of the models: one, other"):
        compare(images, {"one": Changed(), "other": Changed()}, against="three")
    with pytest.raises(ConfigurationError, match="magmoms cannot be compared"):
        compare(images, {"one": Changed(), "other": Changed()}, properties=("magmoms",))
    with pytest.raises(ConfigurationError, match="no structures"):
        compare([], {"one": Changed(), "other": Changed()})
    images[0].info["ref_forces"], images[0].info["ref_energy"] = [1.0, 2.0], 1.0
    with pytest.raises(ConfigurationError, match="ref_forces of a shape"):
        compare(images, {"one": Changed()}, against="data")


def test_failures_are_no_numbers() -> None:
    """What a calculator cannot compute is left out, with its error: never a zero."""
    images = [*cells(*ALLOYS), Atoms("Li2", [[0, 0, 0], [0, 0, 2.0]], cell=[9, 9, 9], pbc=True)]
    found = compare(images, {"one": Changed(), "EMT": EMT()})
    failure = found.models["EMT"].failures[6]
    assert found.failed == 1 and failure.failure == "structure" and "Li" in str(failure.error)
    assert found.models["EMT"].results[6] is None and np.isnan(found.energies["EMT"].difference[6])
    row = list(found.rows())[-1]
    assert (row["energy_eV"], row["failure"], row["error"]) == (None, "structure", "ModelError")
    assert "forces_spread" not in found.with_spread()[6].info


# -- the command

Compare = Callable[..., Done]


@pytest.fixture(scope="module")
def known(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with models of known numbers: an environment with the packages of `root`'s EMT."""
    folder = tmp_path_factory.mktemp("known")
    file = folder / "known.py"
    file.write_text(MODELS.replace("@FOLDER@", str(folder)))
    theirs, ours = RootLayout(root), RootLayout(folder / "root")
    for path in (ours.environments, ours.active("known").parent):
        path.mkdir(parents=True)
    shutil.copy(root / "rootstock.toml", ours.root)
    packages = theirs.active("emt").resolve()
    record = put_environment(ours, file, read_build(packages))
    for name in ("bin", "lib", "pyvenv.cfg"):
        ours.build("known", record.digest).joinpath(name).symlink_to(packages / name)
    return ours.root


@pytest.fixture
def words(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return the function that makes a command line about the models of known numbers, in a folder with alloys."""
    monkeypatch.chdir(tmp_path)
    for name in ("alloys.extxyz", "alloys.json"):
        write(name, cells(*ALLOYS))
    return lambda *given: ["compare", *given, "--root", str(known), "--device", "cpu"]


@pytest.fixture
def command(words: Callable[..., list[str]]) -> Compare:
    """Return what runs the command, in this process."""

    def command(*given: str) -> Done:
        done = CliRunner().invoke(main, words(*given), prog_name="rootstock")
        return Done(given, done.exit_code, done.stdout, done.stderr)

    return command


def test_the_command(command: Compare, tmp_path: Path) -> None:
    """The reference computes, too, if it is none of the models."""
    done = command("alloys.extxyz", "--models", "known-shifted", "--against", "known-plain", "--out", "all.json",
                   "--out", "all.csv", "--spread", "spread.extxyz", "--worst", "2")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    sizes = [250 * sum(OFFSETS[symbol] for symbol in each.split()) for each in ALLOYS]
    before = [f"{np.mean(sizes):.2f}", f"{np.abs(sizes).mean():.2f}"]
    assert ["known-shifted", "6", "3", "0.00", "0.00", "0.00", *before] in lines
    assert ["Cu", "1.500000"] in lines and ["Au", "-2.250000"] in lines and ["Ni", "0.125000"] in lines
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert sum(line[:1] != [] and line[0].startswith("alloys.extxyz@") for line in lines) == 2  # --worst
    assert "1 of 2, known-plain: start" in done.stderr
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["schema"] == 1 and found["complete"] and found["reference"] == "known-plain"
    assert [each["computed"] for each in found["models"]] == [6, 6]
    assert all(each["start_s"] > 0 and each["computing_s"] > 0 and each["device"] == "cpu" for each in found["models"])
    assert found["energies"][0]["offsets"]["elements_eV"] == pytest.approx(OFFSETS)
    with (tmp_path / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and rows[3]["structure"] == "alloys.extxyz@1"
    images = read(tmp_path / "alloys.extxyz", ":")
    assert float(rows[2]["energy_eV"]) == float((images[1].positions ** 2).sum())  # every digit
    for atoms, after, row in zip(images, read(tmp_path / "spread.extxyz", ":"), rows[::2], strict=True):
        spread = 0.25 * np.linalg.norm(2 * atoms.positions, axis=1)
        assert after.arrays["forces_spread_atoms"] == pytest.approx(spread)
        assert after.info["forces_spread"] == pytest.approx(spread.max()) == float(row["forces_spread_eV_per_A"])
        assert after.info["rootstock_source"] == row["structure"]


def test_one_structure_and_one_model_fail(command: Compare, tmp_path: Path) -> None:
    """Nothing is lost with them, and no number is made up for them."""
    images = cells(*ALLOYS)
    images[2].info["poison"] = True
    write(tmp_path / "some.extxyz", images)
    done = command("some.extxyz", "--models", "known-plain,known-poison", "--json")
    assert done.returncode == 22, done.stderr
    assert "some.extxyz@2, known-poison: structure: ModelError: " in done.stderr
    found = json.loads(done.stdout)
    assert [each["failed"] for each in found["models"]] == [0, 1]
    assert found["energies"][0]["rest_eV_per_atom"]["structures"] == 5
    assert found["energies"][0]["offsets"]["elements_eV"] == pytest.approx(OFFSETS)
    models = ("--models", "known-broken", "known-plain", "--models", "known-shifted", "--against", "known-plain")
    done = command("some.extxyz", *models, "-o", "a.json")
    assert done.returncode == WorkerStartError.exit_code
    assert "known-broken" in done.stderr.split("\nError: ")[1].splitlines()[0]
    found = json.loads((tmp_path / "a.json").read_text())
    assert [each["computed"] for each in found["models"]] == [0, 6, 6]
    assert found["models"][0]["error"]["error"] == "WorkerStartError" and len(found["energies"]) == 2


def test_interrupted(words: Callable[..., list[str]], known: Path, tmp_path: Path) -> None:
    line = [
        ROOTSTOCK,
        *words("alloys.extxyz", "--models", "known-plain", "known-shifted", "known-wait", "-o", "a.json"),
    ]
    with started(line) as process:
        wait_for((known.parent / "waits").exists, "the third model computes")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130, said
    assert "a.partial.json: 6 structures" in said and not (tmp_path / "a.json").exists()
    found = json.loads((tmp_path / "a.partial.json").read_text())
    assert not found["complete"] and [each["computed"] for each in found["models"]] == [6, 6, 0]
    assert found["energies"][0]["offsets"]["elements_eV"] == pytest.approx(OFFSETS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--models", "known-plain", "alloys.extxyz"), "rootstock compare alloys.extxyz --models known-plain"),
        (("alloys.extxyz", "known-plain"), "rootstock compare alloys.extxyz --models known-plain"),
        (("alloys.extxyz", "--models"), "Option '--models' requires an argument."),
        (("alloys.extxyz", "--models", "--json"), "Option '--models' requires an argument."),
        (("alloys.extxyz", "--models", "known-plain", "nosuch"), "nosuch"),
        (("alloys.extxyz", "--models", "known-plain", "known-plain"), "is named twice"),
        (("alloys.extxyz", "--models", "known-plain"), "one model alone"),
        (("alloys.extxyz", "--models", "known-plain", "--against", "data", "--spread", "a.traj"), "needs two models"),
        (("alloys.extxyz", "--models", "known-plain", "--against", "data"), "carry no data"),
        (("alloys.extxyz", "--models", "known-plain", "known-shifted", "-o", "a.txt"), ".csv or .json"),
        (("alloys.extxyz", "--models", "known-plain", "known-shifted", "--spread", "a.cif"), "Use .extxyz or .traj"),
        (("alloys.extxyz", "--models", "known-plain", "known-shifted", "--spread", "alloys.extxyz"), "exists"),
        (
            ("alloys.extxyz", "--models", "known-plain", "b", "--properties", "energy", "--spread", "a.traj"),
            "needs forces",
        ),
        (("alloys.json", "--models", "known-plain", "b", "-o", "alloys.json", "--overwrite"), "holds the structures"),
        (("nosuch.xyz", "--models", "known-plain", "known-shifted"), "There is no file nosuch.xyz"),
        (("alloys.extxyz", "--models", "known-plain", "--output", "a.csv"), "--output is --out here"),
    ],
)
def test_wrong_lines_are_told_before_anything_is_computed(given: tuple[str, ...], said: str, command: Compare) -> None:
    done = command(*given)
    assert done.returncode in (2, 3, 4), done.stderr
    assert said in done.stderr and "1 of " not in done.stderr


def test_options_of_several_values() -> None:
    @click.command(cls=type(main.commands["compare"]))
    @click.argument("files", nargs=-1)
    @click.option("--models", cls=Several)
    @click.option("--flag", is_flag=True)
    @click.option("--one")
    def show(**given: Any) -> None:
        click.echo(json.dumps(given))

    for line, models, files in [
        ("x --models a b", ["a", "b"], ["x"]),
        ("--models a,b --flag x", ["a", "b"], ["x"]),
        ("--models=a b --one y x --models c", ["a", "b", "c"], ["x"]),
        ("--models a -- x --models b", ["a"], ["x", "--models", "b"]),
    ]:
        found = json.loads(CliRunner().invoke(show, line.split()).output)
        assert (found["models"], found["files"]) == (models, files), line


def test_a_worker_gives_what_the_calculator_gives(root: Path) -> None:
    """EMT in its environment, and in this process: nothing differs."""
    images = cells(*ALLOYS)
    with RootstockCalculator("emt", root=root, device="cpu") as calc:
        found = compare(images, {"worker": calc, "here": EMT()})
        assert found.models["worker"].build == calc.parameters["build"]
    assert (found.energies["here"].difference == 0).all() and found.pairs[0].forces_mae == 0


def test_the_tab_key(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOTSTOCK_ROOT", str(known))
    complete = ShellComplete(main, {}, "rootstock", "_ROOTSTOCK_COMPLETE").get_completions
    for words in (["--models"], ["--models", "emt"], ["--models=emt", "lj"], ["--models", "emt", "--against"]):
        assert [each.value for each in complete(["compare", "a.xyz", *words], "kn")] == ["known"], words
    for words in ([], ["--models", "emt", "--json"], ["--models", "emt", "--"]):
        assert [each.type for each in complete(["compare", *words], "kn")] == ["file"], words
