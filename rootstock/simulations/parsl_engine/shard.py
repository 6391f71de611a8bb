"""What a worker of Parsl's computes of a run folder: some of its structures, which it records there itself."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from rootstock.errors import ConfigurationError, RootError, RootstockError
from rootstock.interfaces.calculator import RootstockCalculator
from rootstock.simulations.parsl_engine.busy import busy
from rootstock.simulations.parsl_engine.warm import warm_calculator
from rootstock.simulations.pool.driver import described
from rootstock.simulations.pool.run import deadline_of
from rootstock.simulations.runs.carry_out import check_calculator
from rootstock.simulations.runs.compute import Computation
from rootstock.simulations.runs.feed import Listed
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.input_table import read_sizes
from rootstock.simulations.runs.recorder import Recorder
from rootstock.simulations.runs.source import Source

GO_ON = b"go on"  # what the head's file says as long as shards are to be computed
_LOOK_S = 2.0
_BEFORE_S = 40.0  # the end of a job, in which what is unfinished is recorded


@dataclass(frozen=True)
class Order:
    """What all shards of a run have in common.

    Attributes
    ----------
    folder : str
        Of the run.
    parameters : Mapping
        Of the calculator.
    orders : str
        The head's file: once it says anything but `GO_ON`, or is gone, what is being computed is to end.
    stop_on_error : bool
        Whether the first structure that fails ends the shard.
    """

    folder: str
    parameters: Mapping[str, Any]
    orders: str
    stop_on_error: bool = False


@dataclass
class Told:
    """What became of a shard.

    Attributes
    ----------
    gpu : str
        The kind of GPU that computed.
    place : str
        Node, job and rank of the worker.
    block : str
        Parsl's number of its job.
    recorded : list of int
        What is on the disk, also failures.
    error : dict or None
        What has ended it, as `rootstock.simulations.pool.member.as_error` reads it.
    seconds : float
        How long it took.
    stopped : bool
        Whether it was asked to end.
    """

    gpu: str = ""
    place: str = ""
    block: str = ""
    recorded: list[int] = field(default_factory=list)
    error: dict[str, Any] | None = None
    seconds: float = 0.0
    stopped: bool = False


@dataclass
class _Opened:
    """A run folder that this process computes in, and its part of it, which grows from shard to shard."""

    folder: RunFolder
    source: Source
    sizes: NDArray[np.int64]
    calculator: RootstockCalculator
    gpu: str
    recorder: Recorder
    recorded: list[int]


class _Stop:
    """Says whether to end soon, and asks for that only now and then."""

    def __init__(self, orders: Path) -> None:
        self._orders, self._next, self.said = orders, 0.0, False
        self._deadline = deadline_of(os.environ)

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self.said and now >= self._next:
            self._next = now + _LOOK_S
            late = self._deadline is not None and time.time() > self._deadline - _BEFORE_S
            self.said = late or not self._may_go_on()
        return self.said

    def _may_go_on(self) -> bool:
        # NFS shows what is new in a file to whoever opens it; that a file is new it may hide for a minute.
        try:
            return self._orders.read_bytes() == GO_ON
        except FileNotFoundError:
            return False
        except OSError:  # which passes
            return True


class _All(Listed):
    """Hands out all at once: how much that is, the head has decided."""

    def take(self, atoms: int, *, wait: bool) -> Sequence[int]:  # noqa: ARG002
        """Return the indices of the next structures; see `Feed.take`.

        Parameters
        ----------
        atoms : int
        wait : bool
        """
        return super().take(2**62, wait=True)


_opened: dict[str, _Opened] = {}


def compute_shard(order: Order, indices: Sequence[int]) -> Told:
    """Compute structures of a run, and return when they are recorded.

    Parameters
    ----------
    order : Order
    indices : sequence of int
        None: the model is loaded, and nothing else.
    """
    told = Told(place=_place(), block=os.environ.get("PARSL_WORKER_BLOCK_ID", ""))
    begun = time.monotonic()
    with busy():
        try:
            _compute(order, indices, told)
        except (RootstockError, PropertyNotImplementedError, OSError) as error:
            told.error = described(_of_ours(error))
    told.seconds = time.monotonic() - begun
    return told


def _place() -> str:
    """Return where this worker is; of several jobs on a node each has a worker 0."""
    job = next((f" job {os.environ[name]}" for name in ("SLURM_JOB_ID", "PBS_JOBID") if os.environ.get(name)), "")
    return f"{platform.node()}{job} worker {os.environ.get('PARSL_WORKER_RANK', '0')}"


def _of_ours(error: Exception) -> RootstockError:
    """Return an error of ours for one that comes of the structures' file, or of what is asked for."""
    if isinstance(error, OSError) and not isinstance(error, RootstockError):
        return RootError(f"{error.filename or 'The system'}: {error.strerror or error}.")
    return error if isinstance(error, RootstockError) else ConfigurationError(str(error))


def _compute(order: Order, indices: Sequence[int], told: Told) -> None:
    stop = _Stop(Path(order.orders))
    if stop():  # the head may be gone, and this of its last; or this job is at its end, and others must get the work
        told.stopped = True
        time.sleep(_LOOK_S)
        return
    run = _open(order)
    told.gpu = run.gpu
    kind = _All if run.folder.record.kind == "singlepoint" else Listed
    feed = kind(np.asarray(indices, np.int64), run.sizes, stop)
    try:
        if len(indices):
            Computation(
                run.folder, run.source, run.calculator, run.recorder, run.gpu, order.stop_on_error
            ).run(feed)  # fmt: skip
            run.source.check_unchanged()
    finally:
        try:
            run.recorder.sync()
        finally:
            told.recorded, told.stopped = [*run.recorded], stop.said
            run.recorded.clear()


def _open(order: Order) -> _Opened:
    """Return the run, which this process keeps open; of another run it has had before it keeps nothing."""
    if (found := _opened.get(order.folder)) is None:
        while _opened:
            with contextlib.suppress(RootstockError):
                _opened.popitem()[1].recorder.close()
        folder = RunFolder.open(Path(order.folder))
        calculator = warm_calculator(order.parameters)
        recorded: list[int] = []
        found = _Opened(
            folder, Source(folder.path, folder.record.input), read_sizes(folder.path, folder.record.structures),
            calculator, check_calculator(folder, calculator), Recorder(folder.path, recorded.extend), recorded,
        )  # fmt: skip
        _opened[order.folder] = found
    return found
