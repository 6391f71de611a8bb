"""What others write down of us: names that they import, and pickles. Where a module lies inside, none of them says."""

from __future__ import annotations

import ast
import importlib
import pickle
import pickletools
import re
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from rootstock import RootstockCalculator
from rootstock.ipi import IPICalculator
from tests.support.commands import run

PROJECT = Path(__file__).parents[1]

# By module: every name that the contract, README.md, docs/ and examples/ use.
PUBLIC = {
    "rootstock": ["CLUSTER_REGISTRY", "Comparison", "Relaxation", "Relaxed", "RootstockCalculator", "Run",
                  "__version__", "compare", "get_root_for_cluster", "parse_model_string", "relax_many"],
    "rootstock.calculator": ["Evaluated", "FailureClass", "RootstockCalculator"],
    "rootstock.clusters": ["CLUSTER_REGISTRY", "get_root_for_cluster"],
    "rootstock.environment": ["EnvironmentManager"],
    "rootstock.errors": ["DeviceError", "MissingWeightsError", "NonFiniteError", "RootError", "RootstockError",
                         "UnknownEnvironmentError", "WorkerDiedError", "WorkerError"],
    "rootstock.ipi": ["IPICalculator"],
    "rootstock.lammps": ["Coupling", "attach"],
    "rootstock.parsl": ["config", "evaluate", "kept_calculator"],
}  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names(module: str) -> None:
    """Each is imported first of all in a process of its own, as a user's program does."""
    names = PUBLIC[module]
    values = ", ".join(names)
    code = (
        f"from {module} import {values}; print(*{{each.__module__ for each in [{values}] if isinstance(each, type)}})"
    )
    done = run(sys.executable, "-I", "-c", code, check=True)
    assert set(done.stdout.split()) <= PUBLIC.keys()


def test_one_object_by_every_name() -> None:
    same: dict[str, set[int]] = {}
    for module, names in PUBLIC.items():
        for name in names:
            same.setdefault(name, set()).add(id(getattr(importlib.import_module(module), name)))
    assert all(len(ids) == 1 for ids in same.values())


def pages() -> list[Path]:
    """Return what users read; ARCHITECTURE.md and CONTRIBUTING.md are for those who work on Rootstock."""
    found = [
        PROJECT / "README.md",
        PROJECT / "CHANGELOG.md",
        *PROJECT.glob("docs/**/*.md"),
        *PROJECT.glob("examples/*"),
    ]
    assert len(found) > 40
    return sorted(found)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_pages_and_examples_name_public_modules_only(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    dotted = set(re.findall(r"(?:`|::: )(rootstock(?:\.\w+)+)", text)) - PUBLIC.keys()
    public = {f"{module}.{name}" for module, names in PUBLIC.items() for name in names}
    assert dotted <= public | {"rootstock.toml", "rootstock.bundle"}  # files
    files = re.findall(r"\b\w+/[\w/]+\.py\b", text)
    assert not [file for file in files if any(PROJECT.glob(f"rootstock/**/{file.removeprefix('rootstock/')}"))]


def imports(code: str) -> set[tuple[str, str]]:
    """Return the modules and names that a program imports; of a module as a whole, no name."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {(each.name, "") for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "", each.name) for each in node.names}
    return found


def test_every_name_that_pages_import_is_public() -> None:
    used = set()
    for page in pages():
        text = page.read_text(encoding="utf-8")
        blocks = [text] if page.suffix == ".py" else re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
        used |= {each for block in blocks for each in imports(block) if each[0].partition(".")[0] == "rootstock"}
    assert ("rootstock", "RootstockCalculator") in used and ("rootstock.lammps", "attach") in used
    assert used <= {(module, name) for module, names in PUBLIC.items() for name in ["", *names]}


# -- what is pickled


def modules_in(pickled: bytes) -> set[str]:
    """Return the modules of ours that a pickle names."""
    names = {str(argument) for operation, argument, _ in pickletools.genops(pickled) if operation.name == "GLOBAL"}
    return {name.split()[0] for name in names if name.startswith("rootstock")}


def test_pickles_name_public_modules_only(root: Path) -> None:
    atoms = bulk("Cu")
    with RootstockCalculator("emt", root=root, device="cpu") as calc:
        atoms.calc = calc
        atoms.get_forces()
        assert modules_in(pickle.dumps(atoms, protocol=0)) == {"rootstock.calculator"}
    assert RootstockCalculator.__module__ == "rootstock.calculator"
    foreign = IPICalculator(address="nobody")
    foreign.atoms = atoms
    assert modules_in(pickle.dumps(foreign, protocol=0)) == {"rootstock.ipi"}


def unpickled(name: str, root: Path, code: str, folder: Path) -> str:
    """Return what `code` prints about a pickle of commit aa57b98, in a process that has imported nothing of ours."""
    pickled = (Path(__file__).parent / "pickles" / f"{name}.pickle").read_bytes()
    (folder / "pickle").write_bytes(pickled.replace(b"{root}", str(root).encode()))
    load = "import pickle, sys; it = pickle.load(open(sys.argv[1], 'rb'))"
    return run(sys.executable, "-I", "-c", f"{load}\n{code}", folder / "pickle", check=True).stdout


def test_a_calculator_that_was_pickled_before_the_ten_packages(root: Path, tmp_path: Path) -> None:
    code = (
        "known = it.calc.get_property('energy', it, allow_calculation=False); it.positions[0, 0] += 0.1; it *= 2\n"
        "with it.calc: print([it.info, it.calc.parameters['root'], known, it.get_potential_energy()])"
    )
    atoms = bulk("Cu")
    atoms.calc = EMT()
    known = atoms.get_potential_energy()
    atoms.positions[0, 0] += 0.1
    atoms *= 2
    atoms.calc = EMT()
    now = atoms.get_potential_energy()
    said = unpickled("RootstockCalculator", root, code, tmp_path)
    assert ast.literal_eval(said) == [
        {"step": 3},
        str(root),
        known,
        now,
    ]


def test_an_i_pi_calculator_that_was_pickled_before_the_ten_packages(tmp_path: Path) -> None:
    code = (
        "known = [it.calc.get_property(name, it, allow_calculation=False) for name in ('energy', 'stress')]\n"
        "it.rattle(); known.append(it.calc.get_property('energy', it, allow_calculation=False))\n"
        "print([it.calc.parameters, it.calc.atoms.info, known])"
    )
    arguments = {"command": ["x"], "address": "/tmp/q"}
    said = unpickled("IPICalculator", tmp_path, code, tmp_path)
    assert ast.literal_eval(said) == [
        arguments,
        {"step": 3},
        [-1.5, None, None],
    ]
