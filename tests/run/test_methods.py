"""Methods of a model's calculator that its environment file lists, called through ours."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.testing import assert_array_equal

from rootstock import RootstockCalculator
from rootstock.client.peer import Phase
from rootstock.errors import (
    ConfigurationError,
    ModelError,
    NonFiniteError,
    WorkerDiedError,
    WorkerError,
    WorkerTimeoutError,
)
from tests.run.extra_models import CODE, EXTRA_MODELS
from tests.support.environment_files import header
from tests.support.processes import wait_for

Make = Callable[..., RootstockCalculator]


@pytest.fixture
def make(personal: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Make:
    (tmp_path / "extra.py").write_text(EXTRA_MODELS)
    (tmp_path / "plain.py").write_text(header() + CODE)

    def build(environment: str = "extra.py", **arguments: Any) -> RootstockCalculator:
        calc = RootstockCalculator(
            "", environment=tmp_path / environment, root=personal, device="cpu", start_timeout=600.0, **arguments
        )
        request.addfinalizer(calc.close)
        return calc

    return build


@pytest.fixture
def calc(make: Make) -> RootstockCalculator:
    return make()


def water(shift: float = 0.0) -> Atoms:
    atoms = molecule("H2O")
    atoms.positions += [0.1, 0.2, 0.3 + shift]
    return atoms


def local() -> Any:
    """Return the calculator itself, in this process."""
    namespace: dict[str, Any] = {"__name__": "extra"}
    exec(EXTRA_MODELS, namespace)
    return namespace["Calculator"]()


def test_only_what_is_listed_is_there(make: Make) -> None:
    calc, plain = make(), make("plain.py")
    assert hasattr(calc, "get_hessian")
    assert not hasattr(plain, "get_hessian")
    for name in ("seen", "calculate_batch", "__enter_later__", "_views", "get_hessians", "set_atoms"):
        assert not hasattr(calc, name)
    with pytest.raises(AttributeError, match="'RootstockCalculator' object has no attribute 'get_hessians'"):
        calc.get_hessians()
    assert calc._session._connection is None  # whoever looks starts no worker
    with pytest.raises(ModelError, match=r"Calculator has no method lacking\(\), which its environment file lists"):
        calc.lacking()


def test_arrays_come_back_as_they_are(calc: RootstockCalculator) -> None:
    atoms, model = water(), local()
    atoms.calc = calc
    energy = atoms.get_potential_energy()
    found = calc.get_descriptors(atoms, invariants_only=True)
    assert_array_equal(found, model.get_descriptors(atoms, True), strict=True)
    assert_array_equal(
        calc.get_descriptors(atoms=atoms, num_layers=2), model.get_descriptors(atoms, True, 2), strict=True
    )
    assert_array_equal(calc.get_descriptors(atoms, False), model.get_descriptors(atoms, False), strict=True)
    assert_array_equal(calc.get_hessian(atoms), model.get_hessian(atoms), strict=True)
    many = water() * (1, 1, 1)
    assert_array_equal(calc.get_hessian(many), model.get_hessian(many), strict=True)
    assert atoms.get_potential_energy() == energy
    assert calc.extra_results  # a method changes nothing of what is known
    atoms.positions += 0.5
    assert atoms.get_potential_energy() == float((atoms.positions**2).sum())


def test_a_structure_is_what_it_is_in_process(calc: RootstockCalculator) -> None:
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], cell=[5, 6, 7], pbc=[1, 0, 1], info={"charge": -1, "a": np.arange(3)})
    atoms.set_initial_charges([0.5, -0.5])
    (number, seen), named = calc.give(1, atoms, key={"a": [1.5, None, "x"]})
    assert (number, named) == (1, {"key": {"a": [1.5, None, "x"]}})
    assert_array_equal(seen["positions"], atoms.positions)
    assert_array_equal(seen["charges"], [0.5, -0.5])
    assert_array_equal(seen["forces"], -2 * atoms.positions)
    assert seen["pbc"].tolist() == [True, False, True]
    assert seen["info"]["charge"] == -1
    assert seen["info"]["a"].tolist() == [0, 1, 2]
    ([], named) = calc.give(structure=Atoms())
    assert named["structure"]["positions"].shape == (0, 3)
    assert calc.give((1, (2, 3))) == ([[1, [2, 3]]], {})
    slope = calc.finite(water())  # which moves the atoms that it is given, and computes with its calculator
    assert slope > 0
    assert_array_equal(calc.get_hessian(water()), local().get_hessian(water()))


def test_what_is_returned_keeps_its_type(calc: RootstockCalculator) -> None:
    numbers = calc.odd("numbers")
    assert numbers == (np.float32(1 / 3), -5, True, None, 1.5, 2**80, "text")
    assert [type(each) for each in numbers[:2]] == [np.float32, np.int64]
    for found, wanted in zip(calc.odd("arrays"), local().odd("arrays"), strict=True):
        assert_array_equal(found, wanted, strict=True)
    assert calc.odd("empty") == ((), [], {})
    nan, infinite = calc.odd("nan")
    assert np.isnan(nan)
    assert np.isinf(infinite)
    assert_array_equal(calc.odd("big"), np.arange(2.0**22))
    for what, says in {
        "object": "What odd.. returned is of type object", "strings": "array of <U1", "bytes": "of type bytes",
        "keys": "A key of What odd.. returned is 1", "atoms": "of type Atoms", "long": "too long",
    }.items():  # fmt: skip
        with pytest.raises(ModelError, match=says):
            calc.odd(what)


def test_arguments_that_do_not_travel_are_named(calc: RootstockCalculator) -> None:
    with pytest.raises(TypeError, match=r"give\(\): argument 2 is array.*of type ndarray.*VALUE.tolist"):
        calc.give(water(), np.arange(3))
    with pytest.raises(TypeError, match=r"give\(\): mask\['a'\]\[1\] is <object"):
        calc.give(mask={"a": [1, object()]})
    with pytest.raises(TypeError, match="give..: key is {1: 2}, of type dict: arguments travel as JSON"):
        calc.give(key={1: 2})
    with pytest.raises(TypeError, match="2 structures"):
        calc.give(water(), other=water())
    held: list[Any] = []
    held.append(held)
    with pytest.raises(TypeError, match="holds itself"):
        calc.give(held)
    with pytest.raises(ConfigurationError, match="arguments of give.. are"):
        calc.give("x" * 5_000_000)
    bad = water()
    bad.positions[0] = np.nan
    with pytest.raises(NonFiniteError):
        calc.get_hessian(bad)
    assert calc._session._connection is None


def test_a_method_that_fails_leaves_the_worker(calc: RootstockCalculator) -> None:
    atoms = water()
    atoms.calc = calc
    atoms.get_forces()
    pid = calc.info()["pid"]
    with pytest.raises(ModelError, match="ValueError: it failed"):
        calc.fail()
    with pytest.raises(ModelError, match="SystemExit: it failed"):
        calc.fail("exit")
    with pytest.raises(PropertyNotImplementedError, match="it failed"):
        calc.fail("property")
    with pytest.raises(ModelError, match="TypeError: .*unexpected keyword"):
        calc.fail(water=1)
    assert calc.last_energy() is None  # those atoms may be of another copy: it is given none that nobody named
    atoms.positions += 0.1
    assert_array_equal(atoms.get_forces(), -2 * atoms.positions)
    assert calc.info()["pid"] == pid


def test_a_worker_that_ends_in_a_method_is_replaced(make: Make) -> None:
    calc, atoms = make(timeout=3.0), water()
    atoms.calc = calc
    atoms.get_forces()
    with pytest.raises(WorkerDiedError, match="killed by signal 9|SIGKILL"):
        calc.die(9)
    assert_array_equal(calc.get_hessian(atoms), local().get_hessian(atoms))
    with pytest.raises(WorkerTimeoutError, match="gave no answer within 3 s"):
        calc.die(0)
    atoms.positions += 0.1
    assert_array_equal(atoms.get_forces(), -2 * atoms.positions)


@pytest.fixture
def interrupting() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupting")
def test_ctrl_c_in_a_method(calc: RootstockCalculator, tmp_path: Path) -> None:
    atoms = water()
    atoms.calc = calc
    atoms.get_forces()
    pid = calc.info()["pid"]

    def interrupt() -> None:
        wait_for((tmp_path / "waiting").exists, "the method")
        # A worker is replaced whose question was cut; this one's was sent whole.
        wait_for(lambda: calc._session._connection.phase is Phase.WAITING, "the question to be sent")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        (tmp_path / "go").touch()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        calc.wait(str(tmp_path))
    thread.join()
    atoms.positions += 0.1
    assert_array_equal(atoms.get_forces(), -2 * atoms.positions)  # and not what the method returned
    assert calc.wait(str(tmp_path)) == 5
    assert calc.info()["pid"] == pid


def test_a_signal_handler_does_not_ask_meanwhile(calc: RootstockCalculator, tmp_path: Path) -> None:
    failures = []

    def handler(*_: object) -> None:
        try:
            calc.get_hessian(water())
        except WorkerError as error:
            failures.append(error)
        (tmp_path / "go").touch()

    def alarm() -> None:
        wait_for((tmp_path / "waiting").exists, "the method")
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        calc.start()
        thread = threading.Thread(target=alarm)
        thread.start()
        assert calc.wait(str(tmp_path)) == 5
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [error for error in failures if "signal handler" in str(error)]


def test_threads_copies_and_pickles_share_the_worker(calc: RootstockCalculator) -> None:
    model, failures = local(), []

    def ask(number: int) -> None:
        for k in range(20):
            atoms = water(number + 0.01 * k)
            atoms.calc = calc
            same = np.array_equal(calc.get_descriptors(atoms), model.get_descriptors(atoms))
            if not same or atoms.get_potential_energy() != float((atoms.positions**2).sum()):
                failures.append((number, k))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for twin in (copy.copy(calc), copy.deepcopy(calc), pickle.loads(pickle.dumps(calc))):
        assert_array_equal(twin.get_hessian(water()), model.get_hessian(water()))
        twin.close()
    found = calc.evaluate_many([water(0.1 * k) for k in range(5)])
    assert_array_equal(calc.get_hessian(water()), model.get_hessian(water()))
    assert all(each.error is None for each in found)
    assert all(each.error is None for each in calc.evaluate_many([water(0.1 * k) for k in range(5)]))
    calc.close()
    with pytest.raises(WorkerError, match="closed"):
        calc.get_hessian(water())


def test_a_pickle_whose_root_is_gone(personal: Path, tmp_path: Path) -> None:
    file = tmp_path / "extra.py"
    file.write_text(EXTRA_MODELS)
    pickled = pickle.dumps(RootstockCalculator("", environment=file, root=personal, device="cpu"))
    file.unlink()
    lost = pickle.loads(pickled)
    atoms = water()
    atoms.calc = lost  # ASE asks it for set_atoms
    assert not hasattr(lost, "get_hessian")
    with pytest.raises(AttributeError, match="extra.py"):
        lost.get_hessian(atoms)
