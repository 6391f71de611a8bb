"""Computes in this process what is missing in a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ase.calculators.calculator import PropertyNotImplementedError

from rootstock.errors import ConfigurationError
from rootstock.simulations.dynamics import Dynamics
from rootstock.simulations.lockstep.live import can_lockstep
from rootstock.simulations.relax import Relaxation
from rootstock.simulations.runs.compute import Computation, Structures
from rootstock.simulations.runs.elements import Element
from rootstock.simulations.runs.feed import Listed
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.input_table import read_sizes
from rootstock.simulations.runs.records import check_same_model, note_threads

if TYPE_CHECKING:
    from rootstock.simulations.runs.parts import Disk


def carry_out(
    folder: RunFolder,
    source: Structures,
    calculator: Any,
    element: Element | None = None,
    *,
    on_recorded: Callable[[Sequence[int]], object] | None = None,
    stop_on_error: bool = False,
    retry_failed: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    disk: Disk | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Compute what is missing in a run, and record it. Structures that fail are recorded too, and the others go on.

    Parameters
    ----------
    folder : RunFolder
    source : Source
    calculator : RootstockCalculator
        For a relaxation or a simulation, any calculator of ASE's kind.
    element : Element, optional
        The share of the run that this process computes; by default all.
    on_recorded : callable, optional
        Is given the indices that are on the disk.
    stop_on_error : bool
        Whether the first structure that fails ends it.
    retry_failed : bool
        Whether those that failed before are computed again.
    stopped : callable
        Returns whether to end soon: a simulation after its step, others when they hand out results.
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
    check_settings(folder)  # before a worker is started
    with folder.recorder(element, on_recorded, disk=disk, clock=clock) as recorder:
        if not len(folder.missing(element, retry_failed=retry_failed, gpu="any other")):
            return  # and no worker is started
        gpu = check_calculator(folder, calculator)
        missing = folder.missing(element, retry_failed=retry_failed, gpu=gpu or None)
        if folder.record.kind == "relax" and can_lockstep(folder.settings(Relaxation).optimizer):
            missing = missing[::-1]  # the largest come first: none of them is left when all others are done
        feed = Listed(missing, read_sizes(folder.path, folder.record.structures), stopped)
        try:
            Computation(folder, source, calculator, recorder, gpu, stop_on_error).run(feed)
        except PropertyNotImplementedError as error:
            raise ConfigurationError(str(error)) from error


def check_settings(folder: RunFolder) -> None:
    """Refuse a run whose record holds no settings of what is done with each structure.

    Parameters
    ----------
    folder : RunFolder

    Raises
    ------
    ConfigurationError
    """
    if (kind := {"relax": Relaxation, "md": Dynamics}.get(folder.record.kind)) is not None:
        folder.settings(kind)


def check_calculator(folder: RunFolder, calculator: Any) -> str:
    """Refuse a calculator of another model than a run is bound to, and return the kind of what it computes on.

    Parameters
    ----------
    folder : RunFolder
    calculator : RootstockCalculator
        One of another kind is not looked at.

    Raises
    ------
    ConfigurationError
        If it is of another model.
    """
    if calculator.name != "rootstock":
        return ""
    info = calculator.info()
    check_same_model(folder.path, folder.record, info)
    note_threads(folder.path, info.get("threads"))
    return str(info["gpu"] or info["device"])
