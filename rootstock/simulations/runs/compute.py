"""Computes structures of a run as they are handed out, and records what becomes of each."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

from ase import Atoms

from rootstock.client.evaluated import FailureClass
from rootstock.errors import ConfigurationError, RootstockError
from rootstock.root.disk_usage import number_of
from rootstock.simulations.extra_results import add_extra_results
from rootstock.simulations.provenance import note_calculator
from rootstock.simulations.runs.aside import put_back, set_aside
from rootstock.simulations.runs.feed import Feed
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.molecular_dynamics import simulate_each
from rootstock.simulations.runs.recorder import Recorder, describe
from rootstock.simulations.runs.relaxations import relax_each

_USUAL = ("energy", "forces", "stress")  # a model may compute more, for which nobody asked
_LEAST, _MOST = 2**8, 2**17  # atoms that are drawn at once of single points
_SOON_S, _LATE_S = 2.0, 10.0


class Structures(Protocol):
    """What is computed: `Source`, or anything like it."""

    def __getitem__(self, index: int, /) -> Atoms:
        """Return a structure.

        Raises
        ------
        ConfigurationError
            If this one cannot be read.
        """

    def name(self, index: int, /) -> str:
        """Return its file and frame."""


@dataclass
class Computation:
    """What computes structures of a run.

    Attributes
    ----------
    folder : RunFolder
    source : Structures
    calculator : RootstockCalculator
        For a relaxation or a simulation, any calculator of ASE's kind.
    recorder : Recorder
    gpu : str
        What failures for lack of memory are about.
    stop_on_error : bool
        Whether the first structure that fails ends it.
    """

    folder: RunFolder
    source: Structures
    calculator: Any
    recorder: Recorder
    gpu: str = ""
    stop_on_error: bool = False
    _lost: list[RootstockError] = field(default_factory=list)

    def run(self, feed: Feed) -> None:
        """Compute what is handed out, until there is no more.

        Parameters
        ----------
        feed : Feed

        Raises
        ------
        ConfigurationError
            With `stop_on_error`, of a structure.
        OutputError
            If results cannot be recorded. What was recorded stays.
        WorkerError
            If no worker can compute, whatever the structure; with `stop_on_error`, of a structure.
        """
        {"relax": relax_each, "md": simulate_each, "singlepoint": _single_points}[self.folder.record.kind](self, feed)
        if self._lost:
            self.recorder.sync()
            left = f"{number_of(len(self._lost), 'structure')} could not be computed, by no fault of their own."
            error = self._lost[0]
            error.hint = f"{error.hint}\n{left} To compute them, continue the run.".strip()
            raise error

    def fail(self, index: int, kind: FailureClass, error: RootstockError, atoms: Atoms | None = None) -> None:
        """Record a failure; stop where that is asked for, or where it is not the structure's.

        Parameters
        ----------
        index : int
        kind : FailureClass
        error : RootstockError
            Is raised then.
        atoms : ase.Atoms, optional
            The structure, if it could be read.
        """
        name = self.source.name(index)
        structure = name if atoms is None else describe(atoms, name)
        self.recorder.fail(index, kind, error, structure, self.gpu)
        if self.stop_on_error or kind is FailureClass.INFRASTRUCTURE:
            self.recorder.sync()
            if name not in error.message:
                error.message = f"{name}: {error.message}"
            raise error

    def give_up(
        self, index: int, kind: FailureClass, error: RootstockError, atoms: Atoms, feed: Feed
    ) -> None:  # fmt: skip
        """Record a failure of one structure of many: the others go on, also if it is none of the structure's.

        Parameters
        ----------
        index, kind, error, atoms
            As for `fail`.
        feed : Feed
            Takes the structure back if it is not the reason.
        """
        if kind is not FailureClass.INFRASTRUCTURE:
            self.fail(index, kind, error, atoms)
            return
        self.recorder.fail(index, kind, error, describe(atoms, self.source.name(index)), self.gpu)
        feed.give_back(index)
        self._lost.append(error)

    def read(self, index: int) -> Atoms | None:
        """Return a structure; None if it cannot be read, which is recorded.

        Parameters
        ----------
        index : int
        """
        try:
            return self.source[index]
        except ConfigurationError as error:
            self.fail(index, FailureClass.STRUCTURE, error)
            return None

    def add(self, index: int, atoms: Atoms, converged: bool | None = None, steps: int = 0) -> None:
        """Record results.

        Parameters
        ----------
        index : int
        atoms : ase.Atoms
        converged, steps
            Of a relaxation; of a simulation, the steps.
        """
        refused = self.recorder.add(index, atoms, converged=converged, steps=steps)
        if refused is not None and self.stop_on_error:
            self.recorder.sync()
            raise refused


def _single_points(run: Computation, feed: Feed) -> None:
    """Compute properties of structures, which are read as the calculator takes them."""
    taken: dict[int, tuple[int, Atoms, dict[str, Any], dict[str, Any]]] = {}

    def structures(indices: Sequence[int]) -> Iterator[Atoms]:
        count = itertools.count()  # as the calculator does
        for index in indices:
            if (atoms := run.read(index)) is not None:
                taken[next(count)] = (index, atoms, *set_aside(atoms))
                yield atoms

    asked = run.folder.record.settings.get("properties") or None
    for indices in _drawn(feed):
        images = structures(indices)
        for result in run.calculator.iter_many(images, asked, ordered=False, stopped=lambda: feed.stopped):
            index, atoms, *aside = taken.pop(result.index)
            put_back(atoms, *aside)
            if result.error is not None:
                run.give_up(index, result.failure or FailureClass.STRUCTURE, result.error, atoms, feed)
            else:
                note_calculator(atoms, run.calculator)
                add_extra_results(atoms, result.extra_results, run.calculator)
                found = {name: result.results[name] for name in asked or _USUAL if name in result.results}
                atoms.calc = SimpleNamespace(results=found)  # all that is read of it
                run.add(index, atoms)


def _drawn(feed: Feed) -> Iterator[Sequence[int]]:
    """Yield structures for some seconds of work, so that several processes end at about the same time."""
    atoms = _LEAST
    while indices := feed.take(atoms, wait=True):
        begun = time.monotonic()
        yield indices
        passed = time.monotonic() - begun
        if passed < _SOON_S:
            atoms = min(2 * atoms, _MOST)
        elif passed > _LATE_S:
            atoms = max(atoms // 2, 1)
