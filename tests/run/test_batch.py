"""Many structures in one exchange: the results of each, whatever becomes of the others."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read, write

from rootstock import RootstockCalculator
from rootstock.client.evaluated import Evaluated, FailureClass
from rootstock.errors import (
    ConfigurationError,
    ModelError,
    NonFiniteError,
    OutOfMemoryError,
    UnsupportedPropertyError,
    WorkerDiedError,
    WorkerError,
    WorkerTimeoutError,
)
from rootstock.interfaces.many import in_order
from rootstock.worker.channel.endpoint import Endpoint
from rootstock.worker.channel.frames import Frame, Kind
from rootstock.worker.channel.wakeup import WORKER, WakeupFlag
from tests.run.conftest import HEADER
from tests.support.commands import run
from tests.support.environment_files import header
from tests.support.processes import wait_for

# What each structure does is in its info. The folder holds a line for each call, and what the model waits for.
MODEL = (
    HEADER
    + """
FOLDER = "@FOLDER@"


def note(text):
    with open(os.path.join(FOLDER, "calls"), "a") as file:
        file.write(text + chr(10))


def calls_before(what):
    path = os.path.join(FOLDER, what)
    open(path, "a").write(".")
    return os.path.getsize(path) - 1


def act(atoms, together):
    what = atoms.info.get("do")
    if what == "raise":
        raise ValueError("no parameters for this one")
    if what == "exit":
        sys.exit("the model ends")
    if what in ("SIGKILL", "SIGSEGV"):
        import signal
        os.kill(os.getpid(), getattr(signal, what))
        time.sleep(60)
    if what == "hang":
        time.sleep(3600)
    if what == "disk":
        raise OSError(5, "Input/output error", "/weights")
    if what == "wait":
        note("waiting")
        while not os.path.exists(os.path.join(FOLDER, "go")):
            time.sleep(0.01)
    if what == "slow":
        note("slow")
        time.sleep(0.3)
    if what == "once" and not calls_before("once"):
        os.kill(os.getpid(), 9)
    if what == "assert" or (what == "lose" and together):
        sys.modules["torch"].cuda.lost = True
        raise RuntimeError("CUDA error: device-side assert triggered")


class Calculator(Base):
    implemented_properties = ["energy", "forces", "stress", "magmoms"]
    limit = sick_after = leaks_after = 10**9
    die = False
    calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.die:
            os.kill(os.getpid(), 9)
        self.calls += 1
        if atoms.info.get("do") in ("SIGKILL", "SIGSEGV"):
            act(atoms, False)
        if self.calls > self.sick_after:
            raise RuntimeError("INTERNAL: the device is gone")
        if os.path.exists(os.path.join(FOLDER, "sick")):
            raise RuntimeError("INTERNAL: the device is gone")
        if atoms.info.get("do") == "too large":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if "sticky" in atoms.info.get("do", ""):
            self.sick_after = 0
            if "slowly" in atoms.info["do"]:
                time.sleep(2.3)  # longer than an exchange
            raise ValueError("no parameters for this one")
        if self.calls > self.leaks_after and len(atoms) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if atoms.info.get("do") == "wrap" and not calls_before("wrap"):
            atoms.positions[:] = 0.0
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if len(atoms) > self.limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if "stress" in properties and atoms.info.get("do") == "no stress":
            raise ValueError("this stress takes too much")
        act(atoms, False)
        self.results = self.one(atoms, properties)

    def one(self, atoms, properties):
        p = atoms.positions
        energy = float((p * p).sum() + atoms.info.get("shift", 0.0) + atoms.get_tags().sum()
                       + 0.1 * atoms.get_initial_charges().sum() + 0.01 * atoms.get_initial_magnetic_moments().sum())
        what = atoms.info.get("do")
        results = {"energy": float("nan") if what == "nan" else energy, "forces": -2 * p}
        if what == "inf":
            results["forces"][:2, 0] = np.inf, -np.inf
        results["stress"] = atoms.cell.array.ravel()[:6] * 1.0
        results["magmoms"] = np.full(len(atoms), np.nan if what == "odd extra" else 1.0)
        if what == "half":
            results.pop("forces")
        return results


class Hook(Calculator):
    broken = ""

    def calculate_batch(self, images, properties):
        note("batch " + " ".join(str(len(a)) for a in images) + " " + ",".join(sorted(properties)))
        if self.broken == "raises":
            raise RuntimeError("the hook is broken")
        if self.broken == "declines":
            raise NotImplementedError("a committee")
        if sum(map(len, images)) > self.limit:
            for atoms in images:
                atoms.positions[:] = 0.0  # they are its own
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        found = []
        for atoms in images:
            act(atoms, True)
            found.append(self.one(atoms, properties))
        return found[:-1] if self.broken == "short" else found


class Costly(Hook):
    def batch_cost(self, images):
        if self.broken == "cost":
            return [1]
        return [float(len(a)) ** 2 for a in images]


class Shaped(Hook):
    fixed_shapes = (40, 100, 300)


class Free(Hook):
    def batch_cost(self, images):
        return [0.0] * len(images)


def setup(model, device="cpu", limit=10**9, broken="", die=False, sick_after=10**9, leaks_after=10**9):
    calls_before("starts")
    if model == "lose":
        import types
        cuda = types.SimpleNamespace(lost=False, is_initialized=lambda: True, is_available=lambda: True)

        def synchronize(device=None):
            if cuda.lost:
                raise RuntimeError("CUDA error: device-side assert triggered")

        cuda.synchronize, cuda.empty_cache = synchronize, lambda: None
        sys.modules["torch"] = types.SimpleNamespace(cuda=cuda, get_num_threads=lambda: 1)
        model = "hook"
    calc = {"loop": Calculator, "hook": Hook, "costly": Costly, "shaped": Shaped, "free": Free}[model]()
    calc.limit, calc.broken, calc.die = limit, broken, die
    calc.sick_after, calc.leaks_after = sick_after, leaks_after
    return calc
"""
)
PROPERTIES = ("energy", "forces", "stress")
Make = Callable[..., RootstockCalculator]


@pytest.fixture
def make(personal: Path, tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes a calculator of a kind: what else it is given is for its ``setup()``."""
    path, made = tmp_path / "many.py", []
    path.write_text(MODEL.replace("@FOLDER@", str(tmp_path)))

    def calculator(kind: str, *, device: str = "cpu", timeout: float = 600.0, **options: Any) -> RootstockCalculator:
        calc = RootstockCalculator(
            kind, environment=path, root=personal, device=device, timeout=timeout, setup_kwargs=options
        )
        made.append(calc)
        return calc

    yield calculator
    for calc in made:
        calc.close()


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], list[str]]:
    """Return what the model has noted so far."""
    path = tmp_path / "calls"
    return lambda: path.read_text().splitlines() if path.exists() else []


def structures(count: int = 30, **doing: Any) -> list[Atoms]:
    """Return structures that differ in all that a model is told; what some of them do is given as ``k3="raise"``."""
    found = []
    for k in range(count):
        kind = k % 5
        atoms = [bulk("Cu", cubic=True), bulk("NaCl", "rocksalt", a=5.6), molecule("H2O"), bulk("Si") * (2, 1, 1),
                 Atoms("Ar", cell=[9, 9, 9], pbc=(True, False, False))][kind]  # fmt: skip
        atoms.rattle(0.1, seed=k)
        atoms.info["shift"] = 100.0 * k
        if kind == 1:
            atoms.set_tags(range(len(atoms)))
        if kind == 2:
            atoms.set_initial_charges(np.arange(3.0))
        if kind == 3:
            atoms.set_initial_magnetic_moments([0.5 + k] * len(atoms) if k % 2 else [[0.0, 1.0, k]] * len(atoms))
        if what := doing.get(f"k{k}"):
            atoms.info["do"] = what
        found.append(atoms)
    return found


def periodic(count: int = 30, **doing: Any) -> list[Atoms]:
    """Return small cells, all of which have a stress."""
    found = []
    for k in range(count):
        atoms = bulk("Cu", cubic=True) * (1, 1, 1 + k % 3)
        atoms.rattle(0.1, seed=k)
        atoms.info["shift"] = 10.0 * k
        if what := doing.get(f"k{k}"):
            atoms.info["do"] = what
        found.append(atoms)
    return found


def alone(calc: RootstockCalculator, atoms: Atoms) -> dict[str, Any]:
    """Return what single calls say."""
    copy = atoms.copy()
    copy.calc = calc
    results = {"energy": copy.get_potential_energy(), "forces": copy.get_forces()}
    if copy.cell.rank == 3 and copy.pbc.any():
        results["stress"] = copy.get_stress()
    return results


def check_same(done: list[Evaluated], images: list[Atoms], calc: RootstockCalculator) -> None:
    assert [each.index for each in done] == list(range(len(images)))
    for each, atoms in zip(done, images, strict=True):
        assert each.error is None and each.structure == atoms and each.results is not None
        for name, value in alone(calc, atoms).items():
            assert np.array_equal(each.results[name], value), (each.index, name)
            assert np.shape(each.results[name]) == np.shape(value)


def failed(done: list[Evaluated]) -> dict[int, tuple[type, FailureClass | None]]:
    return {each.index: (type(each.error), each.failure) for each in done if each.error is not None}


@pytest.mark.parametrize("kind", ["loop", "hook", "costly", "shaped"])
def test_results_are_those_of_single_calls(make: Make, kind: str) -> None:
    """Of structures that differ in size, cell, boundaries, tags, charges, moments and info, bit for bit, in order."""
    images, begun = structures(), time.monotonic()
    with make(kind) as calc:
        done = calc.evaluate_many(images, None)
        check_same(done, images, calc)
        assert ["stress" in each.results for each in done] == [k % 5 != 2 for k in range(30)]  # type: ignore[operator]
        assert all("energies" not in each.results for each in done)  # type: ignore[operator]
        check_same(calc.evaluate_many(images[::-1], None), images[::-1], calc)  # after single ones, with other sizes
        check_same(list(calc.iter_many(iter(images), None)), images, calc)
        info = calc.info()["batches"]
        assert (info.pop("atoms") > 0) == (kind != "loop")
        assert 0 < info.pop("seconds") < time.monotonic() - begun
        assert info == {"hook": kind != "loop", "structures": 90, "refusals": 0, "reason": ""}


def test_a_single_call_after_a_larger_batch_and_before(make: Make) -> None:
    big, small = bulk("Cu", cubic=True) * (6, 6, 6), bulk("Cu")
    with make("hook") as calc:
        before = alone(calc, small)
        done = calc.evaluate_many([big] * 3 + [small])
        assert done[3].results["energy"] == before["energy"]  # type: ignore[index]
        assert alone(calc, big)["energy"] == done[0].results["energy"]  # type: ignore[index]
        assert alone(calc, small)["energy"] == before["energy"]


def test_the_first_example_of_the_guide(make: Make, tmp_path: Path) -> None:
    images = structures(10)
    with make("hook") as calc:
        results = calc.evaluate_many(images)
        write(tmp_path / "out.extxyz", [result.atoms for result in results])
    for atoms, image, each in zip(read(tmp_path / "out.extxyz", ":"), images, results, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(each.results["energy"], abs=1e-7)  # type: ignore[index]
        assert atoms.info["shift"] == image.info["shift"] and image.calc is None


def test_nothing_to_compute(make: Make) -> None:
    with make("hook") as calc:
        assert calc.evaluate_many([]) == [] == list(calc.iter_many(iter(())))


def test_structures_are_computed_together(make: Make, calls: Callable[[], list[str]]) -> None:
    with make("hook") as calc:
        calc.evaluate_many(periodic(200), ("energy",))
    parts = [line.split()[1:-1] for line in calls()]
    assert {line.split()[-1] for line in calls()} == {"energy"}
    assert sum(map(len, parts)) == 200  # each once
    atoms = [sum(map(int, part)) for part in parts]
    assert max(atoms) > 64  # it grew
    assert all(min(map(int, part)) * 3 >= max(map(int, part)) for part in parts)


def test_parts_follow_costs_and_fixed_shapes(make: Make, calls: Callable[[], list[str]]) -> None:
    images = periodic(100)
    with make("shaped") as calc:
        calc.evaluate_many(images, ("energy",))
    atoms = [sum(map(int, line.split()[1:-1])) for line in calls()]
    assert max(atoms) <= 300 and atoms[0] <= 40
    with make("costly", broken="cost") as calc:  # nonsense costs nobody a result
        assert not failed(calc.evaluate_many(images, ("energy",)))
        log = Path(calc.info()["log"]).read_text()
    assert "batch_cost is not used any more: it returned [1.0]" in log


def test_a_first_structure_that_costs_next_to_nothing(make: Make, calls: Callable[[], list[str]]) -> None:
    """The size of a part does not stay that of a lone atom: here an atom of a larger structure costs more."""
    images = [Atoms("Ar"), *(bulk("Cu", cubic=True) * (2, 2, 1) for _ in range(40))]
    with make("costly") as calc:
        calc.evaluate_many(images, ("energy",))
    parts = [len(line.split()[1:-1]) for line in calls()]
    assert sum(parts) >= 39
    assert max(parts) >= 4


def test_one_that_raises(make: Make) -> None:
    for kind in ("loop", "hook"):
        images = periodic(20, k3="raise", k11="exit")
        with make(kind) as calc:
            done = calc.evaluate_many(images)
            assert failed(done) == dict.fromkeys((3, 11), (ModelError, FailureClass.STRUCTURE))
            assert "ValueError: no parameters for this one" in str(done[3].error)
            assert "in act" in str(done[3].error)  # the traceback
            with pytest.raises(ModelError, match="no parameters"):
                done[3].atoms  # noqa: B018
            good = [k for k in range(20) if k not in (3, 11)]
            assert all(done[k].results["energy"] == alone(calc, images[k])["energy"] for k in good)  # type: ignore[index]
            assert calc.info()["batches"]["refusals"] == 0  # the hook did no wrong


def test_nan_in_and_out(make: Make) -> None:
    images = periodic(12, k5="nan", k6="odd extra")
    images[2].positions[1, 2] = np.nan
    images[8].arrays["tags"] = np.array(["a"] * len(images[8]))
    with make("hook") as calc:
        done = calc.evaluate_many(images)
    structure = FailureClass.STRUCTURE
    assert failed(done) == {
        2: (NonFiniteError, structure), 5: (NonFiniteError, structure), 8: (ConfigurationError, structure)
    }  # fmt: skip
    assert "positions of the atoms hold NaN or infinity (first at index 1, 2)" in str(done[2].error)
    assert "returned NaN or infinity in energy" in str(done[5].error)
    assert "magmoms" not in done[6].results  # type: ignore[operator]  # what nobody asked for, and is nonsense
    assert "magmoms" in done[7].results  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["loop", "hook"])
def test_what_is_not_computed(make: Make, kind: str) -> None:
    images = [bulk("Cu"), molecule("H2O"), bulk("Si"), bulk("Cu")]
    images[2].info["do"] = "half"
    images[3].info["do"] = "no stress"
    with make(kind) as calc:
        done = calc.evaluate_many(images[:3], PROPERTIES)
        assert failed(done) == dict.fromkeys((1, 2), (UnsupportedPropertyError, FailureClass.STRUCTURE))
        assert "Stress needs a cell" in str(done[1].error) and "returned no forces" in str(done[2].error)
        assert not failed(calc.evaluate_many(images[3:]))  # a stress that nobody asked for
        with pytest.raises(PropertyNotImplementedError, match="does not compute dipole; it computes energy, free_en"):
            calc.evaluate_many(images, ("energy", "dipole"))
        with pytest.raises(ConfigurationError, match="Structure 1 is a str"):
            calc.evaluate_many([bulk("Cu"), "Cu"])  # type: ignore[list-item]


@pytest.mark.parametrize("kind", ["loop", "hook"])
def test_one_that_crashes(make: Make, kind: str) -> None:
    """It is named; all others are computed, and what was finished is not computed again."""
    images = periodic(40, k7="SIGSEGV", k30="SIGSEGV")
    with make(kind) as calc:
        done = calc.evaluate_many(images)
        assert failed(done) == dict.fromkeys((7, 30), (WorkerDiedError, FailureClass.STRUCTURE))
        assert "killed by SIGSEGV" in str(done[7].error)
        check = [k for k in range(40) if k not in (7, 30)]
        assert all(done[k].results["energy"] == alone(calc, images[k])["energy"] for k in check)  # type: ignore[index]


def test_only_ones_that_crash(make: Make) -> None:
    """No structure of theirs is known to work, and the file has no reference: what is known is told."""
    with make("loop") as calc:
        done = calc.evaluate_many(periodic(1, k0="SIGSEGV"))
        assert failed(done) == {0: (WorkerDiedError, FailureClass.STRUCTURE)}


def test_a_worker_that_somebody_ends(make: Make) -> None:
    """It is not the structure's fault, and not final."""
    with make("loop") as calc:
        done = calc.evaluate_many(periodic(6, k2="SIGKILL", k4="SIGKILL"))
        assert failed(done) == dict.fromkeys((2, 4), (WorkerDiedError, FailureClass.INFRASTRUCTURE))


def test_a_worker_that_ends_once(make: Make) -> None:
    with make("hook") as calc:
        assert not failed(calc.evaluate_many(periodic(30, k5="once")))


def test_one_that_hangs(make: Make) -> None:
    with make("hook", timeout=0.5) as calc:
        done = calc.evaluate_many(periodic(6, k2="hang"))
        assert failed(done) == {2: (WorkerTimeoutError, FailureClass.STRUCTURE)}


def test_a_file_system_that_fails(make: Make) -> None:
    for kind in ("loop", "hook"):
        with make(kind) as calc:
            done = calc.evaluate_many(periodic(6, k2="disk"))
            assert failed(done) == {2: (ModelError, FailureClass.INFRASTRUCTURE)}
            assert done[2].error.code == "input-output"  # type: ignore[union-attr]


def test_too_little_memory(make: Make, calls: Callable[[], list[str]]) -> None:
    """Parts get smaller; only what does not fit alone fails."""
    images = periodic(60)
    images[31] = bulk("Cu", cubic=True) * (3, 3, 3)
    with make("hook", limit=50) as calc:
        done = calc.evaluate_many(images)
        assert failed(done) == {31: (OutOfMemoryError, FailureClass.RESOURCE)}
        assert "out of memory" in str(done[31].error)
        first = len(calls())
        assert not failed(calc.evaluate_many(images[:30]))
    late = [sum(map(int, line.split()[1:-1])) for line in calls()[first:]]
    assert max(late) <= 50 < 64  # the size that was found is kept
    with make("hook", limit=50) as calc:
        first = len(calls())
        assert not failed(calc.evaluate_many(images[:30]))
    assert max(sum(map(int, line.split()[1:-1])) for line in calls()[first:]) <= 50  # also for the next worker


@pytest.mark.parametrize("kind", ["shaped", "free", "costly"])
def test_too_little_memory_for_what_nothing_makes_smaller(make: Make, kind: str) -> None:
    """Neither fixed shapes nor structures that cost nothing make it try the same for ever."""
    images = periodic(24)
    with make(kind, limit=12) as calc:
        check_same(calc.evaluate_many(images), images, calc)


def test_one_that_changes_its_atoms_and_fails(make: Make) -> None:
    """It is tried again with the positions that were given."""
    images = periodic(6, k2="wrap")
    with make("loop") as calc:
        check_same(calc.evaluate_many(images), images, calc)


@pytest.mark.parametrize("trouble", ["sick_after", "leaks_after"])
def test_a_worker_that_fails_with_all_that_come(make: Make, trouble: str) -> None:
    """No structure is to blame: a fresh worker computes them, as often as it takes."""
    images = periodic(40)
    with make("loop", **{trouble: 25}) as calc:
        done = calc.evaluate_many(images)
        assert not failed(done)
        assert [each.results["energy"] for each in done] == [  # type: ignore[index]
            float((atoms.positions**2).sum() + atoms.info["shift"]) for atoms in images
        ]


def test_a_worker_that_fails_from_the_first_of_a_later_pass_on(make: Make) -> None:
    """What has worked in a pass before tells that the worker is to blame."""
    images = periodic(6)
    with make("loop", sick_after=4) as calc:
        assert not failed(calc.evaluate_many(images[:4]))
        assert not failed(calc.evaluate_many(images[4:]))


def started(folder: Path) -> int:
    """Return how many workers were started."""
    return (folder / "starts").stat().st_size


def test_a_worker_that_one_has_made_sick_and_another_ends(make: Make) -> None:
    """Whose fault it was that some failed before it ended, nobody can find out any more: another worker is asked."""
    images = periodic(24, k2="sticky", k12="SIGSEGV")
    with make("loop") as calc:
        failures = failed(calc.evaluate_many(images))
        assert failures == {2: (ModelError, FailureClass.STRUCTURE), 12: (WorkerDiedError, FailureClass.STRUCTURE)}


@pytest.mark.parametrize("do", [{0: "sticky"}, {0: "raise", 2: "sticky"}, {0: "raise", 1: "raise", 2: "raise"}])
def test_nothing_has_worked_yet(make: Make, do: dict[int, str]) -> None:
    """Then fresh workers tell whether those that failed are to blame, or their worker."""
    with make("loop") as calc:
        assert sorted(failed(calc.evaluate_many(periodic(3, **{f"k{k}": what for k, what in do.items()})))) == [*do]
        assert not failed(calc.evaluate_many(periodic(3)))


def test_nothing_works(make: Make, tmp_path: Path) -> None:
    """A few workers are asked, not one for each structure."""
    images = periodic(40, **{f"k{k}": "raise" for k in range(40)})
    with make("loop") as calc:
        for _ in range(3):
            assert len(failed(calc.evaluate_many(images))) == 40
    assert started(tmp_path) <= 8


@pytest.mark.parametrize("do", [["sticky", *[""] * 60, *["raise"] * 3], [*["raise"] * 64, "sticky", *[""] * 100]])
def test_one_that_makes_its_worker_sick_before_anything_has_worked(make: Make, do: list[str]) -> None:
    """Whatever else fails, before it or last."""
    with make("loop") as calc:
        found = failed(calc.evaluate_many(periodic(len(do), **{f"k{k}": what for k, what in enumerate(do)})))
        assert [*found] == [k for k, what in enumerate(do) if what]


def test_passes_in_which_nothing_worked_say_nothing_of_the_next(make: Make) -> None:
    with make("loop") as calc:
        assert len(failed(calc.evaluate_many(periodic(3, k0="raise", k1="raise", k2="raise")))) == 3
        assert [*failed(calc.evaluate_many(periodic(20, k0="sticky")))] == [0]


def test_some_that_make_their_workers_sick_cost_few_starts(make: Make, tmp_path: Path) -> None:
    """Not one for each structure that comes after them."""
    with make("loop") as calc:
        images = periodic(120, k5="sticky", k30="raise", k40="sticky", k41="sticky", k90="sticky")
        assert [*failed(calc.evaluate_many(images))] == [5, 30, 40, 41, 90]
    assert started(tmp_path) < 20


def test_nothing_is_left_of_one_that_makes_its_worker_sick(make: Make) -> None:
    [atoms] = periodic(1)
    for count in (1, 4):
        with make("loop") as calc:
            assert [*failed(calc.evaluate_many(periodic(count, **{f"k{count - 1}": "sticky"})))] == [count - 1]
            atoms.calc = calc
            atoms.get_potential_energy()


def test_a_node_on_which_every_worker_fails_with_everything(make: Make, tmp_path: Path) -> None:
    """And stays alive: as long as something is known to work, no structure is to blame."""
    with make("loop") as calc:
        assert not failed(calc.evaluate_many(periodic(5)))
        (tmp_path / "sick").touch()
        with pytest.raises(WorkerError, match="also with a structure that is known to work"):
            calc.evaluate_many(periodic(40))
        (tmp_path / "sick").unlink()
        assert not failed(calc.evaluate_many(periodic(5)))
    assert started(tmp_path) < 12


def test_a_worker_that_is_replaced_for_want_of_memory(make: Make) -> None:
    """That the next one is sound says nothing of the failures of this one, if its time was up after them."""
    with make("loop") as calc:
        done = calc.evaluate_many(periodic(9, k1="too large", k2="slowly sticky"))
    assert {k: failure for k, (_, failure) in failed(done).items()} == {
        1: FailureClass.RESOURCE, 2: FailureClass.STRUCTURE
    }  # fmt: skip


def test_many_that_do_not_fit(make: Make, tmp_path: Path) -> None:
    images = [bulk("Cu", cubic=True) for _ in range(64)]
    with make("loop", limit=3) as calc:
        assert {failure for _, failure in failed(calc.evaluate_many(images)).values()} == {FailureClass.RESOURCE}
    assert started(tmp_path) < 5


def test_a_small_one_that_does_not_fit_says_nothing_of_larger_ones_that_did(make: Make) -> None:
    small = bulk("Cu") * (3, 1, 1)
    small.info["do"] = "too large"
    with make("loop", leaks_after=20) as calc:
        assert [*failed(calc.evaluate_many([*periodic(4), small]))] == [4]
        assert not failed(calc.evaluate_many([bulk("Cu") if k % 4 == 0 else bulk("Cu", cubic=True) for k in range(40)]))


def test_crashes_at_the_beginning_of_many(make: Make) -> None:
    images = periodic(120, **{f"k{k}": "SIGSEGV" for k in range(0, 21, 3)})[::3]  # all of one size
    with make("loop") as calc:
        assert [*failed(calc.evaluate_many(images))] == [*range(7)]


def test_many_failures_in_a_row(make: Make) -> None:
    """More than go into one frame; a sound worker is asked now and then whether it still is."""
    images = periodic(700, **{f"k{k}": "raise" for k in range(10, 690)})
    for kind in ("loop", "hook"):
        with make(kind) as calc:
            done = calc.evaluate_many(images)
            assert sorted(failed(done)) == list(range(10, 690))
            assert set(failed(done).values()) == {(ModelError, FailureClass.STRUCTURE)}


def test_crashes_before_anything_has_worked(make: Make) -> None:
    """Others are tried, so the node is not blamed."""
    images = periodic(10, **{f"k{k}": "SIGSEGV" for k in range(4)})
    for kind in ("loop", "hook"):
        with make(kind) as calc:
            assert sorted(failed(calc.evaluate_many(images))) == [0, 1, 2, 3]


def test_a_reference_of_the_file_speaks_for_the_node(make: Make, tmp_path: Path) -> None:
    """Where nothing has worked, and all that there is ends its worker."""
    reference = (
        '[[tool.rootstock.references]]\nname = "two atoms"\nsource = "this test"\nmodel = "loop"\nsymbols = "Cu2"\n'
        "positions = [[0, 0, 0], [0, 0, 2.5]]\nexpected = { energy = 6.25 }\ntolerance = { energy = 1e-9 }"
    )
    path = tmp_path / "many.py"
    path.write_text(path.read_text().replace(header(), header(reference), 1))
    for asked in (("energy", "forces"), PROPERTIES):  # though two atoms without a cell have no stress
        with make("loop") as calc:
            done = calc.evaluate_many(periodic(4, **{f"k{k}": "SIGSEGV" for k in range(4)}), asked)
        assert failed(done) == dict.fromkeys(range(4), (WorkerDiedError, FailureClass.STRUCTURE))


def test_a_gpu_that_one_structure_loses(make: Make) -> None:
    """Alone, on a fresh worker: it is the structure's fault, and final."""
    with make("lose", device="cuda") as calc:
        done = calc.evaluate_many(periodic(12, k5="assert"))
        assert failed(done) == {5: (ModelError, FailureClass.STRUCTURE)}


def test_one_object_that_a_generator_changes(make: Make) -> None:
    def moving() -> Iterator[Atoms]:
        atoms = bulk("Cu", cubic=True)
        for k in range(8):
            atoms.positions[0, 0] = k
            yield atoms

    with make("hook") as calc:
        done = list(calc.iter_many(moving()))
        check_same(done, [atoms.copy() for atoms in moving()], calc)
        assert [each.atoms.positions[0, 0] for each in done] == list(range(8))


def test_a_generator_that_raises(make: Make) -> None:
    def coming() -> Iterator[Atoms]:
        yield from periodic(3)
        raise KeyError("no more")

    with make("hook") as calc:
        results = calc.iter_many(coming())
        assert [next(results).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError, match="no more"):
            next(results)


def test_errors_of_the_caller_are_the_callers(make: Make) -> None:
    with make("hook") as calc:
        with pytest.raises(ModelError):
            calc.evaluate_many(periodic(5, k2="raise"), on_done=lambda each: each.atoms)
        for wrong in ("energy", (), []):
            with pytest.raises(ConfigurationError):
                calc.evaluate_many(periodic(2), wrong)
        assert not failed(calc.evaluate_many(periodic(2), iter(["energy"])))  # type: ignore[arg-type]


def test_infinity_of_both_signs(make: Make) -> None:
    with make("hook") as calc, np.errstate(all="raise"):
        assert failed(calc.evaluate_many(periodic(4, k1="inf"))) == {1: (NonFiniteError, FailureClass.STRUCTURE)}


def test_a_lost_gpu(make: Make) -> None:
    """Whoever was being computed is computed by another worker, each alone; the others lose nothing."""
    with make("lose", device="cuda") as calc:
        assert not failed(calc.evaluate_many(periodic(30, k5="lose")))


def test_a_node_on_which_every_worker_ends(make: Make) -> None:
    """No structure is to blame: what was computed before holds, the rest is not final, and the node is named."""
    with make("loop", die=True) as calc, pytest.raises(WorkerError, match=r"3 workers in a row were lost on node"):
        calc.evaluate_many(periodic(10))
    images = periodic(9, **{f"k{k}": "SIGKILL" for k in range(4, 9)})
    with make("loop") as calc:  # the structure that is known to work acquits the node
        done = calc.evaluate_many(images)
        assert {failure for _, failure in failed(done).values()} == {FailureClass.INFRASTRUCTURE}
        assert sorted(failed(done)) == list(range(4, 9))


@pytest.mark.parametrize("broken", ["raises", "short"])
def test_a_hook_that_fails_where_each_structure_does_not(
    make: Make, calls: Callable[[], list[str]], broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    images = periodic(60)
    with make("hook", broken=broken) as calc:
        check_same(calc.evaluate_many(images), images, calc)
        info = calc.info()["batches"]
    assert info["refusals"] == len(calls()) == 3  # then it is left alone
    assert ("the hook is broken" if broken == "raises" else "results for") in info["reason"]
    assert "calculate_batch failed" in caplog.text


def test_a_hook_that_declines(make: Make, calls: Callable[[], list[str]], caplog: pytest.LogCaptureFixture) -> None:
    with make("hook", broken="declines") as calc:
        assert not failed(calc.evaluate_many(periodic(60)))
        info = calc.info()["batches"]
        assert (info["refusals"], info["reason"]) == (0, "it declines: a committee")
    assert len(calls()) == 1 and not caplog.text


def test_iter_many_reads_little_ahead(make: Make) -> None:
    """Of a stream without end, and other atoms may be computed in between."""
    taken = 0

    def stream() -> Iterator[Atoms]:
        nonlocal taken
        while True:
            taken += 1
            yield bulk("Cu")

    other = bulk("Cu", cubic=True)
    with make("hook") as calc:
        other.calc = calc
        energy = other.get_potential_energy()
        for each in calc.iter_many(stream()):
            other.rattle(0.0)
            calc.reset()
            assert other.get_potential_energy() == energy
            if each.index == 200:
                break
        assert taken < 50_000
        assert not failed(calc.evaluate_many(periodic(5)))  # what was left is nobody's


def test_a_single_call_of_another_thread_waits_for_a_part(
    make: Make, calls: Callable[[], list[str]], tmp_path: Path
) -> None:
    """And not for the list: that goes on when the call has been answered."""
    images = periodic(60, **{f"k{k}": "wait" for k in range(40, 60)})
    asked = bulk("Cu")
    with make("loop") as calc:
        asked.calc = calc.start()
        (tmp_path / "go").write_text("")
        seen: list[int] = []
        answered = threading.Event()

        def other() -> None:
            asked.get_potential_energy()
            seen.append(len(done))
            answered.set()

        done: list[Evaluated] = []
        begun = threading.Thread(target=other)
        for each in calc.iter_many(many_of(images, 40), ordered=False):
            done.append(each)
            if len(done) == 1:
                begun.start()
            if answered.is_set():
                break
        begun.join()
    assert 0 < seen[0] < 40 * len(images) - 64


def many_of(images: list[Atoms], times: int) -> Iterator[Atoms]:
    for _ in range(times):
        yield from images


def test_interrupted_between_two_parts(make: Make, calls: Callable[[], list[str]], tmp_path: Path) -> None:
    """Ctrl-C: the next call is right, with the same worker."""
    images = periodic(8, k4="wait")
    with make("loop") as calc:
        pid = calc.start().info()["pid"]

        def press() -> None:
            wait_for(lambda: "waiting" in calls(), "the model waits")
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=press)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            calc.evaluate_many(images)
        thread.join()
        (tmp_path / "go").write_text("")
        check_same(calc.evaluate_many(images), images, calc)
        assert calc.info()["pid"] == pid


def test_a_correction_on_top_is_not_left_out(make: Make) -> None:
    calc = make("hook")

    class Corrected(RootstockCalculator):
        def calculate(self, *arguments: Any, **more: Any) -> None:
            super().calculate(*arguments, **more)
            self.results["energy"] += 1

    corrected = Corrected(**calc._arguments)
    with pytest.raises(ConfigurationError, match="Corrected has a calculate"):
        corrected.evaluate_many([bulk("Cu")])


def test_a_closed_calculator(make: Make) -> None:
    calc = make("hook").start()
    calc.close()
    with pytest.raises(WorkerError, match="is closed"):
        calc.evaluate_many([bulk("Cu")])


def test_an_exchange_ends_soon(make: Make, calls: Callable[[], list[str]]) -> None:
    """However long the list is, others have their turn, and results are handed out."""
    with make("loop") as calc:
        first = next(calc.iter_many(periodic(20, **{f"k{k}": "slow" for k in range(20)})))
        assert first.error is None and 1 < len(calls()) < 20


def test_somebody_asks_to_stop(make: Make, calls: Callable[[], list[str]]) -> None:
    """Soon, in the middle of an exchange; what was computed by then comes, and no more is drawn."""
    drawn: list[int] = []

    def stream() -> Iterator[Atoms]:
        for k, atoms in enumerate(periodic(200, **{f"k{k}": "slow" for k in range(200)})):
            drawn.append(k)
            yield atoms

    with make("loop") as calc:
        done = [*calc.iter_many(stream(), stopped=lambda: len(calls()) >= 2)]
        assert [each.index for each in done] == [*range(len(calls()))] and not failed(done)
        assert 2 <= len(calls()) <= 4 and len(drawn) < 100
        assert not failed(calc.evaluate_many(periodic(3)))


def test_what_is_too_much_for_one_exchange(make: Make) -> None:
    """By atoms, and by how much there is to tell of them."""
    large = bulk("Cu", cubic=True) * (30, 30, 30)  # 108,000 atoms
    talkative = bulk("Cu")
    talkative.info["text"] = "x" * 3 * 2**20
    images = [large, talkative, large, bulk("Cu"), talkative, large, talkative]
    with make("loop") as calc:
        check_same(calc.evaluate_many(images), images, calc)
        talkative.info["text"] *= 3
        done = calc.evaluate_many([talkative, bulk("Cu")])
        assert failed(done) == {0: (ConfigurationError, FailureClass.STRUCTURE)}


NOTHING = {"sizes": {}, "seconds": 0, "atoms": 0, "refusals": 0, "reason": ""}
LIES = {
    "a part that goes back": [(Kind.PROGRESS, {"begin": 2, "end": 3}), (Kind.PROGRESS, {"begin": 1, "end": 3})],
    "a part beyond the end": [(Kind.PROGRESS, {"begin": 0, "end": 4})],
    "a part of nothing that counts": [(Kind.PROGRESS, {"begin": 0.0, "end": True})],
    "failures that are none": [(Kind.PROGRESS, {"begin": 0, "end": 1, "failures": [1]})],
    "a failure of nobody": [(Kind.PROGRESS, {"begin": 0, "end": 1, "failures": {"7": {}}})],
    "a failure without words": [(Kind.PROGRESS, {"begin": 0, "end": 1, "failures": {"0": {"type": 1}}})],
    "done, and nothing found": [(Kind.RESULT, {"begin": 3, **NOTHING})],
    "nothing done": [(Kind.RESULT, {"begin": 0, **NOTHING})],
    "a time that is none": [
        (Kind.PROGRESS, {"begin": 0, "end": 1}),
        (Kind.RESULT, {"begin": 1, **NOTHING, "seconds": -1}),
    ],
    "a number without end": [(Kind.PROGRESS, {"begin": 0, "end": 1, "failures": {"9" * 5000: {}}})],
    "an answer to something else": [(Kind.READY, {"properties": []})],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_worker_that_says_what_it_must_not(make: Make, lie: str) -> None:
    """Nobody believes it, and nothing is allocated by it: another worker is asked."""
    calc = make("loop").start()
    pid = calc.info()["pid"]
    process = calc._session.connection().process
    ours, theirs = socket.socketpair()
    process.endpoint._sock = ours  # the worker's end is now this test's
    end = Endpoint(theirs, WakeupFlag(process.memory.fd, WORKER))

    def answer() -> None:
        sequence = end.receive(60.0)[0].sequence
        for kind, content in LIES[lie]:
            end.send(Frame(kind, sequence=sequence), content)

    thread = threading.Thread(target=answer)
    thread.start()
    images = periodic(3)
    done = calc.evaluate_many(images)
    thread.join()
    end.close()
    ours.close()
    check_same(done, images, calc)
    assert calc.info()["pid"] != pid


EVERY_LINE = """
import gc, linecache, os, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # nobody waits awake, for as many lines as there is time for
from ase.build import bulk
from rootstock import RootstockCalculator
from rootstock.config.packaged import PACKAGE
calc = RootstockCalculator(sys.argv[1], environment=sys.argv[2], root=sys.argv[3], device="cpu")
images = [bulk("Cu", a=3.6 + k / 10, cubic=True) for k in range(3)]
right = [each.results["energy"] for each in calc.evaluate_many(images)]
gc.collect()
gc.disable()  # it could run at any line, and would be interrupted there
package, cut, left, step = str(PACKAGE), 0, 0, int(sys.argv[4])
seen = set()

def trace(frame, event, _):
    global left
    path = frame.f_code.co_filename
    if not path.startswith(package):
        return None
    # Python looks for signals where functions are called and loops go round, so not before this line.
    if event == "line" and "_busy, self._long_call = False, 0" not in linecache.getline(path, frame.f_lineno):
        left -= 1
        if left < 0:
            sys.settrace(None)
            seen.add(os.path.basename(path))
            raise KeyboardInterrupt
    return trace

more = True
while more:
    left, more, cut = cut, False, cut + step
    try:
        sys.settrace(trace)
        calc.evaluate_many(images)
    except KeyboardInterrupt:
        more = True
    finally:
        sys.settrace(None)
    assert [each.results["energy"] for each in calc.evaluate_many(images)] == right, cut
    images[0].calc = calc
    assert images[0].get_potential_energy() == right[0], cut
print(cut // step, *sorted(seen))
"""


def test_an_interruption_at_any_line(make: Make) -> None:
    """Whichever line of ours it comes before, the next calls are right: of many structures, and of one."""
    arguments = make("hook")._arguments
    command = [sys.executable, "-c", EVERY_LINE, "hook", arguments["environment"], arguments["root"], "37"]
    done = run(*map(str, command), check=True)
    cuts, *files = done.stdout.split()  # which files, is a matter of chance
    assert int(cuts) > 10 and len(files) > 3


def test_what_is_done_comes_before_an_error() -> None:
    """Also what was done before its turn."""

    def done() -> Iterator[Evaluated]:
        yield from (Evaluated(index, {}, None, Atoms()) for index in (0, 3, 2))
        raise WorkerError("no more")

    seen, results = [], in_order(done())
    with suppress(WorkerError):
        while True:
            seen.append(next(results).index)
    assert seen == [0, 2, 3]
