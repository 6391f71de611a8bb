"""Computes what is missing in a run, and records it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

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
from rootstock.simulations.runs.elements import Element
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.recorder import Recorder, describe
from rootstock.simulations.runs.records import check_same_model, note_threads, run_file

if TYPE_CHECKING:
    from rootstock.simulations.runs.parts import Disk

_USELESS = {code.value for code in USELESS}  # the worker was lost with them
_REFERENCE = "ref_"  # begins the names of what the input carried as results
_USUAL = ("energy", "forces", "stress")  # a model may compute more, for which nobody asked


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
class _Run:
    folder: RunFolder
    source: Structures
    calculator: Any
    recorder: Recorder
    gpu: str
    stop_on_error: bool

    def fail(self, index: int, kind: FailureClass, error: RootstockError, atoms: Atoms | None = None) -> None:
        """Record a failure; stop where that is asked for, or where it is not the structure's."""
        name = self.source.name(index)
        structure = name if atoms is None else describe(atoms, name)
        self.recorder.fail(index, kind, error, structure, self.gpu)
        if self.stop_on_error or kind is FailureClass.INFRASTRUCTURE:
            self.recorder.sync()
            if name not in error.message:
                error.message = f"{name}: {error.message}"
            raise error

    def read(self, index: int) -> Atoms | None:
        """Return a structure; None if it cannot be read, which is recorded."""
        try:
            return self.source[index]
        except ConfigurationError as error:
            self.fail(index, FailureClass.STRUCTURE, error)
            return None

    def add(self, index: int, atoms: Atoms, converged: bool | None = None) -> None:
        """Record results."""
        refused = self.recorder.add(index, atoms, converged=converged)
        if refused is not None and self.stop_on_error:
            self.recorder.sync()
            raise refused


def carry_out(
    folder: RunFolder,
    source: Structures,
    calculator: Any,
    element: Element | None = None,
    *,
    on_recorded: Callable[[Sequence[int]], object] | None = None,
    stop_on_error: bool = False,
    retry_failed: bool = False,
    disk: Disk | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Compute what is missing in a run, and record it. Structures that fail are recorded too, and the others go on.

    Parameters
    ----------
    folder : RunFolder
    source : Source
    calculator : RootstockCalculator
        For a relaxation, any calculator of ASE's kind.
    element : Element, optional
        The share of the run that this process computes; by default all.
    on_recorded : callable, optional
        Is given the indices that are on the disk.
    stop_on_error : bool
        Whether the first structure that fails ends it.
    retry_failed : bool
        Whether those that failed before are computed again.
    disk, clock
        As for `Recorder`.

    Raises
    ------
    LockBusyError
        If another process computes it.
    ConfigurationError
        If the run was begun with another model; with `stop_on_error`, of a structure.
    OutputError
        If results cannot be recorded. What was recorded stays.
    WorkerError
        If no worker can compute, whatever the structure; with `stop_on_error`, of a structure.
    """
    relaxation = _relaxation(folder) if folder.record.kind == "relax" else None
    with folder.recorder(element, on_recorded, disk=disk, clock=clock) as recorder:
        if not len(folder.missing(element, retry_failed=retry_failed, gpu="any other")):
            return  # and no worker is started
        gpu = ""
        if calculator.name == "rootstock":
            info = calculator.info()
            check_same_model(folder.path, folder.record, info)
            note_threads(folder.path, info.get("threads"))
            gpu = str(info["gpu"] or info["device"])
        missing = folder.missing(element, retry_failed=retry_failed, gpu=gpu or None)
        run = _Run(folder, source, calculator, recorder, gpu, stop_on_error)
        if relaxation is not None:
            _relaxations(run, missing, relaxation)
            return
        try:
            _single_points(run, missing)
        except PropertyNotImplementedError as error:
            raise ConfigurationError(str(error)) from error


def _relaxation(folder: RunFolder) -> Relaxation:
    try:
        return parse_record(Relaxation, folder.record.settings)
    except ValueError as error:
        raise ConfigurationError(f"{run_file(folder.path)} holds no settings of a relaxation: {error}.") from error


def _single_points(run: _Run, missing: NDArray[np.int64]) -> None:
    """Compute properties of structures, which are read as the calculator takes them."""
    taken: dict[int, tuple[int, Atoms, dict[str, Any], dict[str, Any]]] = {}
    count = itertools.count()  # as the calculator does

    def structures() -> Iterator[Atoms]:
        for index in map(int, missing):
            if (atoms := run.read(index)) is not None:
                taken[next(count)] = (index, atoms, *_set_aside(atoms))
                yield atoms

    asked = run.folder.record.settings.get("properties") or None
    lost: list[RootstockError] = []
    for result in run.calculator.iter_many(structures(), asked, ordered=False):
        index, atoms, *aside = taken.pop(result.index)
        _put_back(atoms, *aside)
        if result.error is None:
            note_calculator(atoms, run.calculator)
            found = {name: result.results[name] for name in asked or _USUAL if name in result.results}
            atoms.calc = SimpleNamespace(results=found)  # all that is read of it
            run.add(index, atoms)
        elif result.failure is FailureClass.INFRASTRUCTURE:  # of this one: the others go on
            run.recorder.fail(index, result.failure, result.error, describe(atoms, run.source.name(index)), run.gpu)
            lost.append(result.error)
        else:
            run.fail(index, result.failure or FailureClass.STRUCTURE, result.error, atoms)
    if lost:
        run.recorder.sync()
        left = f"{number_of(len(lost), 'structure')} could not be computed, by no fault of their own."
        lost[0].hint = f"{lost[0].hint}\n{left} To compute them, continue the run.".strip()
        raise lost[0]


def _relaxations(run: _Run, missing: NDArray[np.int64], relaxation: Relaxation) -> None:
    """Relax structures, one after the other."""
    for index in map(int, missing):
        if (atoms := run.read(index)) is None:
            continue
        aside = _set_aside(atoms)
        try:
            relaxed = _relax(relaxation, atoms, run.calculator)
        except (ConfigurationError, NotConvergedError, WorkerError) as error:
            run.fail(index, failure_class(error), error, atoms)
        else:
            _put_back(relaxed, *aside)
            run.add(index, relaxed, bool(relaxed.info["converged"]))


def _relax(relaxation: Relaxation, atoms: Atoms, calculator: Any) -> Atoms:
    try:
        return relaxation.run(atoms, calculator)
    except WorkerError as error:  # perhaps for what was computed before
        if not isinstance(error, WorkerDiedError | WorkerTimeoutError) and error.code not in _USELESS:
            raise
        return relaxation.run(atoms, calculator)


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
