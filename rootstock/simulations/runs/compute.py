"""Computes structures of a run as they are handed out, and records what becomes of each."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Protocol

from ase import Atoms

from rootstock.client.evaluated import FailureClass
from rootstock.client.reported import USELESS, failure_class
from rootstock.errors import (
    ConfigurationError,
    NotConvergedError,
    RootstockError,
    WorkerDiedError,
    WorkerError,
    WorkerTimeoutError,
)
from rootstock.root.disk_usage import number_of
from rootstock.root.record_files import parse_record
from rootstock.simulations.provenance import NOTES, SOURCE, note_calculator
from rootstock.simulations.relax import Relaxation
from rootstock.simulations.runs.feed import Feed
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.partials import Partials
from rootstock.simulations.runs.recorder import Recorder, describe
from rootstock.simulations.runs.records import run_file

_USELESS = {code.value for code in USELESS}  # the worker was lost with them
_REFERENCE = "ref_"  # begins the names of what the input carried as results
_USUAL = ("energy", "forces", "stress")  # a model may compute more, for which nobody asked
_LEAST, _MOST = 2**8, 2**14  # atoms that are drawn at once of single points
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
        For a relaxation, any calculator of ASE's kind.
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
        if self.folder.record.kind == "relax":
            _relaxations(self, feed, read_relaxation(self.folder))
        else:
            _single_points(self, feed)

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
            Of a relaxation.
        """
        refused = self.recorder.add(index, atoms, converged=converged, steps=steps)
        if refused is not None and self.stop_on_error:
            self.recorder.sync()
            raise refused


def read_relaxation(folder: RunFolder) -> Relaxation:
    """Return the settings of a run of relaxations.

    Parameters
    ----------
    folder : RunFolder

    Raises
    ------
    ConfigurationError
        If its record holds none.
    """
    try:
        return parse_record(Relaxation, folder.record.settings)
    except ValueError as error:
        raise ConfigurationError(f"{run_file(folder.path)} holds no settings of a relaxation: {error}.") from error


def _single_points(run: Computation, feed: Feed) -> None:
    """Compute properties of structures, which are read as the calculator takes them."""
    taken: dict[int, tuple[int, Atoms, dict[str, Any], dict[str, Any]]] = {}
    draw = _Draw(feed)

    def structures(indices: Sequence[int]) -> Iterator[Atoms]:
        count = itertools.count()  # as the calculator does
        while indices:
            for index in indices:
                if (atoms := run.read(index)) is not None:
                    taken[next(count)] = (index, atoms, *_set_aside(atoms))
                    yield atoms
            indices = draw.more(wait=False)

    asked = run.folder.record.settings.get("properties") or None
    lost: list[RootstockError] = []
    while indices := draw.more(wait=True):
        for result in run.calculator.iter_many(structures(indices), asked, ordered=False):
            index, atoms, *aside = taken.pop(result.index)
            _put_back(atoms, *aside)
            if result.error is None:
                note_calculator(atoms, run.calculator)
                found = {name: result.results[name] for name in asked or _USUAL if name in result.results}
                atoms.calc = SimpleNamespace(results=found)  # all that is read of it
                run.add(index, atoms)
            elif result.failure is FailureClass.INFRASTRUCTURE:  # of this one: the others go on
                run.recorder.fail(index, result.failure, result.error, describe(atoms, run.source.name(index)), run.gpu)
                feed.give_back(index)
                lost.append(result.error)
            else:
                run.fail(index, result.failure or FailureClass.STRUCTURE, result.error, atoms)
            if feed.stopped:
                break
    if lost:
        run.recorder.sync()
        left = f"{number_of(len(lost), 'structure')} could not be computed, by no fault of their own."
        lost[0].hint = f"{lost[0].hint}\n{left} To compute them, continue the run.".strip()
        raise lost[0]


class _Draw:
    """Draws structures for some seconds of work, so that several processes end at about the same time."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self._atoms, self._last = feed, _LEAST, 0.0

    def more(self, *, wait: bool) -> Sequence[int]:
        passed, self._last = time.monotonic() - self._last, time.monotonic()
        if passed < _SOON_S:
            self._atoms = min(2 * self._atoms, _MOST)
        elif passed > _LATE_S:
            self._atoms = max(self._atoms // 2, 1)
        return self._feed.take(self._atoms, wait=wait)


def _relaxations(run: Computation, feed: Feed, relaxation: Relaxation) -> None:
    """Relax structures, one after the other."""
    partials = Partials(run.folder.path, run.folder.record.structures)
    while indices := feed.take(1, wait=True):
        for index in indices:
            if (atoms := run.read(index)) is not None:
                aside = _set_aside(atoms)
                before = partials.go_on(index, atoms)
                single = _Single(run, feed, index, replace(relaxation, steps=max(relaxation.steps - before, 0)), before)
                try:
                    relaxed = single.relax(atoms)
                except (ConfigurationError, NotConvergedError, WorkerError) as error:
                    run.fail(index, failure_class(error), error, atoms)
                else:
                    if relaxed is None:
                        return
                    _put_back(relaxed, *aside)
                    run.add(index, relaxed, bool(relaxed.info["converged"]), single.steps)


class _StopError(Exception):
    """Ends a relaxation on its way."""


@dataclass
class _Single:
    """One relaxation, which records where it is if it is ended on its way."""

    run: Computation
    feed: Feed
    index: int
    relaxation: Relaxation
    steps: int

    def relax(self, atoms: Atoms) -> Atoms | None:
        """Return the relaxed structure; None if somebody asked to stop."""
        before, last = self.steps, atoms.copy()

        def on_step(step: int, now: Atoms, force: float) -> None:  # noqa: ARG001
            last.set_cell(now.cell)
            last.positions[:] = now.positions
            self.steps = before + step
            if self.feed.stopped:
                raise _StopError

        try:
            try:
                return self.relaxation.run(atoms, self.run.calculator, on_step=on_step)
            except WorkerError as error:  # perhaps for what was computed before
                if not isinstance(error, WorkerDiedError | WorkerTimeoutError) and error.code not in _USELESS:
                    raise
                return self.relaxation.run(atoms, self.run.calculator, on_step=on_step)
        except _StopError:
            self._record(last, before)
            return None
        except RootstockError:
            raise
        except BaseException:
            self._record(last, before)
            raise

    def _record(self, last: Atoms, before: int) -> None:
        if self.steps > before:
            self.run.recorder.add_partial(self.index, last, self.steps)


def _set_aside(atoms: Atoms) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take out of a structure what the model must not see; return what results are to have of it.

    A copy would cost more than all else that is done with a small structure.
    """
    info, arrays = (
        {name: entries.pop(name) for name in [*entries] if name in NOTES or str(name).startswith(_REFERENCE)}
        for entries in (atoms.info, atoms.arrays)
    )
    # The other notes are about a calculation before.
    return {name: value for name, value in info.items() if name not in NOTES or name == SOURCE}, arrays


def _put_back(atoms: Atoms, info: dict[str, Any], arrays: dict[str, Any]) -> None:
    atoms.info.update(info)
    atoms.arrays.update(arrays)
