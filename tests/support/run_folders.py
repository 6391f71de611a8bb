"""Run folders of tests, with structures and a calculator that cost nothing."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.extxyz import read_xyz

from rootstock.client.evaluated import Evaluated, FailureClass
from rootstock.errors import ConfigurationError, ModelError, RootstockError, WorkerStartError
from rootstock.simulations.provenance import SOURCE
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.parts import Disk
from rootstock.simulations.runs.records import RunRecord


@dataclass
class Structures:
    """A source of structures of argon: `sizes` atoms each, of which `unreadable` cannot be read."""

    sizes: Sequence[int]
    unreadable: frozenset[int] = frozenset()
    change: Callable[[Atoms], object] = lambda atoms: None

    def __getitem__(self, index: int) -> Atoms:
        if index in self.unreadable:
            raise ConfigurationError(f"{self.name(index)} is broken.")
        size = self.sizes[index]
        atoms = Atoms(f"Ar{size}", np.arange(3.0 * size).reshape(-1, 3) * 1.3 + index / 7)
        atoms.info.update({"id": index, SOURCE: self.name(index), "ref_energy": 0.1})
        self.change(atoms)
        return atoms

    def name(self, index: int) -> str:
        return f"big.extxyz@{index}"


def energy_of(index: int) -> float:
    """Return what `Trivial` computes."""
    return index / 3


@dataclass
class Trivial:
    """A calculator that notes which structures it computes, by their id; `errors` says what goes wrong with which.

    It takes some at a time, and hands them over from the last to the first.
    """

    errors: Mapping[int, tuple[RootstockError, FailureClass]] = field(default_factory=dict)
    computed: list[int] = field(default_factory=list)
    note: Callable[[int], object] = lambda index: None
    together: int = 1
    name = "trivial"
    parameters = {}  # noqa: RUF012

    def iter_many(
        self,
        images: Iterable[Atoms],
        properties: Any = None,
        *,
        ordered: bool = True,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Evaluated]:
        coming = enumerate(images)
        while not stopped() and (taken := [*itertools.islice(coming, self.together)]):
            for number, atoms in reversed(taken):
                yield self._compute(number, atoms)

    def _compute(self, number: int, atoms: Atoms) -> Evaluated:
        index = atoms.info["id"]
        self.computed.append(index)
        self.note(index)
        error, failure = self.errors.get(index, (None, None))
        if isinstance(error, WorkerStartError):
            raise error
        results = {"energy": energy_of(index), "forces": atoms.positions / 3}
        return Evaluated(number, None if error else results, error, atoms, failure)


def failing(*indices: int) -> dict[int, tuple[RootstockError, FailureClass]]:
    """Return errors of the model for `Trivial`."""
    return {index: (ModelError(f"no numbers for {index}"), FailureClass.STRUCTURE) for index in indices}


def fill_input(path: Path, sizes: Sequence[int]) -> None:
    """Write what `Source` reads of each structure, as far as a run folder looks at it."""
    np.savez(path / "input.npz", atoms=np.array(sizes, np.int64))


def record_of(sizes: Sequence[int], **more: Any) -> RunRecord:
    given: dict[str, Any] = {"kind": "singlepoint", "settings": {}, "model": "lj", "structures": len(sizes)}
    return RunRecord(**(given | more))


def new_run(path: Path, sizes: Sequence[int], **more: Any) -> RunFolder:
    """Make a run folder."""
    path.mkdir(exist_ok=True)
    fill_input(path, sizes)
    return RunFolder.create(path, record_of(sizes, **more))


@contextlib.contextmanager
def in_memory(folder: Path) -> Iterator[Path]:
    """Yield a folder that is synced at no cost, where the system has one; else the one given."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rs-test-", dir=memory) as made:
        yield Path(made)


def forked(function: Callable[[], object]) -> int:
    """Call a function in a process that has all modules already; return how that ended, as `os.waitpid` does."""
    if not (child := os.fork()):
        try:
            function()
            os._exit(0)
        except BaseException:  # noqa: BLE001  # this process must not go on with the tests
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def exported(run: RunFolder) -> dict[int, Atoms]:
    """Return the results of a run, each of which must be of the structure that it is said to be of."""
    found = {}
    for index, frame in run.frames():
        [atoms] = read_xyz(io.StringIO(frame.decode()), slice(None))
        assert atoms.info["id"] == index and index not in found
        assert atoms.get_potential_energy() == energy_of(index)
        assert (atoms.get_forces(apply_constraint=False) == atoms.positions / 3).all()
        found[index] = atoms
    return found


class QuickDisk(Disk):
    """A disk that syncs nothing: for tests in which no machine loses power."""

    def fsync(self, descriptor: int) -> None:
        pass


class Ticking:
    """A clock that goes on by some seconds whenever somebody looks at it."""

    def __init__(self, step: float) -> None:
        self._step, self._now = step, 0.0

    def __call__(self) -> float:
        self._now += self._step
        return self._now


@dataclass
class FaultyDisk(Disk):
    """A disk of which one kind of call fails.

    Parameters
    ----------
    call : str
        The name of the method; ``short`` for a write that writes a part before.
    number : int
        The errno.
    first : int
        Which call of this kind fails first, counted from 1.
    lasting : bool
        Whether all later ones fail, too.
    """

    call: str
    number: int
    first: int
    lasting: bool = False
    seen: int = 0

    def _check(self, call: str) -> None:
        if call == self.call:
            self.seen += 1
            if self.seen == self.first or (self.lasting and self.seen > self.first):
                raise OSError(self.number, os.strerror(self.number))

    def create(self, path: Path) -> int:
        self._check("create")
        return super().create(path)

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        self._check("write")
        try:
            self._check("short")
        except OSError:
            super().write(descriptor, content[: len(content) // 2])
            raise
        return super().write(descriptor, content)

    def fsync(self, descriptor: int) -> None:
        self._check("fsync")

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self._check("close")
