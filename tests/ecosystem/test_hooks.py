"""Programs that take an ASE calculator by name or instance: quacc, matcalc, atomate2, mlipx, ``ase run``.

None of them, nor we, need torch in the user's environment; atomate2 itself imports it to keep its default type.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS

from rootstock import __version__
from rootstock.builds.uv import find_uv
from tests.ecosystem.conftest import PROGRAMS, TORCH, Ask, last_line, lives
from tests.support.commands import run

pytestmark = pytest.mark.xdist_group("hooks")


def energy_of(atoms: Atoms, relaxed: bool = False) -> float:
    atoms.calc = EMT()
    if relaxed:
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.001)
    return float(atoms.get_potential_energy())


def rattled() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def test_quacc(python: Path, ask: Ask, root: Path) -> None:
    found = last_line(ask(python, PROGRAMS / "quacc_jobs.py"))
    assert found["energy"] == pytest.approx(energy_of(rattled()), abs=1e-9)
    assert found["relaxed"] == pytest.approx(energy_of(rattled(), relaxed=True), abs=1e-3)
    assert found["parameters"] | {"model": "emt", "root": str(root), "version": __version__} == found["parameters"]
    assert found["calls"] > 2  # of both jobs: quacc enters one calculator and keeps it
    assert not lives(found["worker"])  # though quacc never leaves it
    assert not found["torch"]


def test_quacc_leaves_our_package(python: Path) -> None:
    """What quacc calls rootstock is another project, which package indexes know by that name."""
    code = (
        "from importlib.metadata import requires; print(*(r for r in requires('quacc') if 'rootstock' in r), sep=';;')"
    )
    wanted = [text.partition(";")[0] for text in run(python, "-c", code, check=True).stdout.strip().split(";;")]
    assert wanted and all(text.startswith("rootstock") for text in wanted)
    done = run(find_uv(), "pip", "install", "--dry-run", "--python", python, *wanted, check=True)
    assert "Would make no changes" in done.stderr


def test_quacc_in_threads(python: Path, ask: Ask) -> None:
    """quacc keeps one calculator for the same arguments, so all of its jobs in a process share it."""
    found = last_line(ask(python, PROGRAMS / "quacc_threads.py"))
    structures = [bulk("Cu", cubic=True) for _ in found["static"]]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=seed)
    energies = [energy_of(atoms) for atoms in structures]
    assert found["static"] == pytest.approx(energies, abs=1e-9)
    assert found["before"] == pytest.approx(energies[: len(found["before"])], abs=1e-9)
    assert found["relaxed"] == pytest.approx([energy_of(bulk("Cu", cubic=True))] * len(found["relaxed"]), abs=1e-3)
    assert found["workers"] == 1


@pytest.mark.parametrize("spread", ["joblib", "dask", pytest.param("matcalc", marks=pytest.mark.soak)])
def test_one_worker_in_each_process(python: Path, ask: Ask, spread: str) -> None:
    found = last_line(ask(python, PROGRAMS / "tasks_in_processes.py", spread))
    expected = []
    for seed in range(len(found["energies"])):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        expected.append(energy_of(atoms))
    assert found["energies"] == pytest.approx(expected, abs=1e-9)
    assert len(found["workers"]) == len({process for process, _ in found["workers"]}) <= 2
    assert not any(lives(worker) for _, worker in found["workers"])


def test_matcalc(python: Path, ask: Ask) -> None:
    found = last_line(ask(python, PROGRAMS / "matcalc_relaxation.py"))
    expected = [energy_of(bulk(symbol, cubic=True), relaxed=True) for symbol in ("Cu", "Au")]
    assert found["energies"] == pytest.approx(expected, abs=1e-3)
    assert found["many"] == pytest.approx(found["energies"], abs=1e-9)
    assert not found["torch"]


def test_atomate2(python: Path, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(TORCH)
    static, relaxed = last_line(ask(python, PROGRAMS / "atomate2_makers.py", PYTHONPATH=str(tmp_path)))
    assert static["energy"] == pytest.approx(energy_of(bulk("Cu", a=3.7, cubic=True)), abs=1e-9)
    assert relaxed["energy"] == pytest.approx(energy_of(bulk("Cu", cubic=True), relaxed=True), abs=1e-3)
    assert static["version"] == relaxed["version"] == __version__


def test_mlipx(python: Path, ask: Ask) -> None:
    found = last_line(ask(python, PROGRAMS / "mlipx_model.py"))
    assert found == {"energy": pytest.approx(energy_of(rattled()), abs=1e-9), "torch": False}


def test_ase_run(python: Path, ask: Ask, tmp_path: Path, root: Path) -> None:
    """ASE knows the name as soon as our wheel is installed."""
    ase = python.with_name("ase")
    rattled().write(tmp_path / "cu.xyz")
    ask(ase, "run", "rootstock", "cu.xyz", "-p", "model=emt,device=cpu", "-f", "0.01")
    relaxed = read(tmp_path / "cu.traj")
    assert abs(relaxed.get_forces()).max() < 0.01
    assert relaxed.get_potential_energy() == pytest.approx(energy_of(bulk("Cu", cubic=True)), abs=1e-3)
    argon = bulk("Ar", "fcc", 5.3)
    argon.write(tmp_path / "ar.xyz")
    ask(ase, "run", "rootstock", "ar.xyz", "-p", f"checkpoint=lj-argon,root={root},device=cpu", "-f", "0.1")
    assert read(tmp_path / "ar.traj").get_potential_energy() < -0.05
    done = ask(ase, "run", "rootstock", "ar.xyz", "-p", "model=nosuch", check=False)
    assert done.returncode  # ASE chooses the number
    assert "Environment 'nosuch' not found" in done.stderr
    code = "import ase.io, sys; print('rootstock.interfaces.calculator' in sys.modules, 'packaging' in sys.modules)"
    done = ask(python, "-c", code)
    assert done.stdout.split() == ["False", "False"]


def test_references_are_a_format_of_ase(python: Path, ask: Ask, root: Path) -> None:
    done = ask(python.with_name("ase"), "convert", "-i", "rootstock-references", root / "environments/lj.py", "out.xyz")
    assert done.returncode == 0
    done = ask(python, "-c", "from ase.io import read; print(read('out.xyz', 0).get_potential_energy())")
    assert float(done.stdout) == -1.0
