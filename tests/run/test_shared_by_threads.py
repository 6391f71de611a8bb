"""One calculator in several threads: each sees the values of its own atoms."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.units import fs

from rootstock import RootstockCalculator
from rootstock.errors import ModelError, WorkerError
from tests.run.conftest import Make
from tests.support.processes import wait_for, wait_until_gone

THREADS = 4


def rattled(seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (1 + seed % 2, 1, 1)
    atoms.rattle(0.1, seed=seed)
    return atoms


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    """Return what `work` returns for each number of a thread; all of them begin at the same time."""
    together = threading.Barrier(THREADS)

    def one(number: int) -> Any:
        together.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


def static(atoms: Atoms) -> Any:
    found = []
    for _ in range(20):
        atoms.positions[0] += 0.001
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        results = atoms.calc.results  # as workflow programs read them
        assert (results["energy"], atoms.calc.atoms) == (energy, atoms)
        assert np.array_equal(results["forces"], forces)
        assert not atoms.calc.check_state(atoms)
        assert atoms.calc.get_property("energy", atoms, allow_calculation=False) == energy
        assert atoms.calc.get_property("energy") == energy
        found.append([energy, *forces.ravel()])
    return found


def relaxed(atoms: Atoms) -> Any:
    BFGS(atoms, logfile=None).run(fmax=0.01)
    return atoms.positions


def moved(atoms: Atoms) -> Any:
    VelocityVerlet(atoms, 2 * fs).run(20)
    return atoms.positions


@pytest.mark.parametrize("work", [static, relaxed, moved])
def test_each_thread_gets_its_own_values(emt: RootstockCalculator, work: Callable[[Atoms], Any]) -> None:
    def by(number: int, calc: Any) -> Any:
        atoms = rattled(number)
        atoms.calc = calc
        return work(atoms)

    for number, found in enumerate(in_threads(lambda number: by(number, emt))):
        # EMT's own sums depend on the atoms that it saw before, by rounding.
        assert np.allclose(found, by(number, EMT()), rtol=0, atol=1e-6)


def test_a_thread_that_computed_nothing_sees_the_last_ones_results(emt: RootstockCalculator) -> None:
    atoms = rattled(1)
    atoms.calc = emt
    with ThreadPoolExecutor(1) as pool:
        energy = pool.submit(atoms.get_potential_energy).result()
        calls = emt.info()["calls"]["count"]
        assert emt.results["energy"] == energy
        assert emt.atoms == atoms
        assert copy.copy(emt).results == emt.results
        assert pickle.loads(pickle.dumps(emt)).results["energy"] == energy
        assert atoms.get_potential_energy() == energy
        assert emt.info()["calls"]["count"] == calls
        atoms.rattle(0.1)
        other = atoms.get_potential_energy()
        assert other != energy
        # Each keeps what it computed itself.
        assert pool.submit(lambda: emt.results["energy"]).result() == energy
        assert emt.results["energy"] == other


def test_results_that_the_caller_changes_are_those_of_one_thread(emt: RootstockCalculator) -> None:
    def work(number: int) -> tuple[bool, dict[str, Any]]:
        atoms = rattled(number)
        atoms.calc = emt
        energy = atoms.get_potential_energy()
        emt.results["energy"] = -1.0 - number
        kept = atoms.get_potential_energy() == -1.0 - number
        emt.reset()
        return kept and emt.atoms is None and atoms.get_potential_energy() == energy, emt.results

    assert all(right and results["energy"] > -1.0 for right, results in in_threads(work))


class Corrected(RootstockCalculator):
    """Adds to each energy, as a correction for dispersion does."""

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self.results["energy"] += len(self.atoms)


def test_a_calculate_of_somebodys_own(root: Any) -> None:
    with Corrected("emt", root=root, device="cpu") as calc:

        def work(number: int) -> list[float]:
            atoms = rattled(number)
            atoms.calc = calc
            energies = []
            for _ in range(20):
                atoms.positions[0] += 0.001
                energies.append(atoms.get_potential_energy() - len(atoms))
            return energies

        found = in_threads(work)
    for number, energies in enumerate(found):
        atoms = rattled(number)
        atoms.calc = EMT()
        for energy in energies:
            atoms.positions[0] += 0.001
            assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def test_a_failure_is_told_to_the_thread_whose_atoms_fail(make: Make) -> None:
    calc = make("if self.atoms.info.get('fails'): raise ValueError('too close')")

    def work(number: int) -> int:
        failed = 0
        for size in range(1, 30):
            atoms = Atoms(f"Cu{size}", positions=np.full((size, 3), float(number)), calculator=calc)
            if (size + number) % 2:
                atoms.info["fails"] = True
                with pytest.raises(ModelError, match="too close"):
                    atoms.get_potential_energy()
                failed += 1
            else:
                assert atoms.get_potential_energy() == size
        return failed

    assert in_threads(work) == [15 if number % 2 == 0 else 14 for number in range(THREADS)]


def test_arguments_that_are_changed_during_the_first_call_of_a_copy(make: Make, tmp_path: Path) -> None:
    """That call writes down the build, and nothing else."""
    calc = pickle.loads(pickle.dumps(make(wait_in(tmp_path))))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(calc.get_property, "energy", Atoms("Cu"))
        wait_for((tmp_path / "inside").exists, "the evaluation")
        calc.parameters["timeout"] = 77.0
        (tmp_path / "go").touch()
        assert call.result() == 1.0
    assert calc.parameters["timeout"] == 77.0


@pytest.mark.parametrize("during", ["start", "call"])
def test_a_calculator_that_is_closed_while_another_thread_asks(make: Make, tmp_path: Path, during: str) -> None:
    """That thread is told why it gets no answer, and the worker does not stay behind."""
    wait = wait_in(tmp_path)
    calc = make(setup=f"{wait}\nreturn Calculator()") if during == "start" else make(wait)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(calc.get_property, "energy", Atoms("Cu"))
        wait_for((tmp_path / "inside").exists, f"the {during}")
        calc.close()
        (tmp_path / "go").touch()
        with pytest.raises(WorkerError, match="Another thread has closed this calculator meanwhile"):
            call.result()
    wait_until_gone(int((tmp_path / "inside").read_text()))
    with calc:
        assert calc.get_property("energy", Atoms("Cu")) == 1.0


def wait_in(folder: Path) -> str:
    """Return what makes a model write its process number, and wait for the file `go`."""
    return f"""\
with open({str(folder / "being-written")!r}, "w") as file:
    file.write(str(os.getpid()))
os.rename(file.name, {str(folder / "inside")!r})
while not os.path.exists({str(folder / "go")!r}):
    time.sleep(0.01)"""


def test_arguments_that_a_thread_changes_hold_for_all(make: Make) -> None:
    """No call fails meanwhile, and afterwards one worker is left, which computes by the new ones."""
    add = "self.results['energy'] += self.more"
    calc = make(add, setup="it = Calculator()\nit.more = kwargs.get('more', 0.0)\nreturn it")
    calc.start()

    def work(number: int) -> set[float]:
        found = set()
        for step in range(40):
            atoms = Atoms("Cu", positions=[[number, step, 0]], calculator=calc)
            if step == 20 and number < 2:
                calc.parameters["setup_kwargs"] = {"more": 5.0}
            found.add(atoms.get_potential_energy())
        return found

    assert set().union(*in_threads(work)) == {1.0, 6.0}
    atoms = Atoms("Cu", calculator=calc)
    assert atoms.get_potential_energy() == 6.0
    assert in_threads(lambda _: calc.get_property("energy", atoms)) == [6.0] * THREADS


def test_changes_of_several_threads_all_hold(make: Make, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"threads": 2}, {"timeout": 7.0}, {"setup_kwargs": {"more": 1.0}}, {"log": str(tmp_path / "log")},
    ]  # fmt: skip
    for _ in range(20):
        calc = make()
        in_threads(lambda number, calc=calc: calc.set(**changes[number]))  # type: ignore[misc]
        expected = {name: value for change in changes for name, value in change.items()}
        assert {name: calc.parameters[name] for name in expected} == expected
