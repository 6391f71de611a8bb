"""Relaxations in lockstep: each is as it is alone, whatever becomes of the others."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian, Hookean
from ase.filters import FrechetCellFilter
from ase.units import GPa

import rootstock
from rootstock import Relaxation, Relaxed, RootstockCalculator, relax_many
from rootstock.client.evaluated import FailureClass
from rootstock.errors import (
    ConfigurationError,
    ModelError,
    NonFiniteError,
    NotConvergedError,
    WorkerDiedError,
    WorkerStartError,
    WorkerTimeoutError,
)
from rootstock.simulations.lockstep.engine import Lockstep
from rootstock.simulations.lockstep.frechet import Cells, place
from rootstock.simulations.lockstep.live import OPTIMIZERS, can_lockstep
from rootstock.simulations.lockstep.matrices import exponential_derivatives, exponentials, inverses, logarithms
from rootstock.simulations.provenance import SOURCE
from tests.run.conftest import HEADER
from tests.support.commands import run
from tests.support.processes import wait_for

# A sum over pairs and the same images of each, so that energy, forces and stress fit together exactly, and nothing is
# kept from one call to the next. What a structure does is in its info, with the call in which it does it.
MODEL = (
    HEADER
    + """
import itertools
import signal

FOLDER = "@FOLDER@"


def steps_before(atoms):  # how many other positions of the same structure were seen before these
    path = os.path.join(FOLDER, f"steps-{atoms.info['id']}")
    seen = open(path).read().splitlines() if os.path.exists(path) else []
    if (now := atoms.positions.tobytes().hex()) not in seen:
        seen.append(now)
        with open(path, "w") as file:
            print(*seen, sep=chr(10), file=file)
    return seen.index(now)


class Pairs(Base):
    implemented_properties = ["energy", "forces", "stress"]
    sick = False

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = self.one(atoms)

    def one(self, atoms):
        if self.sick:
            raise RuntimeError("INTERNAL: the device is gone")
        what = atoms.info.get("do")
        if what and steps_before(atoms) < atoms.info["after"]:
            what = None
        if what:
            self.act(what)
        if 79 in atoms.numbers:
            raise KeyError(79)
        results = self.pairs(atoms)
        if what == "nan":
            results["forces"][0, 0] = np.nan
        return results

    def act(self, what):
        if what == "raise":
            raise ValueError("no parameters for this one")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "hang":
            time.sleep(3600)
        if what == "sticky":
            self.sick = True
            raise RuntimeError("INTERNAL: the device is gone")
        if what == "wait":
            open(os.path.join(FOLDER, "waits"), "w").close()
            while not os.path.exists(os.path.join(FOLDER, "go")):
                time.sleep(0.01)

    def pairs(self, atoms):
        shifts = np.array([*itertools.product(*((-1, 0, 1) if p else (0,) for p in atoms.pbc))]) @ atoms.cell.array
        p = atoms.positions
        d = p[None, :, None] - p[:, None, None] + shifts
        r = np.sqrt((d * d).sum(-1))
        r[r < 1e-9] = np.inf
        e = np.exp(-1.4 * (r - 2.6))
        slope = 0.6 * 1.4 * (e - e * e) / r
        stress = 0.5 * np.einsum("ijk,ijka,ijkb->ab", slope, d, d) / (atoms.cell.volume or 1.0)
        return {"energy": 0.15 * float((e * e - 2 * e).sum()), "forces": np.einsum("ijk,ijka->ia", slope, d),
                "stress": stress.ravel()[[0, 4, 8, 5, 2, 1]]}


class Hook(Pairs):
    def calculate_batch(self, images, properties):
        with open(os.path.join(FOLDER, "batches"), "a") as file:
            print(*map(len, images), file=file)
        return [self.one(atoms) for atoms in images]


class Large(Hook):  # of batches as large as they come, however long they take
    fixed_shapes = (2048,)


def setup(model, device="cpu"):
    if os.path.exists(os.path.join(FOLDER, "broken")):
        raise RuntimeError("no more")
    return {"loop": Pairs, "hook": Hook, "large": Large}[model]()
"""
)
Make = Callable[..., RootstockCalculator]


@pytest.fixture
def make(personal: Path, tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes a calculator."""
    path, made = tmp_path / "pairs.py", []
    path.write_text(MODEL.replace("@FOLDER@", str(tmp_path)))

    def calculator(kind: str, **more: Any) -> RootstockCalculator:
        made.append(RootstockCalculator(kind, environment=path, root=personal, device="cpu", **more))
        return made[-1]

    yield calculator
    for calc in made:
        calc.close()


def structures(count: int, **doing: str) -> list[Atoms]:
    """Return rattled cells of two to eight atoms; what some of them do is given as ``k3="raise"``."""
    found = []
    for k in range(count):
        atoms = [bulk("Cu", cubic=True), bulk("Cu") * (1, 1, 2), bulk("Cu", cubic=True) * (1, 1, 2)][k % 3]
        atoms.rattle(0.08, seed=k)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.01 * np.sin(np.arange(9.0).reshape(3, 3) + k)), True)
        atoms.info["id"] = k
        if what := doing.get(f"k{k}"):
            atoms.info |= {"do": what, "after": 2}
        found.append(atoms)
    return found


def check_same(relaxed: Relaxed, alone: Atoms, steps: int | None = None, tolerance: float = 0.0) -> None:
    """Check that a structure has become what it becomes alone."""
    assert relaxed.error is None and relaxed.results is not None
    atoms = relaxed.atoms
    assert alone.calc is not None
    assert relaxed.converged == alone.info["converged"] and atoms.info == alone.info
    assert atoms.calc.results.keys() == alone.calc.results.keys() == relaxed.results.keys()
    assert atoms.pbc.tolist() == alone.pbc.tolist() and repr(atoms.constraints) == repr(alone.constraints)
    pairs = [(atoms.positions, alone.positions), (atoms.cell.array, alone.cell.array)]
    pairs += [(atoms.calc.results[name], alone.calc.results[name]) for name in relaxed.results]
    for ours, theirs in pairs:
        assert np.allclose(ours, theirs, rtol=0, atol=tolerance)
    assert steps is None or relaxed.steps == steps


def alone(relaxation: Relaxation, atoms: Atoms, calculator: Any) -> tuple[Atoms, int]:
    """Return what becomes of a structure alone, and the steps that this takes."""
    steps = []
    relaxed = relaxation.run(atoms, calculator, on_step=lambda step, atoms, force: steps.append(step))
    return relaxed, steps[-1]


def failures(done: Sequence[Relaxed]) -> dict[int, tuple[type, FailureClass | None]]:
    return {each.index: (type(each.error), each.failure) for each in done if each.error is not None}


# -- the filter


def test_matrices_against_scipy() -> None:
    rng = np.random.default_rng(3)
    for size in (1e-8, 0.03, 0.4, 1.0):
        matrices = size * rng.normal(size=(30, 3, 3))
        matrices[0] = 0.0
        matrices[1] = size * np.diag([1.0, 1.0], 1)  # without a basis of eigenvectors
        directions = 50.0 * rng.normal(size=(30, 3, 3))
        exact = np.array([scipy.linalg.expm(each) for each in matrices])
        assert exponentials(matrices) == pytest.approx(exact, rel=1e-12, abs=1e-13)
        assert logarithms(exact) == pytest.approx(matrices, abs=1e-12)
        assert inverses(exact) @ exact == pytest.approx(np.broadcast_to(np.eye(3), exact.shape), abs=1e-12)
        of_scipy = [
            scipy.linalg.expm_frechet(a, b, compute_expm=False) for a, b in zip(matrices, directions, strict=True)
        ]
        assert exponential_derivatives(matrices, directions) == pytest.approx(np.array(of_scipy), rel=1e-12, abs=1e-12)
        for k in (0, 7):  # one alone has the same bits
            assert (exponentials(matrices[k : k + 1])[0] == exponentials(matrices)[k]).all()
            assert (logarithms(exact[k : k + 1])[0] == logarithms(exact)[k]).all()


def test_a_matrix_without_a_logarithm_is_nobody_elses_trouble() -> None:
    bad = np.array([np.zeros((3, 3)), np.full((3, 3), np.nan), 1e9 * np.ones((3, 3)), 0.1 * np.eye(3)])
    assert logarithms(bad)[3] == pytest.approx(np.log(0.1) * np.eye(3))
    assert exponentials(bad)[3] == pytest.approx(np.exp(0.1) * np.eye(3))
    assert not np.isfinite(logarithms(bad)[:2]).all() and not np.isfinite(exponentials(bad)[1:3]).all()


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("shape", [False, True])
def test_cells_against_ase(shape: bool, constrained: bool) -> None:
    """Coordinates, and forces on them; atoms and cells that they lead to; small and large strains, triclinic cells."""
    rng = np.random.default_rng(5)
    pressure, images, originals, filters = 3.0 * GPa, [], [], []
    for size in (0.0, 1e-6, 0.02, 0.1, 0.3, 0.5):
        for count in (1, 2, 7):
            cell = 4.0 * np.eye(3) + rng.normal(size=(3, 3)) * 0.6
            atoms = Atoms(f"Cu{count}", rng.normal(size=(count, 3)) * 3, cell=cell, pbc=True)
            if constrained:
                atoms.set_constraint([FixAtoms([0]), FixCartesian(count - 1, (True, False, True))][: 1 + (count > 1)])
            target = FrechetCellFilter(atoms, hydrostatic_strain=not shape, scalar_pressure=pressure)
            strain = size * (rng.normal(size=(3, 3)) if shape else np.eye(3))
            atoms.set_cell(cell @ scipy.linalg.expm(strain), scale_atoms=True)
            atoms.calc = EMT()
            images.append(atoms)
            originals.append(cell)
            filters.append(target)
    cells = Cells(images, originals)
    forces = cells.forces([a.get_forces() for a in images], [a.get_stress() for a in images], pressure, shape=shape)

    def same(ours: Any, theirs: Any) -> None:
        assert np.abs(ours - theirs).max() <= 1e-12 * max(1.0, np.abs(theirs).max())

    for x, f, target in zip(cells.coordinates(), forces, filters, strict=True):
        same(x, target.get_positions())
        same(f, target.get_forces())
    moved = [target.get_positions() + 0.05 * rng.normal(size=(len(target), 3)) for target in filters]
    copies = [atoms.copy() for atoms in images]
    assert not place(copies, originals, moved)
    for atoms, copy, target, x in zip(images, copies, filters, moved, strict=True):
        target.set_positions(x)
        same(copy.positions, atoms.positions)
        same(copy.cell.array, atoms.cell.array)


# -- paths


@pytest.mark.parametrize("cell", ["fixed", "lengths", "full"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_against_ase_alone(optimizer: str, cell: str) -> None:
    """With any calculator: here one whose rounding depends on what it computed before."""
    relaxation = Relaxation(optimizer, fmax=0.05, steps=4, cell=cell, pressure=2.0 if cell != "fixed" else 0.0)
    images = structures(2)
    for each, atoms in zip(relax_many(images, EMT(), relaxation), images, strict=True):
        check_same(each, *alone(relaxation, atoms, EMT()), tolerance=1e-9)


def constrained() -> list[Atoms]:
    images = structures(6)
    images[0].set_constraint(FixAtoms([0]))
    images[1].set_constraint([FixCartesian(0, (True, True, False)), FixAtoms([1])])
    images[2].set_constraint(Hookean(0, 1, 3.0, 1.0))
    images[3].info[SOURCE] = "many.xyz@3"
    images[3].info["converged"] = False
    images[4].set_tags(range(len(images[4])))
    images.append(molecule("H2O"))
    return images


def test_the_path_is_that_of_a_single_relaxation(make: Make) -> None:
    """Bit for bit, with constraints and with all that the results are to say."""
    images = constrained()
    with make("loop") as calc:
        for optimizer in OPTIMIZERS:
            for steps in (25, 1, 0):
                relaxation = Relaxation(optimizer, fmax=0.05, steps=steps)
                for each, atoms in zip(relax_many(iter(images), calc, relaxation), images, strict=True):
                    check_same(each, *alone(relaxation, atoms, calc))
    assert all(atoms == before for atoms, before in zip(images, constrained(), strict=True))


def test_cells_with_a_hook(make: Make) -> None:
    images = constrained()
    images[5].set_pbc((True, True, False))
    with make("hook") as calc:
        for cell in ("full", "lengths"):
            relaxation = Relaxation(fmax=0.02, steps=4, cell=cell, pressure=1.0)
            done = relax_many(images, calc, relaxation)
            assert failures(done) == dict.fromkeys((5, 6), (ConfigurationError, FailureClass.STRUCTURE))
            assert "periodic in all three" in str(done[6].error)
            for k in range(5):
                check_same(done[k], *alone(relaxation, images[k], calc), tolerance=1e-9)
        assert calc.info()["batches"]["atoms"] > 0


def test_optimizers_that_search_along_a_line(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    relaxation = Relaxation("BFGSLineSearch", fmax=0.02)
    assert not can_lockstep("BFGSLineSearch") and all(map(can_lockstep, OPTIMIZERS))
    images = [*structures(3), Atoms("Au"), structures(1)[0]]
    images[3].info |= {"do": "sticky", "after": 0, "id": 3}  # and the next one has a sound worker all the same
    with make("loop") as calc:
        with pytest.raises(ConfigurationError, match="BFGSLineSearch cannot go on together"):
            Lockstep(calc, relaxation)
        with caplog.at_level(logging.WARNING, "rootstock"):
            done = relax_many(images, calc, relaxation)
        assert [text for text in caplog.messages if "cannot go on together" in text] == caplog.messages[:1]
        assert failures(done) == {3: (ModelError, FailureClass.STRUCTURE)}
        for each, atoms in [*zip(done[:3], images, strict=False), (done[4], images[4])]:
            check_same(each, *alone(relaxation, atoms, calc))


def test_no_stress() -> None:
    class Forces(EMT):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

    with pytest.raises(ConfigurationError, match="does not compute stress"):
        relax_many(structures(2), Forces(), Relaxation(cell="full"))


def test_nothing_to_relax() -> None:
    assert relax_many([], EMT(), Relaxation()) == []


# -- the live set


class Feed:
    """Hands out structures, and notes how many were asked for."""

    def __init__(self, images: Sequence[Atoms], begun: Iterable[tuple[int, Atoms, int]] = ()) -> None:
        self.coming = [*begun, *((k, atoms, 0) for k, atoms in enumerate(images))]
        self.rooms: list[tuple[int, bool]] = []

    def __call__(self, room: int, wait: bool) -> Iterator[tuple[int, Atoms, int]]:
        self.rooms.append((room, wait))
        while self.coming and (wait or len(self.coming[0][1]) <= room):
            each = self.coming.pop(0)
            room, wait = room - len(each[1]), False
            yield each


def test_structures_come_as_others_converge(make: Make, tmp_path: Path) -> None:
    """None waits for the slowest; the live set grows with what the model computes together."""
    images = structures(250)
    feed, done = Feed(images), {}
    with make("large") as calc:
        lockstep = Lockstep(calc, Relaxation("FIRE", fmax=0.3, steps=20))
        for each in lockstep.run(feed):
            if not done:
                assert feed.coming  # the first are done before the last begin
            done[each.index] = each
        assert not lockstep.unfinished() and len(done) == 250 and not failures([*done.values()])
    assert len({each.steps for each in done.values()}) > 3
    assert feed.rooms[0] == (512, True) and not any(wait for _, wait in feed.rooms[1:-1])
    batches = [[*map(int, line.split())] for line in (tmp_path / "batches").read_text().splitlines()]
    largest = max(map(sum, batches))
    assert largest > 256 and max(room for room, _ in feed.rooms) > 512  # more than at first


def test_both_cohorts_are_used_and_what_is_too_large_comes_alone(make: Make) -> None:
    big = bulk("Cu", cubic=True) * (4, 4, 5)
    big.rattle(0.02, seed=1)
    big.pbc = False
    images = [big, *structures(6)]
    relaxation = Relaxation("FIRE", fmax=0.02, steps=3)
    with make("loop") as calc:
        for each, atoms in zip(relax_many(images[::-1], calc, relaxation), images[::-1], strict=True):
            check_same(each, *alone(relaxation, atoms, calc))


# -- failures


@pytest.mark.parametrize("kind", ["loop", "hook"])
def test_who_fails_fails_alone(make: Make, kind: str) -> None:
    """In the third step, with the class that a single structure has; the others' paths are as they were."""
    images = structures(8, k1="raise", k3="nan", k4="kill", k6="sticky")
    images[7] = Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]])
    relaxation = Relaxation(fmax=0.01, steps=5)
    with make(kind) as calc:
        done = relax_many(images, calc, relaxation)
        assert {k: kind for k, (kind, _) in failures(done).items()} == {
            1: ModelError, 3: NonFiniteError, 4: WorkerDiedError, 6: ModelError, 7: ModelError
        }  # fmt: skip
        assert {failure for _, failure in failures(done).values()} == {FailureClass.STRUCTURE}
        assert [done[k].steps for k in (1, 3, 4, 6, 7)] == [1, 1, 1, 1, 0]
        assert done[7].structure == images[7] and done[1].structure != images[1]
        with pytest.raises(ModelError, match="no parameters"):
            _ = done[1].atoms
        for k in (0, 2, 5):
            check_same(done[k], *alone(relaxation, images[k], calc))


def test_one_that_hangs(make: Make) -> None:
    images = structures(2, k1="hang")
    relaxation = Relaxation(fmax=0.01, steps=5)
    with make("loop", timeout=1.0) as calc:
        done = relax_many(images, calc, relaxation)
        assert failures(done) == {1: (WorkerTimeoutError, FailureClass.STRUCTURE)} and done[1].steps == 1
        calc.set(timeout=600.0)
        check_same(done[0], *alone(relaxation, images[0], calc))


class Broken(FixAtoms):
    """A constraint that raises an error once the atoms have moved."""

    where = "adjust_forces"
    calls = 0

    def adjust_forces(self, atoms: Atoms, forces: Any) -> None:
        self._count("adjust_forces")

    def adjust_positions(self, atoms: Atoms, new: Any) -> None:
        self._count("adjust_positions")

    def _count(self, where: str) -> None:
        self.calls += where == self.where
        if self.calls > 9:
            raise ValueError("these atoms are held by nobody")


@pytest.mark.parametrize("cell", ["fixed", "full"])
def test_an_optimizer_that_gives_up(cell: str) -> None:
    images = structures(4)
    for k, where in ((1, "adjust_forces"), (2, "adjust_positions")):
        images[k].set_constraint(Broken([0]))
        images[k].constraints[0].where = where
        images[k].info[SOURCE] = f"many.xyz@{k}"
    relaxation = Relaxation("FIRE", fmax=1e-6, steps=20, cell=cell)
    done = relax_many(images, EMT(), relaxation)
    gave_up = (NotConvergedError, FailureClass.STRUCTURE)
    assert failures(done) == {1: gave_up, 2: gave_up}
    assert str(done[1].error).startswith("many.xyz@1: FIRE gave up in step ") and done[1].steps > 1
    assert [done[k].steps for k in (0, 3)] == [20, 20]


def test_calculators_that_raise_something_else() -> None:
    images = [*structures(2), Atoms("Xe2", [[0, 0, 0], [0, 0, 2.5]])]
    done = relax_many(images, EMT(), Relaxation(fmax=0.1))
    assert failures(done) == {2: (ModelError, FailureClass.STRUCTURE)}


def test_no_worker_any_more(make: Make, tmp_path: Path) -> None:
    """What is done holds; the others come with the last step that was computed."""
    images = structures(6)
    images[4].info |= {"do": "kill", "after": 3}

    def breaks(relaxed: Relaxed) -> None:
        (tmp_path / "broken").touch()

    relaxation = Relaxation(fmax=1e-9, steps=60)
    images[0].info["id"] = 0
    quick = Atoms("Cu", cell=[9, 9, 9], pbc=True)  # converges at once
    with make("loop") as calc:
        done = relax_many([quick, *images], calc, relaxation, on_done=breaks)
        lost = (WorkerStartError, FailureClass.INFRASTRUCTURE)
        assert failures(done) == dict.fromkeys(range(1, 7), lost) and done[0].steps == 0
        assert all(1 <= each.steps <= 4 for each in done[1:])
        assert done[1].structure.positions.tolist() != images[0].positions.tolist()
        with pytest.raises(WorkerStartError):
            relax_many(images, calc, relaxation)


# -- ends in the middle


def finish(calc: Any, relaxation: Relaxation, begun: list[tuple[int, Atoms, int]]) -> dict[int, Relaxed]:
    return {each.index: each for each in Lockstep(calc, relaxation).run(Feed([], begun))}


def check_unfinished(
    begun: list[tuple[int, Atoms, int]], images: Sequence[Atoms], relaxation: Relaxation, calc: Any
) -> None:
    """Check that each is a step of the path that it takes alone."""
    for key, atoms, steps in begun:
        part = Relaxation(relaxation.optimizer, relaxation.fmax, steps, relaxation.cell, relaxation.pressure)
        there, taken = alone(part, images[key], calc)
        assert taken == steps and (atoms.positions == there.positions).all()
        assert np.allclose(atoms.cell.array, there.cell.array, rtol=0, atol=1e-12)
        assert atoms.info == images[key].info and atoms.calc is None


def test_stopped_and_gone_on(make: Make) -> None:
    images = structures(9)
    images[2].info[SOURCE] = "many.xyz@2"
    relaxation = Relaxation(fmax=0.01)
    with make("loop") as calc:
        lockstep, done = Lockstep(calc, relaxation), {}
        for each in lockstep.run(Feed(images)):
            done[each.index] = each
            lockstep.stop()
        begun = lockstep.unfinished()
        assert done and begun and {*done} | {key for key, _, _ in begun} == {*range(9)}
        assert not {*done} & {key for key, _, _ in begun} and all(steps > 0 for _, _, steps in begun)
        check_unfinished(begun, images, relaxation, calc)
        rest = finish(calc, relaxation, begun)
        assert all(each.converged for each in rest.values())
        assert all(rest[key].steps >= steps for key, _, steps in begun)
        assert finish(calc, Relaxation(steps=3), [(7, images[0], 3)])[7].steps == 3


def test_what_was_computed_when_somebody_asks_to_stop_is_not_lost() -> None:
    class Counting(EMT):
        calls = 0

        def calculate(self, *arguments: Any, **more: Any) -> None:
            Counting.calls += 1
            super().calculate(*arguments, **more)

    lockstep = Lockstep(Counting(), Relaxation(fmax=1e3), stopped=lambda: Counting.calls >= 3)
    done = [*lockstep.run(Feed(structures(6)))]
    assert Counting.calls == 3 and [each.converged for each in done] == [True] * 3
    assert {each.index for each in done} | {key for key, _, _ in lockstep.unfinished()} == {*range(6)}


def test_stopped_by_another_thread(make: Make, tmp_path: Path) -> None:
    """Within an exchange: the structure that is being computed is waited for, and no other one."""
    images = structures(8, k4="wait")
    with make("loop") as calc:
        lockstep = Lockstep(calc, Relaxation(fmax=1e-9))

        def stop() -> None:
            wait_for(lambda: (tmp_path / "waits").exists(), "the model waits")
            lockstep.stop()
            (tmp_path / "go").touch()

        thread = threading.Thread(target=stop)
        thread.start()
        assert not [*lockstep.run(Feed(images))]
        thread.join()
        begun = lockstep.unfinished()
        assert len(begun) == 8
        check_unfinished(begun, images, Relaxation(fmax=1e-9), calc)
        lockstep = Lockstep(calc, Relaxation())
        lockstep.stop()
        assert not [*lockstep.run(Feed(images))]


def test_interrupted(make: Make, tmp_path: Path) -> None:
    """Ctrl-C: nothing is waited for, and the calculator goes on with the same worker."""
    images = structures(8, k4="wait")
    with make("loop") as calc:
        pid, lockstep = calc.start().info()["pid"], Lockstep(calc, Relaxation(fmax=0.01))

        def press() -> None:
            wait_for(lambda: (tmp_path / "waits").exists(), "the model waits")
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=press)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            [*lockstep.run(Feed(images))]
        thread.join()
        (tmp_path / "go").touch()
        begun = lockstep.unfinished()
        assert len(begun) == 8 and {steps for _, _, steps in begun} <= {1, 2}
        check_unfinished(begun, images, Relaxation(fmax=0.01), calc)
        assert all(each.converged for each in finish(calc, Relaxation(fmax=0.01), begun).values())
        assert calc.info()["pid"] == pid


def test_closed_in_the_middle() -> None:
    images = structures(5)
    lockstep = Lockstep(EMT(), Relaxation(fmax=0.02))
    results = lockstep.run(Feed(images))
    first = next(results)
    results.close()  # type: ignore[attr-defined]
    assert {key for key, _, _ in lockstep.unfinished()} <= {*range(5)} - {first.index}
    assert len(lockstep.unfinished()) >= 3


EVERY_LINE = """
import gc, linecache, os, sys
import numpy as np
from rootstock import Relaxation, RootstockCalculator
from rootstock.simulations.lockstep.engine import Lockstep
from tests.run.test_relax_many import Feed, structures

environment, root, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
calc = RootstockCalculator("loop", environment=environment, root=root, device="cpu").start()
images = structures(2)
relaxation = Relaxation("FIRE", fmax=1e-9, steps=3, cell="full")
right = {each.index: each.results["energy"] for each in Lockstep(calc, relaxation).run(Feed(images))}
left, cut, seen = 0, 0, set()
gc.collect()
gc.disable()  # it could run at any line, and would be interrupted there

def trace(frame, event, argument):
    global left
    path = frame.f_code.co_filename
    if "/rootstock/" not in path or "/tests/" in path:
        return None
    if event == "line":
        left -= 1
        # Python looks for signals at calls and jumps back: never before the line that says that a call is over.
        if left < 0 and "self._busy, self._long_call = False" not in linecache.getline(path, frame.f_lineno):
            sys.settrace(None)
            seen.add(os.path.basename(path))
            raise KeyboardInterrupt
    return trace

more = True
while more:
    left, more, cut = cut, False, cut + step
    lockstep, done = Lockstep(calc, relaxation), {}
    try:
        sys.settrace(trace)
        for each in lockstep.run(Feed(images)):
            done[each.index] = each
    except KeyboardInterrupt:
        more = True
    finally:
        sys.settrace(None)
    for key, atoms, steps in lockstep.unfinished():
        assert key not in done, cut
        for each in Lockstep(calc, Relaxation("FIRE", 1e-9, steps, "full")).run(Feed([images[key]])):
            assert np.allclose(each.structure.positions, atoms.positions, rtol=0, atol=1e-12), cut
            assert np.allclose(each.structure.cell.array, atoms.cell.array, rtol=0, atol=1e-12), cut
    assert all(each.results["energy"] == right[key] for key, each in done.items()), cut
calc.close()
print(cut // step, *sorted(seen))
"""


def test_an_interruption_at_any_line(make: Make) -> None:
    """Whichever line of ours it comes before, what is unfinished is a step of its path, and the calculator goes on."""
    arguments = make("loop")._arguments
    command = [sys.executable, "-c", EVERY_LINE, arguments["environment"], arguments["root"], "997"]
    done = run(*map(str, command), check=True)
    cuts, *files = done.stdout.split()
    assert int(cuts) > 3 and {"engine.py", "cohorts.py"} & {*files}


def test_names() -> None:
    assert {"Relaxation", "Relaxed", "relax_many"} <= {*dir(rootstock)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": "fully"}, "cell='fully' must be 'fixed', 'lengths' or 'full'"),
        ({"cell": None}, "cell=None"),
        ({"optimizer": "lbfgs"}, "optimizer='lbfgs' is none of ASE's that relax. Did you mean 'LBFGS'"),
        ({"fmax": 0}, "fmax=0 is no such number"),
        ({"fmax": float("nan")}, "fmax=nan"),
        ({"fmax": "0.1"}, "fmax='0.1'"),
        ({"steps": -5}, "steps=-5"),
        ({"steps": 1.5}, "steps=1.5"),
        ({"pressure": 5.0}, "pressure=5.0 is for a cell that is relaxed"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Relaxation(**settings)


def test_what_is_no_calculator_and_no_settings_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'emt' is no calculator"):
        relax_many([], "emt", Relaxation())
    with pytest.raises(ConfigurationError, match="0.1 is no rootstock.Relaxation"):
        relax_many([], EMT(), 0.1)  # type: ignore[arg-type]
