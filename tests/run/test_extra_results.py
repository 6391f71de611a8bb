"""Results that ASE has no name for: declared in the environment file, they come with the others, and in files."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.db import connect
from ase.io import iread
from hypothesis import given, settings
from hypothesis import strategies as st

from rootstock import RootstockCalculator
from rootstock.client.evaluated import FailureClass
from rootstock.config.extra_properties import extra_property_fault
from rootstock.errors import ModelError, NonFiniteError, WorkerProtocolError
from rootstock.simulations.extxyz import write_extxyz
from rootstock.simulations.lockstep.relax_many import relax_many
from rootstock.simulations.relax import Relaxation, singlepoint
from rootstock.simulations.writing import write_structures
from rootstock.worker.channel.blocks import read_block
from rootstock.worker.channel.endpoint import Endpoint
from rootstock.worker.channel.frames import Frame, Kind
from rootstock.worker.channel.memory import SharedMemory
from rootstock.worker.channel.shapes import parse_shape
from rootstock.worker.channel.values import pack
from rootstock.worker.channel.wakeup import WORKER, WakeupFlag
from tests.run.extra_models import EXTRA_MODELS
from tests.support.commands import ROOTSTOCK, ordinary, run
from tests.support.folders import once_per_run

Make = Callable[..., RootstockCalculator]


@pytest.fixture
def make(personal: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Make:
    (tmp_path / "extra.py").write_text(EXTRA_MODELS)

    def build(model: str = "", **arguments: Any) -> RootstockCalculator:
        calc = RootstockCalculator(
            model, environment=tmp_path / "extra.py", root=personal, device="cpu", start_timeout=600.0, **arguments
        )
        request.addfinalizer(calc.close)
        return calc

    return build


@pytest.fixture(scope="module")
def extra_root(personal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root that has the environment."""

    def fill(folder: Path) -> None:
        (folder / "cache").symlink_to(personal / "cache")
        (folder / "rootstock.toml").write_text('layout = 1\ncluster = "local"\n')
        (folder / "environments").mkdir()
        (folder / "environments" / "extra.py").write_text(EXTRA_MODELS)

    return once_per_run(tmp_path_factory, "extra", fill)


def water(do: str = "usual", shift: float = 0.0) -> Atoms:
    atoms = molecule("H2O")
    atoms.positions += [0.1, 0.2, 0.3 + shift]
    atoms.info["do"] = do
    return atoms


def expected(atoms: Atoms) -> dict[str, Any]:
    """Return what the model computes of these atoms, in process."""
    namespace: dict[str, Any] = {"__name__": "extra"}
    exec(EXTRA_MODELS, namespace)
    found: dict[str, Any] = namespace["Calculator"]().all_of(atoms)
    return {name: np.asarray(value, float) for name, value in found.items() if name not in ("energy", "forces")}


def assert_same(found: dict[str, Any], atoms: Atoms) -> None:
    wanted = {name: value for name, value in expected(atoms).items() if name not in ("stress", "undeclared")}
    assert set(found) == set(wanted)
    for name, value in found.items():
        if name == "spread":
            assert type(value) is float
            assert value == wanted[name].item()
        else:
            assert value.dtype == np.float64
            assert value.shape == wanted[name].shape
            assert value.tobytes() == np.ascontiguousarray(wanted[name]).tobytes()


def test_values_and_shapes_are_those_of_the_model(make: Make) -> None:
    calc = make()
    for atoms in (water(), water("all"), water("bare")):
        atoms.calc = calc
        atoms.get_potential_energy()
        assert_same(calc.extra_results, atoms)
        assert "partial_charges" not in calc.results
    assert calc.extra_results == {}
    info = calc.info()
    assert info["extra_properties"]["energies"] == "models"
    assert "energies" not in info["properties"]
    assert "get_hessian" in info["callable_methods"]


def test_they_are_gone_when_the_atoms_are_others(make: Make) -> None:
    calc, atoms = make(), water()
    assert calc.extra_results == {}
    atoms.calc = calc
    atoms.get_forces()
    before = calc.extra_results["partial_charges"]
    atoms.get_potential_energy()  # known already
    assert calc.extra_results["partial_charges"] is before
    atoms.positions += 1.0
    atoms.get_forces()
    assert_same(calc.extra_results, atoms)
    assert not np.array_equal(before, calc.extra_results["partial_charges"])
    atoms.info["do"] = "wrong shape"
    with pytest.raises(ModelError):
        atoms.get_forces()
    assert calc.extra_results == {}
    atoms.info["do"] = "usual"
    atoms.get_forces()
    assert calc.extra_results
    calc.reset()
    assert calc.extra_results == {}


@pytest.mark.parametrize(
    ("do", "error", "says"),
    [
        ("wrong shape", ModelError, r"partial_charges of shape \(4,\).*partial_charges = 'per-atom': \(3,\)"),
        ("text", ModelError, "partial_charges of dtype <U1, not real numbers"),
        ("nan", NonFiniteError, r"NaN or infinity in partial_charges \(first at index 0\)"),
    ],
)
def test_what_is_wrong_is_refused_by_name(make: Make, do: str, error: type[Exception], says: str) -> None:
    calc, atoms = make(), water(do)
    atoms.calc = calc
    with pytest.raises(error, match=says):
        atoms.get_potential_energy()
    again = calc.evaluate_many([water(), atoms, water("all")])
    assert_same(again[0].extra_results, water())
    assert_same(again[2].extra_results, water("all"))
    assert type(again[1].error) is error
    assert again[1].failure is FailureClass.STRUCTURE
    atoms.info["do"] = "none"
    atoms.get_potential_energy()
    assert calc.extra_results == {}


class Failing(RootstockCalculator):
    """Fails when the model has computed, as a correction on top of it may."""

    def calculate(self, *arguments: Any, **keywords: Any) -> None:
        super().calculate(*arguments, **keywords)
        raise ArithmeticError("no correction")


def test_a_calculation_that_fails_on_top_leaves_none(make: Make) -> None:
    calc, atoms = make(), water()
    calc.__class__ = Failing
    with pytest.raises(ArithmeticError):
        calc.get_potential_energy(atoms)
    assert (calc.results, calc.extra_results) == ({}, {})


def test_threads_copies_and_pickles_have_their_own(make: Make) -> None:
    calc, images = make(), [water("all", shift) for shift in (0.0, 1.0, 2.0)]
    failures = []

    def ask(atoms: Atoms) -> None:
        for _ in range(20):
            atoms.positions += 0.01
            atoms.calc = calc
            atoms.get_forces()
            try:
                assert_same(calc.extra_results, atoms)
            except AssertionError as error:
                failures.append(error)

    threads = [threading.Thread(target=ask, args=(atoms,)) for atoms in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    atoms = images[0]
    atoms.calc = calc
    atoms.get_forces()
    twin, deep, pickled = copy.copy(calc), copy.deepcopy(calc), pickle.dumps(calc)
    assert b"extra_results" in pickled
    assert b"rootstock.client" not in pickled
    for each in (twin, deep, pickle.loads(pickled)):
        assert_same(each.extra_results, atoms)
        assert hasattr(each, "get_hessian")
        each.close()
    assert deep.extra_results["hessian"] is not calc.extra_results["hessian"]
    water_of_twin = water("usual", 5.0)
    water_of_twin.calc = twin.__enter__()
    water_of_twin.get_potential_energy()
    assert_same(calc.extra_results, atoms)
    assert_same(twin.extra_results, water_of_twin)
    twin.close()


@pytest.mark.parametrize("model", ["", "hook"])
def test_batches_carry_them(make: Make, model: str) -> None:
    calc = make(model)
    images = [water(("usual", "all", "bare")[k % 3], 0.01 * k) for k in range(200)]
    images += [bulk("Cu", cubic=True) * (1 + k % 2, 1, 1) for k in range(40)]
    found = calc.evaluate_many(images)
    for each, atoms in zip(found, images, strict=True):
        assert each.error is None
        assert type(each.results) is dict
        assert_same(each.extra_results, atoms)
    assert calc.info()["batches"]["hook"] is (model == "hook")
    assert found[0].atoms.get_potential_energy() == found[0].results["energy"]  # type: ignore[index]


@pytest.mark.parametrize("model", ["", "hook"])
def test_a_batch_keeps_what_came_before_its_worker_was_lost(make: Make, model: str) -> None:
    images = [water("all", 0.01 * k) for k in range(30)]
    images[20].info["do"] = "kill"
    found = make(model).evaluate_many(images)
    for k, (each, atoms) in enumerate(zip(found, images, strict=True)):
        if k == 20:
            assert each.error is not None
            assert each.extra_results == {}
        else:
            assert_same(each.extra_results, atoms)


@pytest.mark.parametrize("model", ["", "hook"])
def test_large_ones(make: Make, model: str) -> None:
    """One of 64 MB, which no text would carry, and 400 MB in a batch, which comes in several exchanges."""
    calc = make(model)
    chain = Atoms("H960", positions=np.arange(2880.0).reshape(-1, 3), info={"do": "huge"})
    chain.calc = calc
    chain.get_potential_energy()
    assert calc.extra_results["hessian"].shape == (2880, 2880)
    assert np.array_equal(calc.extra_results["hessian"].ravel(), np.arange(2880.0**2))
    for each in calc.iter_many([chain] * 6):
        assert each.extra_results["hessian"][-1, -1] == 2880**2 - 1
    small = water()
    small.calc = calc
    small.get_potential_energy()
    assert_same(calc.extra_results, small)


PER_ATOM = ("partial_charges", "ref_partial_charges", "vectors")


def read_back(path: Path) -> list[Atoms]:
    return [*iread(path, index=":")]


def assert_in_file(found: Atoms, atoms: Atoms) -> None:
    """Compare what ASE has read with what the model computes, to the last bit."""
    wanted = expected(atoms)
    for name in ("partial_charges", "vectors"):
        if name in wanted:
            assert found.arrays[name].tobytes() == np.ascontiguousarray(wanted[name]).tobytes()
    for name in ("bond-orders", "hessian", "spread", "tensors"):
        if name in wanted:
            assert np.asarray(found.info[name]).tobytes() == np.ascontiguousarray(wanted[name]).tobytes(), name
    if "energies" in wanted:
        assert found.info["extra_energies"].tolist() == wanted["energies"].tolist()
        assert "energies" not in found.calc.results


@pytest.mark.parametrize("form", ["extxyz", "traj", "db"])
def test_files_of_single_points(make: Make, tmp_path: Path, form: str) -> None:
    calc, images = make(), [water(), water("all", 0.1), water("bare", 0.2)]
    images[0].info["spread"] = "mine"
    images[1].set_array("partial_charges", np.arange(3.0))
    done = [singlepoint(atoms, calc) for atoms in images]
    path = tmp_path / f"out.{form}"
    write_structures(path, done)
    if form == "db":
        rows = [*connect(path).select()]
        found = [row.toatoms() for row in rows]
        for atoms, row in zip(found, rows, strict=True):
            atoms.info |= row.data.get("info", {})
            atoms.arrays |= row.data.get("arrays", {})
    else:
        found = read_back(path)
        for atoms in found if form == "traj" else ():
            atoms.arrays |= {name: atoms.info.pop(name) for name in [*atoms.info] if name in PER_ATOM}
    for atoms, image in zip(found, images, strict=True):
        assert_in_file(atoms, image)
    assert found[0].info["spread"] == "mine"
    assert found[1].arrays["ref_partial_charges"].tolist() == [0.0, 1.0, 2.0]
    assert "partial_charges" not in found[2].arrays
    again = singlepoint(found[0], calc)  # what is in the file is no part of what is asked
    assert again.arrays["ref_partial_charges"].tolist() == found[0].arrays["partial_charges"].tolist()


def test_those_of_another_model_are_not_taken_for_ours(make: Make) -> None:
    calc = make()
    first = singlepoint(water("all"), calc)
    named = set(first.info["rootstock_extra"].split())
    assert {"partial_charges", "hessian", "extra_energies"} < named <= {*first.info, *first.arrays}
    first.info["do"] = "bare"  # as a model without any
    first.info["rootstock_extra"] += " positions numbers"  # what is none stays where it is
    again = singlepoint(first, calc)
    assert not named & {*again.info, *again.arrays} and "rootstock_extra" not in again.info
    assert again.arrays["ref_partial_charges"].tolist() == first.arrays["partial_charges"].tolist()
    assert again.info["ref_extra_energies"].tolist() == first.info["extra_energies"].tolist()
    assert again.positions.tolist() == first.positions.tolist()


def test_large_ones_are_left_out_of_files_and_named(make: Make, tmp_path: Path) -> None:
    chain = Atoms("H40", positions=np.arange(120.0).reshape(-1, 3), info={"do": "huge"})
    done = singlepoint(chain, make())
    write_structures(tmp_path / "out.extxyz", [done])
    (found,) = read_back(tmp_path / "out.extxyz")
    assert found.info["rootstock_left_out"] == "hessian"
    assert "hessian" not in found.info
    assert "partial_charges" in found.arrays


@pytest.mark.parametrize("model", ["", "hook"])
@pytest.mark.parametrize("optimizer", ["FIRE", "BFGSLineSearch"])
def test_relaxations_carry_those_of_the_last_step(make: Make, model: str, optimizer: str) -> None:
    calc, images = make(model), [water("usual", 0.1 * k) for k in range(5)]
    relaxation = Relaxation(optimizer, fmax=0.5, steps=5)
    for each in relax_many(images, calc, relaxation):
        assert each.error is None
        assert_same(each.extra_results, each.structure)
        assert_in_file(each.atoms, each.structure)
    assert_in_file(one := relaxation.run(images[0], calc), one)


@pytest.mark.parametrize("kind", ["singlepoint", "relax", "md"])
def test_run_folders_hold_them(extra_root: Path, tmp_path: Path, kind: str) -> None:
    images = [water("all" if k % 2 else "usual", 0.01 * k) for k in range(6)]
    write_structures(tmp_path / "in.extxyz", images)
    options = {
        "relax": ("--fmax", "0.5", "--steps", "50"),
        "md": ("--ensemble", "nve", "--steps", "3"),
        "singlepoint": (),
    }
    at = ("--root", str(extra_root), "--device", "cpu")
    run(
        *ordinary(),
        ROOTSTOCK,
        kind,
        "extra",
        "in.extxyz",
        "--run",
        "folder",
        *at,
        *options[kind],
        check=True,
        cwd=tmp_path,
    )
    for form in ("extxyz", "db"):
        path = tmp_path / f"out.{form}"
        run(*ordinary(), ROOTSTOCK, "run", "export", tmp_path / "folder", path, check=True)
    found, rows = read_back(tmp_path / "out.extxyz"), [*connect(tmp_path / "out.db").select()]
    assert len(found) == len(rows) == 6
    for atoms, row in zip(found, rows, strict=True):
        assert_in_file(atoms, atoms)
        assert row.data["arrays"]["partial_charges"].tobytes() == atoms.arrays["partial_charges"].tobytes()
        if atoms.info["do"] == "all":
            assert np.array_equal(row.data["info"]["hessian"], atoms.info["hessian"])


def described(at: Any, *arrays: Any, names: Any = ("partial_charges",)) -> dict[str, Any]:
    return {"names": list(names), "at": at, "arrays": list(arrays)}


THREE = ["<f8", [3]]
LIES: dict[str, Callable[[int, int], Any]] = {  # given where the layout ends, and the file
    "in the inputs": lambda end, size: described(end - 8, THREE),
    "behind the file": lambda end, size: described(size - 23, THREE),
    "far behind the file": lambda end, size: described(2**60, THREE),
    "before the file": lambda end, size: described(-24, THREE),
    "no place": lambda end, size: described(None, THREE),
    "truth for a place": lambda end, size: described(True, THREE),
    "a fraction for a place": lambda end, size: described(end + 0.5, THREE),
    "without end": lambda end, size: described(end, ["<f8", [2**40]]),
    "without end in two dimensions": lambda end, size: described(end, ["<f8", [2**31, 2**31]]),
    "without end, and of nothing": lambda end, size: described(end, ["<f8", [2**32, 2**32, 0]]),
    "more than memory holds": lambda end, size: described(end, *[["<f8", [3]]] * 2000, names=["a"] * 2000),
    "another shape": lambda end, size: described(end, ["<f8", [4]]),
    "fewer than nothing": lambda end, size: described(end, ["<f8", [-3]]),
    "text for a size": lambda end, size: described(end, ["<f8", ["3"]]),
    "another type": lambda end, size: described(end, ["<f4", [3]]),
    "objects": lambda end, size: described(end, ["|O8", [3]]),
    "a record": lambda end, size: described(end, ["f8,f8", [3]]),
    "not declared": lambda end, size: described(end, THREE, names=["energy"]),
    "no name": lambda end, size: described(end, THREE, names=[]),
    "a list for a name": lambda end, size: described(end, THREE, names=[["partial_charges"]]),
    "twice": lambda end, size: described(end, THREE, THREE, names=["partial_charges"] * 2),
    "a list": lambda end, size: [1],
    "a number": lambda end, size: 3,
    "nothing": lambda end, size: {},
    "no arrays": lambda end, size: described(end, 3),
}


@contextmanager
def played(calc: RootstockCalculator, answer: Callable[[Frame, SharedMemory], tuple[Frame, Any]]) -> Iterator[None]:
    """Let a test answer one question in place of the worker."""
    process = calc._session.connection().process
    ours, theirs = socket.socketpair()
    process.endpoint._sock = ours
    end = Endpoint(theirs, WakeupFlag(process.memory.fd, WORKER))

    def play() -> None:
        end.send(*answer(end.receive(60.0)[0], process.memory))

    thread = threading.Thread(target=play)
    thread.start()
    yield
    thread.join()
    end.close()
    ours.close()


@pytest.mark.parametrize("lie", LIES)
def test_a_worker_that_announces_what_is_not_there(make: Make, lie: str) -> None:
    """Nobody believes it, or allocates what it says; the next call has another worker."""
    calc, atoms = make(), water()
    atoms.calc = calc
    atoms.get_potential_energy()
    pid = calc.info()["pid"]

    def result(frame: Frame, memory: SharedMemory) -> tuple[Frame, Any]:
        answer = Frame(Kind.RESULT, frame.properties, sequence=frame.sequence, atoms=3, capacity=frame.capacity)
        return answer, {"extras": LIES[lie](memory.end, os.fstat(memory.fd).st_size)}

    atoms.positions += 0.1
    with played(calc, result), pytest.raises(WorkerProtocolError):
        atoms.get_potential_energy()
    assert calc.extra_results == {}
    atoms.get_potential_energy()
    assert_same(calc.extra_results, atoms)
    assert calc.info()["pid"] != pid


@pytest.mark.parametrize(
    "said",
    [
        {}, {"value": {"__array__": 0}}, described(2**60, THREE), described(0, ["|O8", [1]]),
        {"value": {"__array__": 5}, "at": 10**5, "arrays": []}, {"value": {"__tuple__": 3}, "at": 10**5, "arrays": []},
        {"value": [{"__number__": "0"}], "at": 10**5, "arrays": []}, {"value": 1, "at": 10**5, "arrays": 3},
    ],
)  # fmt: skip
def test_a_worker_whose_method_returns_what_is_not_there(make: Make, said: dict[str, Any]) -> None:
    calc = make().start()
    with (
        played(calc, lambda frame, _: (Frame(Kind.RESULT, sequence=frame.sequence), said)),
        pytest.raises(WorkerProtocolError),
    ):
        calc.get_hessian(water())
    assert calc.get_hessian(water()).shape == (9, 9)


@pytest.mark.parametrize("place", [-1, 8, 2**40, 2**62])
@pytest.mark.parametrize("lost", [False, True])
def test_a_worker_that_lies_about_a_batch(make: Make, place: int, lost: bool) -> None:
    """All is computed again by another one, also if it ends before it is done."""
    calc, images = make(), [water("all", 0.1 * k) for k in range(3)]
    calc.evaluate_many(images)  # the memory is laid out
    pid, batches = calc.info()["pid"], calc._session.connection().batches
    assert batches is not None

    def result(frame: Frame, memory: SharedMemory) -> tuple[Frame, Any]:
        views = batches.memory.views(9, 3)
        views["found"][...] = frame.properties or 1
        views["extras"][...] = place
        kind = Kind.FAILURE if lost else Kind.RESULT
        failure = dict.fromkeys(("type", "message", "hint", "traceback"), "x") | {"code": "cannot-serve"}
        content = {"begin": 3, "sizes": {}, "seconds": 0, "atoms": 0, "refusals": 0, "reason": ""} | failure
        return Frame(kind, sequence=frame.sequence), content

    with played(calc, result):
        found = calc.evaluate_many(images)
    for each, atoms in zip(found, images, strict=True):
        assert_same(each.extra_results, atoms)
    assert calc.info()["pid"] != pid


@given(st.binary(max_size=300), st.integers(-1, 400))
@settings(deadline=None, max_examples=200)
def test_blocks_of_nobody(data: bytes, at: int) -> None:
    with closing(SharedMemory.create()) as memory:
        os.pwrite(memory.fd, len(data).to_bytes(8, "little") + data, 128)
        for place in (at, 128):
            with suppress(WorkerProtocolError):
                read_block(memory.fd, place, 128)


def test_members_of_enumerations_are_their_values() -> None:
    class Word(str, Enum):  # noqa: UP042  # as libraries have it
        ONE = "first"

    class Number(IntEnum):
        TWO = 2

    packed = pack([Word.ONE, Number.TWO], [], "it")
    assert [*map(type, packed)] == [str, int] and packed == ["first", 2]


@pytest.mark.parametrize(
    ("text", "fits", "not_this"),
    [
        ("scalar", (), (1,)), ("per-atom", (4,), (4, 1)), ("N,3", (4, 3), (3, 4)), ("3N, 3N", (12, 12), (4, 12)),
        ("models", (0,), ()), ("models,N,3", (5, 4, 3), (5, 3, 4)), ("2", (2,), (4,)), ("N,N,spins", (4, 4, 2), (4, 4)),
    ],
)  # fmt: skip
def test_shapes(text: str, fits: tuple[int, ...], not_this: tuple[int, ...]) -> None:
    shape = parse_shape(text)
    assert shape.fits(fits, 4)
    assert not shape.fits(not_this, 4)


@pytest.mark.parametrize(
    "text",
    ["", ",", "N,", "3 N", "n3", "-1", "0", "1.5", "Models", "per-atom,3", "scalar,1", "N*3", "03N", "N,,3", "3NN", "é",
     ",".join("N" * 9)],
)  # fmt: skip
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(ValueError, match="it is none of scalar"):
        parse_shape(text)


@pytest.mark.parametrize(
    "name", ["T", "F", "nan", "inf", "e1", "a-b", "x_0", "energies", "stress_comm", "Hirshfeld", "I"]
)
def test_names_are_read_back(tmp_path: Path, name: str) -> None:
    """Any name that check-env lets pass, of an entry and of an array."""
    assert extra_property_fault(name, "N") == ""
    atoms, path = water(), tmp_path / "a.extxyz"
    for where, value in ((atoms.arrays, np.arange(3.0)), (atoms.info, np.eye(2)), (atoms.info, 1 / 3)):
        key = f"extra_{name}" if name == "energies" else name
        where[key] = value
        write_extxyz(path, [atoms])
        (found,) = read_back(path)
        read = (found.arrays if where is atoms.arrays else found.info)[key]
        assert np.array_equal(read, value)
        del where[key]
