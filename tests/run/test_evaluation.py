"""What a worker computes: the same as in process, for atoms that change in every way; and what is refused."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import re
import textwrap
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.io import Trajectory
from ase.optimize import BFGS

from rootstock import RootstockCalculator
from rootstock.client.session import WorkerSession, WorkerSpec
from rootstock.errors import ModelError, NonFiniteError, RootError
from rootstock.interfaces.arguments import check_arguments, worker_spec
from rootstock.interfaces.evaluation import evaluate
from rootstock.simulations.relax import Relaxation, singlepoint
from tests.run.conftest import Make
from tests.support.commands import clean_environment, run
from tests.support.processes import wait_for

SEQUENCE = """
import json, sys
import numpy as np
from ase.build import bulk, molecule, fcc111

def states(calc):
    '''Atoms that change in every way, and what is asked of each, as hexadecimal numbers.'''
    def ask(atoms, stress=True):
        atoms.calc = calc
        found = [atoms.get_potential_energy(), *atoms.get_forces().ravel()]
        found.append(atoms.get_potential_energy(force_consistent=True))
        return [float(x).hex() for x in found + (list(atoms.get_stress()) if stress else [])]
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    yield ask(atoms)
    atoms.positions[2] += 0.05
    yield ask(atoms)
    atoms.numbers[1] = 79                          # the species, at the same number of atoms
    yield ask(atoms)
    atoms.set_cell(atoms.cell * 1.01, scale_atoms=False)
    yield ask(atoms)
    atoms.pbc = (True, True, False)
    yield ask(atoms)
    atoms *= (2, 1, 1)                             # more atoms
    yield ask(atoms)
    del atoms[0]                                   # fewer
    yield ask(atoms)
    atoms = molecule("CH3CH2OH")                   # no cell
    yield ask(atoms, stress=False)
    atoms = bulk("Au", cubic=True) * (5, 5, 5)     # beyond the room that was made first
    atoms.rattle(0.05, seed=3)
    yield ask(atoms)
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.1, seed=2)
    atoms.calc = calc
    # As a relaxation of the cell asks. ASE's own take their steps with scipy, which differs from version to version.
    for _ in range(10):
        atoms.positions += 0.05 * atoms.get_forces()
        atoms.cell[...] *= 1 - 0.01 * atoms.get_stress()[0]
    yield ask(atoms)
"""
IN_PROCESS = (
    SEQUENCE
    + """
import runpy
print(json.dumps(list(states(runpy.run_path(sys.argv[1])["setup"]("", "cpu")))))
"""
)


@pytest.mark.parametrize("name", ["emt", "lj"])
def test_bit_for_bit_the_same_as_in_process(root: Path, name: str) -> None:
    build = (root / "active" / name).resolve()
    # On one thread each: sums of several may be added in another order.
    one = clean_environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    done = run(build / "bin/python", "-I", "-c", IN_PROCESS, build / "environment.py", env=one, check=True)
    namespace: dict[str, Any] = {}
    exec(SEQUENCE, namespace)
    with RootstockCalculator(model=name, root=root, device="cpu", threads=1) as calc:
        assert list(namespace["states"](calc)) == json.loads(done.stdout)


def test_two_calculators_at_once(root: Path) -> None:
    copper, argon = bulk("Cu", cubic=True), bulk("Ar", "fcc", 5.3, cubic=True)
    with (
        RootstockCalculator(model="emt", root=root) as emt,
        RootstockCalculator(model="lj-argon", root=root) as lj,
    ):
        copper.calc, argon.calc = emt, lj
        before = copper.get_potential_energy(), argon.get_potential_energy()
        for atoms in (copper, argon, copper, argon):
            atoms.rattle(0.01, seed=1)
            atoms.get_forces()
        assert emt.info()["pid"] != lj.info()["pid"]
        assert before != (copper.get_potential_energy(), argon.get_potential_energy())


def test_no_stress_without_a_periodic_cell(emt: RootstockCalculator) -> None:
    atoms = molecule("N2")
    atoms.calc = emt
    atoms.get_forces()
    assert "stress" not in emt.results
    with pytest.raises(PropertyNotImplementedError, match="Stress needs a cell of three vectors"):
        atoms.get_stress()
    atoms.cell = [5, 5, 5]  # a cell, but nothing is periodic
    with pytest.raises(PropertyNotImplementedError, match="Stress needs"):
        atoms.get_stress()
    atoms.pbc = True
    assert atoms.get_stress().shape == (6,)


def test_a_model_that_returns_a_stress_all_the_same(make: Make) -> None:
    atoms = molecule("N2")
    atoms.calc = make()
    atoms.get_forces()
    with pytest.raises(PropertyNotImplementedError, match="Stress needs"):
        atoms.get_stress()


def test_asking_again_costs_no_evaluation(make: Make) -> None:
    calc = make("self.count = getattr(self, 'count', 0) + 1\nself.results['energy'] = float(self.count)")
    atoms = bulk("Cu")
    atoms.calc = calc
    assert [atoms.get_potential_energy() for _ in range(3)] == [1.0, 1.0, 1.0]
    atoms.get_forces()
    atoms.get_stress()
    assert atoms.get_potential_energy() == 1.0
    atoms.positions += 0.1
    assert atoms.get_potential_energy() == 2.0
    assert calc.get_property("energy", atoms, allow_calculation=False) == 2.0
    atoms.positions += 0.1
    assert calc.get_property("energy", atoms, allow_calculation=False) is None


def test_what_the_model_is_asked_for(make: Make) -> None:
    """Energy alone is not made to pay for forces; what was asked of the last atoms comes at once for the next."""
    body = "self.results = {name: self.results[name] for name in properties} | {'energy': float(len(properties))}"
    atoms = bulk("Cu")
    atoms.calc = calc = make(body)
    assert atoms.get_potential_energy() == 1
    atoms.get_forces()
    atoms.positions += 0.1
    assert atoms.get_potential_energy() == 2  # energy and forces, as before
    atoms.positions += 0.1
    assert atoms.get_potential_energy() == 1  # nobody asked for the forces the last time
    assert set(calc.results) == {"energy", "free_energy"}


def test_a_free_energy_that_is_not_the_energy(make: Make) -> None:
    """As of a model with an electronic temperature; where a model has none, the energy stands for it."""
    atoms = bulk("Cu")
    atoms.calc = make(
        "self.results['free_energy'] = -7.5",
        "Calculator.implemented_properties.append('free_energy')\nreturn Calculator()",
    )
    assert atoms.get_potential_energy() == 1
    assert atoms.get_potential_energy(force_consistent=True) == -7.5
    atoms.calc = make()
    assert atoms.get_potential_energy(force_consistent=True) == 1


def test_system_changes_are_those_of_ase(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = make(
        """
        names = ["positions", "numbers", "cell", "pbc", "initial_charges", "initial_magmoms"]
        self.results["energy"] = float(sum(2 ** names.index(change) for change in system_changes))
        """
    )
    assert atoms.get_potential_energy() == 63
    atoms.positions += 0.1
    assert atoms.get_potential_energy() == 1
    atoms.numbers[0] = 47
    assert atoms.get_potential_energy() == 2
    atoms.cell[0, 0] += 0.1
    assert atoms.get_potential_energy() == 4
    atoms.pbc = False
    assert atoms.get_potential_energy() == 8
    atoms.set_initial_charges([1.0])
    assert atoms.get_potential_energy() == 16
    atoms.set_initial_magnetic_moments([1.0])
    assert atoms.get_potential_energy() == 32
    atoms.set_initial_magnetic_moments(None)
    atoms.set_initial_magnetic_moments([[0.0, 0.0, 1.0]])
    assert atoms.get_potential_energy() == 32
    atoms.info["charge"] = 1
    assert atoms.get_potential_energy() == 63
    atoms.set_tags([2])
    assert atoms.get_potential_energy() == 63


def test_everything_reaches_the_model(make: Make) -> None:
    atoms = Atoms("H2O", np.random.default_rng(0).random((3, 3)), cell=np.diag([5, 6, 7.5]), pbc=(1, 0, 1))
    atoms.calc = make(
        """
        a = self.atoms
        assert a.get_chemical_formula() == "H2O" and a.pbc.tolist() == [True, False, True]
        assert a.cell.lengths().tolist() == [5, 6, 7.5]
        if "charge" in a.info:
            field, pair = a.info.pop("field"), a.info.pop("pair")
            assert (type(field), field.dtype.str, field.tolist()) == (np.ndarray, ">f4", [[0.0, 0.5]]), field
            field += 1  # it is the model's own
            assert pair == ([np.float32(1.5), None], {"a": True}) and type(pair[0][0]) is np.float32, pair
            assert a.info == {"charge": -1, "spin": 2.5, "name": "w"} and type(a.info["charge"]) is np.int64, a.info
            assert a.get_initial_charges().tolist() == [0.5, 0, -0.5] and a.get_tags().tolist() == [1, 0, 2]
            assert a.get_initial_magnetic_moments().tolist() == [1.5, 0, 0.25]
            self.results["energy"] = 7.0
        """
    )
    atoms.get_potential_energy()
    atoms.info.update(charge=np.int64(-1), spin=2.5, field=np.array([[0, 0.5]], ">f4"), name="w", skipped=object())
    atoms.info.update(pair=([np.float32(1.5), None], {"a": True}), numbered={1: "a key that is no text"})
    atoms.set_initial_charges([0.5, 0, -0.5])
    atoms.set_tags([1, 0, 2])
    atoms.set_initial_magnetic_moments([1.5, 0, 0.25])
    assert atoms.get_potential_energy() == 7.0
    thawed = atoms.calc.atoms
    assert thawed == atoms
    assert thawed.info["charge"] == -1 and thawed.info["field"].tolist() == [[0.0, 0.5]]
    assert not {"skipped", "numbered"} & thawed.info.keys()
    atoms.info.clear()
    assert atoms.get_potential_energy() == 3.0


SEES = """
atoms = self.given  # what calculate() was given
self.results["energy"] = float(
    atoms.numbers.sum() + atoms.positions.sum() + 10 * atoms.cell.array.sum() + 100 * atoms.pbc.sum()
    + 1e3 * atoms.get_initial_charges().sum() + 1e4 * atoms.get_tags().sum() + 1e5 * atoms.info.get("charge", 0)
    + 1e6 * sum(atoms.info.get("list", [[]])[0]) + 1e7 * atoms.info.get("array", np.zeros(1)).sum()
    + 1e8 * atoms.get_initial_magnetic_moments().sum() + 1e9 * len(atoms.info) + 1e10 * len(atoms.constraints)
    + 1e11 * len(atoms.arrays) + 1e12 * len(atoms)
)
self.results["forces"] = np.full((len(atoms), 3), self.results["energy"]) if "forces" in properties else None
if self.during == "calculate":
    exec(self.deed.read_text())
"""
GIVEN = """
import pathlib
calculate = Calculator.calculate
def remember(self, atoms, *arguments, **keywords):
    self.given = atoms
    calculate(self, atoms, *arguments, **keywords)
Calculator.calculate = remember
Calculator.deed, Calculator.during = pathlib.Path(kwargs["deed"]), kwargs["during"]
if kwargs["during"] == "reset":
    def reset(self):
        if hasattr(self, "given"):
            exec(self.deed.read_text(), {"atoms": self.given, "self": self, "np": np})
    Calculator.reset = reset
return Calculator()
"""
DEEDS = [
    "atoms.info.pop('charge', 0)",
    "atoms.info.update(charge=9, more=1)",
    "atoms.info = {}",
    "atoms.info.get('list', [[]])[0].append(5)",
    "atoms.info.get('array', np.ones(1))[:] = 7",
    "atoms.numbers[:] = 8",
    "atoms.numbers[:] = 8; atoms.numbers.flags.writeable = False",
    "atoms.set_atomic_numbers([1] * len(atoms))",
    "atoms.positions += 1",
    "atoms.positions = atoms.positions + 1",
    "atoms.arrays['positions'] = atoms.positions + 1",
    "atoms.positions.flags.writeable = False",
    "atoms.wrap(); atoms.center(vacuum=3)",
    "atoms.cell[:] = np.eye(3)",
    "atoms.cell[:] = np.eye(3); atoms.cell.array.flags.writeable = False",
    "atoms.set_cell(2 * atoms.cell, scale_atoms=True)",
    "atoms.pbc = False",
    "atoms.pbc[0] = False",
    "atoms.set_initial_charges([5] * len(atoms))",
    "atoms.arrays['initial_charges'][0] += 5",
    "atoms.set_initial_charges(None)",
    "atoms.arrays['initial_magmoms'] = np.ones((len(atoms), 3))",
    "atoms.arrays.get('initial_magmoms', np.ones(1))[:] = 5",
    "atoms.set_tags(5)",
    "del atoms.arrays['tags']",
    "atoms.new_array('mine', np.ones(len(atoms)))",
    "del atoms[0]",
    "atoms.extend(atoms.copy())",
    "atoms.arrays.clear()",
    "from ase.constraints import FixAtoms; atoms.set_constraint(FixAtoms([0]))",
    "from ase.constraints import FixAtoms; atoms.constraints.append(FixAtoms([0]))",
    "atoms.calc = None",
    "vars(atoms).clear()",
    "atoms.info.clear(); atoms.numbers[:] = 1; atoms.positions[:] = 0; del atoms[0]; "
    "self.count = getattr(self, 'count', 0) + 1; assert self.count % 2 == 0, 'fails after that'",
]
WHAT_A_CALLER_DOES = [
    lambda atoms: atoms.positions.__iadd__(0.5),
    lambda atoms: atoms.cell.array.__imul__(1.25),
    lambda atoms: atoms.numbers.__setitem__(0, 47),
    lambda atoms: atoms.info.update(charge=4),
    lambda atoms: atoms.set_tags([1, 0, 2, 0]),
    lambda atoms: atoms.set_pbc((True, False, True)),
    lambda atoms: atoms.set_initial_charges([0.5, 0, 0, 1]),
    lambda atoms: atoms.set_initial_magnetic_moments(None),
    lambda atoms: atoms.set_initial_magnetic_moments([[0, 0, 1.0]] * 4),
    lambda atoms: atoms.info.clear(),
    lambda atoms: atoms.positions.__isub__(0.25),
    lambda atoms: atoms.__delitem__(0),
]


def seen(atoms: Atoms) -> float:
    """Return what a model sees that has never seen any atoms."""
    model = types.SimpleNamespace(given=atoms.copy(), results={}, during="")
    exec(SEES, {"self": model, "np": np, "properties": ()})
    return float(model.results["energy"])


@pytest.mark.parametrize("during", ["calculate", "reset"])
def test_what_a_model_changes_in_its_atoms_is_undone(make: Make, tmp_path: Path, during: str) -> None:
    """The next call is for the caller's atoms, whatever of them changes then."""
    deed = tmp_path / "deed.py"
    calc = make(SEES, GIVEN, setup_kwargs={"deed": str(deed), "during": during})

    def ask(name: str, atoms: Atoms) -> float:
        try:
            return float(np.max(calc.get_property(name, atoms)))
        except ModelError as error:
            if "fails after that" not in str(error):
                raise
            return ask(name, atoms)

    for text in DEEDS:
        deed.write_text(text)
        atoms = bulk("Cu", cubic=True)
        atoms.info.update(charge=1, list=[[1, 2]], array=np.arange(3.0))
        atoms.set_initial_charges([0.25, 0, 0, 0])
        atoms.set_initial_magnetic_moments([1.0, 0, 0, 0])
        atoms.set_tags([1, 0, 0, 0])
        for i, change in enumerate([lambda atoms: None, *WHAT_A_CALLER_DOES]):
            change(atoms)
            assert ask("energy", atoms) == seen(atoms), text
            if i % 2:  # an evaluation more, of the same atoms: forces were not asked for of the last ones
                assert ask("forces", atoms) == seen(atoms), f"{text}, asked again"
    assert calc.info()["calls"]["count"] >= 1.5 * len(DEEDS) * len(WHAT_A_CALLER_DOES)


def test_info_that_is_too_large_is_named_and_costs_no_worker(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make()
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    atoms.info.update(charge=1, density=np.zeros(500_000))
    assert atoms.get_potential_energy() == 1.0
    atoms.info["density"] = np.zeros(2_000_000)
    with pytest.raises(ValueError, match=r"atoms\.info is 20 MB, most of it its entry 'density'"):
        atoms.get_potential_energy()
    del atoms.info["density"]
    assert (atoms.get_potential_energy(), calc.info()["pid"]) == (1.0, pid)


IN_SUMS = """
charge = self.atoms.info.get("charge", 0) + self.atoms.get_tags().sum()
self.results = {"energy": float(charge), "forces": np.full((len(self.atoms), 3), float(charge)), "stress": np.ones(6)}
"""


@pytest.mark.parametrize(
    ("combination", "weights"),
    [
        ("SumCalculator([EMT(), Calculator()])", (1, 1)),
        ("MixedCalculator(EMT(), Calculator(), 0.25, 0.75)", (0.25, 0.75)),
        ("AverageCalculator([EMT(), Calculator()])", (0.5, 0.5)),
        ("LinearCombinationCalculator([SumCalculator([EMT(), Calculator()]), Calculator()], [2, -1])", (2, 1)),
    ],
)
def test_sums_of_calculators(make: Make, combination: str, weights: tuple[float, float]) -> None:
    """Also as to tags and info, whose changes the parts of a sum cannot see: ASE does not compare them."""
    names = "AverageCalculator, LinearCombinationCalculator, MixedCalculator, SumCalculator"
    imports = f"from ase.calculators.emt import EMT\nfrom ase.calculators.mixing import {names}\n"
    calc = make(IN_SUMS, f"{imports}return {combination}")
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)

    def check() -> None:
        alone = atoms.copy()
        alone.calc = EMT()
        charge = atoms.info.get("charge", 0) + atoms.get_tags().sum()
        atoms.calc = calc
        found = [atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()]
        ours = [charge, charge, 1]
        theirs = [alone.get_potential_energy(), alone.get_forces(), alone.get_stress()]
        for value, one, other in zip(found, theirs, ours, strict=True):
            assert value == pytest.approx(weights[0] * one + weights[1] * other, rel=1e-9, abs=1e-12)

    check()
    atoms.positions[1] += 0.1
    check()
    atoms.info["charge"] = 3
    check()
    atoms.set_tags([1, 0, 0, 1])
    check()
    atoms.numbers[0] = 79
    check()
    atoms.set_cell(atoms.cell * 1.02, scale_atoms=True)
    check()
    atoms.info["charge"] = -1
    check()
    del atoms[0]
    check()
    atoms.pbc = (True, True, False)
    check()


def test_a_sum_one_of_whose_parts_has_no_stress(make: Make) -> None:
    setup = """
    from ase.calculators.emt import EMT
    from ase.calculators.mixing import SumCalculator
    Calculator.implemented_properties = ["energy", "forces"]
    return SumCalculator([EMT(), Calculator()])
    """
    atoms = bulk("Cu")
    atoms.calc = calc = make(setup=textwrap.dedent(setup))
    assert calc.implemented_properties == ["energy", "free_energy", "forces"]
    assert atoms.get_forces()[0].tolist() == pytest.approx([1, 1, 1])
    with pytest.raises(PropertyNotImplementedError, match="does not compute stress"):
        atoms.get_stress()


def test_a_calculator_that_holds_another_one(make: Make) -> None:
    """As ASE's DFTD3 holds that of the energy which it corrects."""
    setup = """
    from ase.calculators.calculator import BaseCalculator
    class Holder(BaseCalculator):
        implemented_properties = ["energy"]
        def calculate(self, atoms, properties, system_changes):
            self.results["energy"] = 2 * self.inner.get_property("energy", atoms)
    holder = Holder()
    holder.inner = Calculator()
    return holder
    """
    atoms = bulk("Cu")
    atoms.calc = make(IN_SUMS, textwrap.dedent(setup))
    for charge in (1, 2, 2, 3):
        atoms.info["charge"] = charge
        assert atoms.get_potential_energy() == 2 * charge


def test_the_hook_for_a_calculator_that_is_given_atoms(make: Make) -> None:
    setup = """
    def set_atoms(self, atoms):
        assert atoms.calc is self
        self.given = [*getattr(self, "given", ()), (len(atoms), atoms.info["charge"])]
    Calculator.set_atoms = set_atoms
    return Calculator()
    """
    atoms = bulk("Cu")
    atoms.info["charge"] = 5
    atoms.calc = make("self.results['energy'] = float(self.given == [(1, 5)])", textwrap.dedent(setup))
    assert atoms.get_potential_energy() == 1
    atoms.positions += 0.1
    assert atoms.get_potential_energy() == 1
    atoms.cell[0, 0] += 0.1
    assert atoms.get_potential_energy() == 1


def test_results_of_other_shapes_and_precisions(make: Make) -> None:
    atoms = bulk("Cu") * (2, 1, 1)
    atoms.calc = make("self.results['energy'] = np.float32(0.1); self.results['stress'] = np.arange(9.0).reshape(3, 3)")
    assert atoms.get_potential_energy() == float(np.float32(0.1))
    assert atoms.get_stress().tolist() == [0, 4, 8, 6, 4, 2]
    atoms.calc = make("self.results['forces'] = np.ones((1, 3))")
    with pytest.raises(RuntimeError, match=r"returned forces of shape \(1, 3\), not \(2, 3\)"):
        atoms.get_forces()


RESULT = """
import decimal

class Gives:
    def __init__(self, array):
        self.array = array

    def __array__(self, *arguments, **keywords):
        return self.array

n = len(self.atoms)
name, value = self.atoms.info["result"].split("=", 1)
self.results[name] = eval(value)
"""
NO_REAL_NUMBERS = [  # a property, what a model returns for it, and what the error calls its dtype
    ("energy", "np.ma.masked", "float64 with a mask"),
    ("energy", "[np.ma.masked]", "float64 with a mask"),
    ("energy", "Gives(np.ma.masked_array(5.0, mask=True))", "float64 with a mask"),
    ("energy", "np.ma.masked_array(5.0)", "float64 with a mask"),
    ("energy", "1 + 5j", "complex128"),
    ("energy", "np.complex64(1)", "complex64"),
    ("energy", "'1e3'", "<U3"),
    ("energy", "b'12'", r"|S2"),
    ("energy", "True", "bool"),
    ("energy", "np.datetime64('2020-01-01')", r"datetime64[D]"),
    ("energy", "np.timedelta64(5, 's')", r"timedelta64[s]"),
    ("energy", "decimal.Decimal('1.5')", "object"),
    ("energy", "10**400", "object"),
    ("energy", "[10**400]", "object"),
    ("energy", "np.array(1.5, object)", "object"),
    ("energy", "Gives(np.array([True]))", "bool"),
    ("free_energy", "'1e3'", "<U3"),
    ("forces", "np.ma.masked_array(np.full((n, 3), 777.0), mask=True)", "float64 with a mask"),
    ("forces", "[np.ma.masked_array(np.full(3, 777.0), mask=True)] * n", "float64 with a mask"),
    ("forces", "np.full((n, 3), 1 + 5j)", "complex128"),
    ("forces", "np.full((n, 3), '3.5')", "<U3"),
    ("forces", "np.zeros((n, 3), [('a', 'f8')])", r"[('a', '<f8')]"),
    ("forces", "np.zeros((n, 3), 'V8')", r"|V8"),
    ("forces", "[[0.0, True, 1.0]] * n", "bool"),
    ("forces", "[[0.0, None, 1.0]] * n", "object"),
    ("stress", "np.full((3, 3), True)", "bool"),
    ("stress", "np.ma.masked_array(np.ones((3, 3)), mask=np.eye(3))", "float64 with a mask"),
]
REAL_NUMBERS = [
    ("energy", "3", 3.0),
    ("energy", "[1.5]", 1.5),
    ("energy", "np.array([[1.5]], 'f4')", 1.5),
    ("energy", "np.matrix([[1.5]])", 1.5),
    ("energy", "np.longdouble(1.5)", 1.5),
    ("energy", "np.float16(1.5)", 1.5),
    ("energy", "np.uint8(200)", 200.0),
    ("energy", "Gives(np.array(1.5, '>f4'))", 1.5),
    ("forces", "np.arange(6).reshape(2, 3).astype('>i2')", [[0, 1, 2], [3, 4, 5]]),
    ("forces", "[[0, 1.5, 2], (np.float32(3), Gives(np.array(4)), 5)]", [[0, 1.5, 2], [3, 4, 5]]),
    ("forces", "np.asfortranarray(np.arange(6.0).reshape(2, 3))", [[0, 1, 2], [3, 4, 5]]),
    ("forces", "np.arange(6, dtype='g').reshape(3, 2).T", [[0, 2, 4], [1, 3, 5]]),
    ("forces", "np.broadcast_to(np.float64(3), (2, 3))", [[3, 3, 3], [3, 3, 3]]),
    ("stress", "np.full((3, 3), 100, 'i1')", [100] * 6),
    ("stress", "[[1, 2, 3], [2, 4, 5], [3, 5, 6]]", [1, 4, 6, 5, 3, 2]),
]


def test_results_that_are_no_real_numbers(make: Make) -> None:
    """They are refused where they were asked for, and elsewhere left out."""
    offered = ["energy", "free_energy", "forces", "stress"]
    calc = make(RESULT, f"Calculator.implemented_properties = {offered}\nreturn Calculator()")
    for name, value, dtype in NO_REAL_NUMBERS:
        atoms = bulk("Cu") * (2, 1, 1)
        atoms.info["result"] = f"{name}={value}"
        others = [other for other in offered if other != name and (name, other) != ("energy", "free_energy")]
        assert all(calc.get_property(other, atoms) is not None for other in others), value
        assert name not in calc.results, value
        if name == "energy":
            with pytest.raises(ModelError, match="returned energy of"):
                calc.get_property("free_energy", atoms)
        with pytest.raises(ModelError, match=re.escape(f"returned {name} of dtype {dtype}, not real numbers")):
            calc.get_property(name, atoms)
        # What was asked for the last time is computed for the next atoms, too; it is not in the way.
        atoms.positions += 0.1
        assert calc.get_property(others[0], atoms) is not None, value


def test_real_numbers_of_every_kind(make: Make) -> None:
    calc = make(RESULT)
    for name, value, expected in REAL_NUMBERS:
        atoms = bulk("Cu") * (2, 1, 1)
        atoms.info["result"] = f"{name}={value}"
        assert np.array_equal(calc.get_property(name, atoms), expected), value


def test_a_model_that_does_not_deliver(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = make("del self.results['stress']")
    with pytest.raises(PropertyNotImplementedError, match="returned no stress"):
        atoms.get_stress()
    with pytest.raises(PropertyNotImplementedError, match="does not compute dipole"):
        atoms.get_dipole_moment()
    with pytest.raises(PropertyNotImplementedError, match="nonsense is not a property"):
        atoms.calc.get_property("nonsense", atoms)
    assert atoms.get_potential_energy() == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(make: Make, bad: float) -> None:
    atoms = bulk("Cu") * (2, 1, 1)
    atoms.calc = calc = make(
        f"self.results['forces'][1, 2] = float('{bad}') if self.atoms.positions[0, 0] > 5 else 0.0"
    )
    atoms.positions[1, 0] = bad
    with pytest.raises(NonFiniteError, match=r"positions of the atoms hold NaN or infinity \(first at index 1, 0\)"):
        atoms.get_potential_energy()
    atoms.positions[1, 0] = 1.0
    assert atoms.get_forces()[1, 2] == 0.0
    atoms.positions[0, 0] = 6.0
    with pytest.raises(NonFiniteError, match=r"returned NaN or infinity in forces \(first at index 1, 2\)"):
        atoms.get_forces()
    pid = calc.info()["pid"]
    atoms.positions[0, 0] = 0.0
    assert atoms.get_forces()[1, 2] == 0.0
    assert calc.info()["pid"] == pid


def test_numbers_whose_sum_overflows_are_finite(make: Make) -> None:
    atoms = bulk("Cu") * (2, 1, 1)
    atoms.calc = make("self.results['forces'][:] = 1.7e308")
    assert atoms.get_forces()[0, 0] == 1.7e308


def test_results_belong_to_the_caller(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make("self.results['forces'][:] = self.atoms.positions[0, 0]")
    atoms.positions[0, 0] = 1.0
    first, kept = atoms.get_forces(), calc.results["forces"]
    first[:] = 99
    assert atoms.get_forces()[0, 0] == 1.0
    atoms.positions[0, 0] = 2.0
    assert atoms.get_forces()[0, 0] == 2.0
    assert kept[0, 0] == 1.0


def test_copies_share_the_worker_but_not_the_results(emt: RootstockCalculator) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.calc = emt
    energy = atoms.get_potential_energy()
    images = [copy.deepcopy(atoms) for _ in range(3)]
    for i, image in enumerate(images):
        image.calc = copy.deepcopy(emt)
        image.rattle(0.1 * i, seed=i)
        image.get_forces()
    assert {image.calc.info()["pid"] for image in images} == {emt.info()["pid"]}
    assert atoms.get_potential_energy() == energy == images[0].get_potential_energy()
    assert len({image.get_potential_energy() for image in images}) == 3
    emt.close()
    assert images[1].calc.start().info()["pid"]  # the others still use it
    assert copy.copy(images[1].calc).results == images[1].calc.results


def test_pickle(emt: RootstockCalculator) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.calc = emt
    atoms.get_forces()
    again = pickle.loads(pickle.dumps(atoms))
    assert again.calc.results["energy"] == atoms.get_potential_energy()
    again.rattle(0.1, seed=1)
    atoms.rattle(0.1, seed=1)
    with again.calc:
        assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert emt.info()["calls"]["count"] == 3


def test_results_in_a_pickle_can_be_read_where_no_worker_could_run(root: Path) -> None:
    atoms = bulk("Cu")
    with RootstockCalculator("emt", root=root, device="cpu") as atoms.calc:
        energy = atoms.get_potential_energy()
    gone = str(root)[:-1] + "_"
    moved = pickle.loads(pickle.dumps(atoms).replace(str(root).encode(), gone.encode()))
    assert moved.get_potential_energy() == energy
    assert moved.calc.parameters["root"] == gone
    moved.calc.parameters["timeout"] = 7.0  # says nothing of what is computed
    assert moved.get_potential_energy() == energy
    moved.rattle(0.1)
    with pytest.raises(RootError, match=f"{gone} is not a Rootstock root"):
        moved.get_potential_energy()
    moved.calc.close()


def test_paths_in_a_pickle_are_those_of_the_folder_where_it_is_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workflow programs go to another folder between that and the first use."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    pickled = pickle.dumps(RootstockCalculator("emt", root=root, device="cpu", log="worker.log"))
    calc = pickle.loads(pickled)
    monkeypatch.chdir(there)
    with calc:
        assert Path(calc.info()["log"]) == here / "worker.log"
    assert not list(there.iterdir())


def test_a_fork_while_a_spec_is_looked_for(root: Path) -> None:
    """The child has a lock of its own, though a thread of the parent holds that of the session."""
    looking, go_on, parent = threading.Event(), threading.Event(), os.getpid()

    def find_spec() -> WorkerSpec:
        if os.getpid() == parent:
            looking.set()
            go_on.wait()
        return worker_spec(check_arguments({"model": "emt", "root": root, "device": "cpu"}))

    session = WorkerSession(find_spec)
    thread = threading.Thread(target=lambda: session.spec)
    thread.start()
    looking.wait()
    child = os.fork()
    if child == 0:
        os._exit(session.spec.device != "cpu")
    go_on.set()
    thread.join()
    wait_for(lambda: os.waitpid(child, os.WNOHANG)[0], "the child's end")


class Shifted(RootstockCalculator):
    """A correction on top, as people write one."""

    def __init__(self, shift: float, root: Path) -> None:
        super().__init__("emt", root=root, device="cpu")
        self.shift = shift
        self.changes: list[list[str]] = []

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] += self.shift
        self.changes.append(list(system_changes))


def test_a_subclass_with_a_calculate_of_its_own(root: Path, emt: RootstockCalculator) -> None:
    atoms = bulk("Cu", cubic=True)
    ours = atoms.copy()
    atoms.calc = emt
    with Shifted(100.0, root) as calc:
        ours.calc = calc
        for step in range(3):
            atoms.rattle(0.05, seed=step)
            ours.rattle(0.05, seed=step)
            assert (ours.get_forces() == atoms.get_forces()).all()
            assert (ours.get_stress() == atoms.get_stress()).all()
            assert ours.get_potential_energy() == atoms.get_potential_energy() + 100.0
        ours.set_initial_charges([1, 0, 0, 0])
        assert ours.get_potential_energy() == atoms.get_potential_energy() + 100.0
        # The first step asks for one property after the other, the later ones for what the one before did.
        assert calc.changes[-3:] == [["positions"], ["positions"], ["initial_charges"]]
        assert calc.get_property("energy") == atoms.get_potential_energy() + 100.0
        again = pickle.loads(pickle.dumps(calc))
        with again:
            assert (again.shift, again.results["energy"]) == (100.0, calc.results["energy"])
            ours.calc = again
            ours.rattle(0.05, seed=9)
            atoms.rattle(0.05, seed=9)
            assert ours.get_potential_energy() == atoms.get_potential_energy() + 100.0
    cut = Shifted(100.0, root)
    cut.shift = None  # type: ignore[assignment]  # so that it fails after the model has computed, as Ctrl-C can
    with cut:
        ours.calc = cut
        with pytest.raises(TypeError):
            ours.get_potential_energy()
        cut.shift = 100.0
        assert ours.get_potential_energy() == atoms.get_potential_energy() + 100.0
    with RootstockCalculator("emt", root=root, device="cpu") as wrapped:  # and one that somebody put a function over
        usual = wrapped.calculate
        wrapped.calculate = lambda *given: (usual(*given), wrapped.results.update(energy=-1.0))  # type: ignore[method-assign,func-returns-value,assignment,misc]
        atoms.calc = wrapped
        assert atoms.get_potential_energy() == -1.0


def _compute(atoms: Atoms, queue: Any) -> None:
    atoms.rattle(0.1, seed=1)
    queue.put((atoms.get_potential_energy(), atoms.calc.info()["pid"]))


def test_fork(emt: RootstockCalculator) -> None:
    """A forked process gets a worker of its own; the parent's goes on."""
    atoms = bulk("Cu", cubic=True)
    atoms.calc = emt
    atoms.get_forces()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    forked = atoms.copy()
    forked.calc = emt
    child = context.Process(target=_compute, args=(forked, queue))
    child.start()
    energy, pid = queue.get()
    child.join()
    assert child.exitcode == 0
    assert pid != emt.info()["pid"]
    atoms.rattle(0.1, seed=1)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)


def test_threads(emt: RootstockCalculator) -> None:
    found: dict[int, list[float]] = {}

    def work(seed: int) -> None:
        atoms = bulk("Cu", cubic=True)
        atoms.calc = copy.copy(emt)
        atoms.rattle(0.1, seed=seed)
        start = atoms.positions.copy()
        found[seed] = []
        for i in range(50):
            atoms.positions[:] = start + 0.001 * (i % 5)
            found[seed].append(round(atoms.get_potential_energy(), 9))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for energies in found.values():
        assert len(energies) == 50 and len(set(energies)) == 1


def test_trajectories_and_relaxations(emt: RootstockCalculator, tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = emt
    with BFGS(atoms, logfile=None, trajectory=str(tmp_path / "relax.traj")) as relaxation:
        assert relaxation.run(fmax=0.01)
    with Trajectory(tmp_path / "relax.traj") as trajectory:
        last = trajectory[-1]
    assert last.get_potential_energy() == atoms.get_potential_energy()
    assert (last.get_forces() == atoms.get_forces()).all()


def test_a_calculator_describes_itself(emt: RootstockCalculator) -> None:
    assert emt.name == "rootstock"
    assert json.loads(json.dumps(emt.todict()))["model"] == "emt"
    info = emt.info()
    assert (info["environment"], info["launch"], info["device"]) == ("emt", "build", "cpu")
    assert len(info["build"]) == 16 and len(info["lock_sha256"]) == 64
    assert info["versions"]["ase"] and info["versions"]["numpy"]
    assert 0 < info["setup_s"] < info["start_s"]
    assert set(emt.implemented_properties) >= {"energy", "free_energy", "forces", "stress"}


def test_no_atoms_yet(emt: RootstockCalculator) -> None:
    assert emt.atoms is None
    with pytest.raises(ValueError, match="has no atoms yet"):
        emt.get_potential_energy()
    emt.calculate(bulk("Cu"), ["energy", "forces"])
    assert emt.get_potential_energy() < 0
    assert emt.check_state(bulk("Cu")) == []
    assert emt.check_state(bulk("Ag")) == ["numbers", "cell"]
    spins = bulk("Cu")
    spins.set_initial_magnetic_moments([[0, 0, 1]])
    assert emt.check_state(spins) == ["initial_magmoms"]
    # As in process, tags and info are no change to those who ask without computing, such as writers.
    labelled = bulk("Cu")
    labelled.set_tags([3])
    labelled.info["step"] = 7
    assert emt.check_state(labelled) == []
    assert emt.get_property("energy", labelled, allow_calculation=False) == emt.results["energy"]
    assert emt.get_property("energy", bulk("Ag"), allow_calculation=False) is None
    assert emt.get_property("energy", bulk("Cu"), allow_calculation=False) == emt.results["energy"]
    emt.reset()
    assert emt.atoms is None and emt.results == {}
    assert emt.get_property("energy", allow_calculation=False) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("energy", np.ma.masked), ("energy", "1e3"), ("energy", True), ("energy", 1j), ("energy", [1.0, 2.0]),
        ("forces", np.ma.array(np.zeros((1, 3)), mask=True)), ("forces", np.zeros((1, 3), complex)),
        ("stress", np.zeros(6, bool)),
    ],
)  # fmt: skip
def test_somebody_elses_calculator_gives_no_real_numbers(name: str, value: object) -> None:
    """LAMMPS and i-PI may be given any calculator of ASE."""
    atoms = bulk("Cu")
    calc = EMT()

    class Odd(EMT):
        def calculate(self, *arguments: Any, **options: Any) -> None:
            super().calculate(*arguments, **options)
            self.results.pop("free_energy")
            self.results[name] = value

    with pytest.raises(ModelError):
        evaluate(Odd(), atoms, list(all_changes), stress=True)
    energy, forces, stress = evaluate(calc, atoms, list(all_changes), stress=True)
    assert energy == calc.results["energy"]
    assert np.array_equal(forces, calc.results["forces"])
    assert stress is not None and stress[1, 2] == calc.results["stress"][3]


def test_magnetic_moments_that_are_vectors_come_and_go(make: Make) -> None:
    atoms = bulk("Fe", cubic=True)
    atoms.calc = make("""
        moments = self.atoms.arrays.get("initial_magmoms")
        self.results["energy"] = -1.0 if moments is None else 10.0 * moments.ndim + moments.sum()
    """)
    vectors, scalars = (np.ones((2, 3)), 26.0), (np.ones(2), 12.0)
    for moments, expected in (vectors, (None, -1.0), scalars, vectors, scalars, (None, -1.0)):
        atoms.set_array("initial_magmoms", None)
        atoms.set_array("initial_magmoms", moments)
        assert atoms.get_potential_energy() == expected


def test_notes_of_a_file_are_no_new_question(make: Make) -> None:
    calc = make("self.results |= {'energy': float(len(self.atoms.info)), 'forces': np.zeros((len(self.atoms), 3))}")
    for frame in range(2):
        atoms = bulk("Cu")
        atoms.info |= {"rootstock_source": f"a.traj@{frame}", "converged": True, "of the model": 1}
        computed = singlepoint(atoms, calc)
        assert computed.get_potential_energy() == 1
        assert computed.info["rootstock_source"] == f"a.traj@{frame}"
    before = calc.info()["calls"]["count"]
    assert Relaxation().run(bulk("Au"), calc).info["converged"]
    assert calc.info()["calls"]["count"] == before + 1


def test_no_atoms(emt: RootstockCalculator) -> None:
    """Neither first nor after others are they an error, as in process."""
    for atoms in (Atoms(), bulk("Cu"), Atoms()):
        here = atoms.copy()
        here.calc, atoms.calc = EMT(), emt
        assert atoms.get_potential_energy() == here.get_potential_energy()
        assert atoms.get_forces().shape == (len(atoms), 3)
