"""Hands out shards of a run folder to Parsl, and sees to those that are lost."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from parsl.dataflow.dflow import DataFlowKernel
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

from rootstock.client.evaluated import FailureClass
from rootstock.errors import ConfigurationError, DeviceError, MissingWeightsError, RootstockError, WorkerError
from rootstock.simulations.parsl_engine.executor import Executor
from rootstock.simulations.parsl_engine.providers import leave_out
from rootstock.simulations.parsl_engine.seen import Hears, Places, Recorded
from rootstock.simulations.parsl_engine.shard import Order, Told, compute_shard
from rootstock.simulations.pool.member import as_error
from rootstock.simulations.pool.run import PoolRun
from rootstock.simulations.pool.work import Work
from rootstock.simulations.runs.compute import Structures
from rootstock.simulations.runs.index import WITH_RESULTS
from rootstock.simulations.runs.input_table import read_sizes
from rootstock.simulations.runs.recorder import Recorder, describe
from rootstock.simulations.runs.submissions import bad_nodes, keep_off_bad_nodes, note_bad_node, short_names

_LOOK_S = 0.2
_RECORDED_S = 10.0  # between two looks at what is recorded, which are to take no more than this part of the time:
_PART = 0.01
_FIRST = 25  # structures in the first shards
_AHEAD = 2  # shards a slot: one that is computed, and one that waits
_SOON_S, _LATE_S = 10.0, 60.0  # between which shards are neither enlarged nor made smaller
_MOST = 2**20  # atoms in a shard
_DEATHS = 3  # of one place, without a result between them


class Head:
    """Hands out shards of a run.

    Parameters
    ----------
    run : PoolRun
    source : Structures
    order : Order
    recorder : Recorder
        For failures of structures that end workers.
    told : Hears
    """

    def __init__(self, run: PoolRun, source: Structures, order: Order, recorder: Recorder, told: Hears) -> None:
        self._run, self._order, self._recorder, self._told, self._source = run, order, recorder, told, source
        self._seen, self._places = Recorded(run.folder, told.recorded), Places()
        self._sizes: NDArray[np.int64] = read_sizes(run.folder.path, run.folder.record.structures)
        self._work: Work | None = None  # not before a worker says on which kind of GPU it computes
        self._open: dict[Future[Told], tuple[list[int], bool]] = {}
        self._ended: queue.SimpleQueue[Future[Told]] = queue.SimpleQueue()
        self._atoms = 0  # of a shard
        self._deaths: Counter[str] = Counter()
        self._in_vain = 0  # jobs that were ended since something was recorded
        self._next = 0.0  # when to look at what is recorded
        self._shown: dict[str, str] = {}
        self._fatal: RootstockError | None = None
        self._error: RootstockError | None = None
        self._stopped = False
        self._ends_at: float | None = None

    def run(self, kernel: DataFlowKernel, executor: Executor) -> bool:
        """Compute until nothing is left, or somebody asks to end.

        Parameters
        ----------
        kernel : DataFlowKernel
            Parsl.
        executor : Executor

        Returns
        -------
        bool
            Whether everything was computed.
        """
        self._kernel, self._executor = kernel, executor
        for _ in range(executor.slots):  # so that all load the model at the same time
            self._submit([])
        while self._open and not (self._ends_at is not None and time.monotonic() >= self._ends_at):
            with contextlib.suppress(queue.Empty):
                self._take(self._ended.get(timeout=_LOOK_S))
                while True:
                    self._take(self._ended.get_nowait())
            self._look_for_signals()
            self._hand_out()
            self._look()
            self._show()
        self._recorder.sync()
        if self._fatal is not None:
            raise self._fatal
        open_ones = sum(len(indices) for indices, _ in self._open.values())
        left = self._work is None or len(self._work) + open_ones + self._work.given_up > 0
        if left and not self._stopped:
            raise self._error or WorkerError("Parsl's workers have ended before all was computed.")
        return not left

    # -- shards

    def _submit(self, indices: list[int], *, suspects: bool = False) -> None:
        try:
            shard: Future[Told] = self._kernel.submit(
                compute_shard, app_args=(self._order, indices), executors=[self._executor.label], cache=False,
                ignore_for_cache=None, app_kwargs={},
            )  # fmt: skip
        except RootstockError as error:  # Parsl has failed meanwhile
            self._end(error)
            return
        self._open[shard] = (indices, suspects)
        shard.add_done_callback(self._ended.put)

    def _hand_out(self) -> None:
        if self._stopped or self._work is None:
            return
        while len(self._open) < _AHEAD * self._executor.slots:
            if suspects := self._work.suspects():
                self._submit(suspects, suspects=True)
            elif indices := self._work.take(self._atoms):
                self._submit(indices)
            else:
                break

    def _take(self, shard: Future[Told]) -> None:
        indices, suspects = self._open.pop(shard)
        if (error := shard.exception()) is None:
            self._returned(shard.result(), indices, suspects=suspects)
        elif isinstance(error, WorkerLost | ManagerLost):
            self._lost(error, indices, suspects=suspects)
        else:
            self._put_back(indices)
            self._end(
                self._executor.reason()
                if self._executor.bad_state_is_set
                else error
                if isinstance(error, RootstockError)
                else WorkerError(f"Parsl failed with a shard: {error!r}")
            )

    def _returned(self, told: Told, indices: list[int], *, suspects: bool) -> None:
        self._places.computes(told.place, told.block)
        if told.recorded:
            self._deaths.pop(told.place, None)
            self._in_vain = 0
            self._note(told.recorded)
        left = [*(dict.fromkeys(indices).keys() - set(told.recorded))]
        if told.error is not None:
            self._failed(as_error(told.error), told, left)
            return
        if self._work is None and told.gpu:
            self._begin(told.gpu)
        elif self._work is None and not self._open and not self._stopped:  # its job was at its end
            self._submit([])
        if left:
            self._put_back(sorted(left, key=indices.index))
        elif indices and not suspects:
            self._resize(int(self._sizes[indices].sum()), told.seconds)

    def _failed(self, error: RootstockError, told: Told, left: list[int]) -> None:
        """See to an error that is none of a structure's."""
        self._error = error
        if self._order.stop_on_error or not isinstance(error, WorkerError):
            self._put_back(left)
            self._end(error)
            return
        if self._work is None:
            if isinstance(error, DeviceError | MissingWeightsError):
                self._end(error)
        else:
            self._work.back(left)
        self._deaths[told.place] += 1
        said = error.message.partition("\n")[0]
        if self._deaths[told.place] < _DEATHS:
            self._told.warn(f"{told.place}: {said}")
        elif told.place not in self._places.closed:
            details = getattr(error, "details", "")
            self._told.warn("\n".join(filter(None, (f"{told.place}: {said} Its job is ended.", details))))
            self._places.close(told.place, told.block, "its job was ended")
            self._leave_out(told.place, said)
            self._executor.close_block(told.block)
            self._in_vain += 1
            if self._in_vain > self._executor.slots:
                self._end(error)

    def _leave_out(self, place: str, said: str) -> None:
        """See to it that no other job begins on the node of a place, where the fault is that of the node."""
        folder, node = self._run.folder, place.partition(" ")[0]
        if folder.progress().count(*WITH_RESULTS):  # else it may be the model that fails everywhere
            note_bad_node(folder.path, node, {place: said})
            leave_out(self._executor.provider, short_names(bad_nodes(folder.path)))
            keep_off_bad_nodes(folder.path)

    def _lost(self, error: Exception, indices: list[int], *, suspects: bool) -> None:
        """See to what a worker had, or a node, that is gone."""
        left = self._seen.missing(indices)
        self._note([*(set(indices) - set(left))])
        lost = WorkerError(f"{error}.", "If this repeats, its node may have too little memory.")
        self._error = lost
        self._told.warn(f"{error}. What it had is computed again.")
        if self._work is None:
            if indices or not self._open:
                self._submit([])
        elif isinstance(error, ManagerLost):  # a node, or a job at its end: no structure is the reason
            self._work.back(left)
        elif (reason := self._work.lost(left, with_nothing_else=suspects)) is not None:
            self._fail(reason, lost)
            self._work.given_up += 1  # whoever kills a worker of Parsl's from outside says nothing about the structure

    def _begin(self, gpu: str) -> None:
        try:
            todo = self._run.todo(gpu)
        except RootstockError as error:
            self._end(error)
            return
        self._work = Work(todo.tolist(), self._sizes, self._executor.slots)
        mean = float(self._sizes[todo].mean()) if len(todo) else 1.0
        self._atoms = max(1, round(_FIRST * mean))

    def _resize(self, atoms: int, seconds: float) -> None:
        if seconds < _SOON_S and atoms > self._atoms // 2:
            self._atoms = min(2 * self._atoms, _MOST)
        elif seconds > _LATE_S:
            self._atoms = max(self._atoms // 2, 1)

    def _put_back(self, indices: Sequence[int]) -> None:
        if self._work is not None:
            self._work.put_back(indices)

    def _note(self, indices: Sequence[int]) -> None:
        if self._seen.tell(indices):
            self._executor.note()

    def _look(self) -> None:
        """Look now and then what is recorded of open shards, which take minutes, and who computes them."""
        if self._work is None or (begun := time.monotonic()) < self._next:
            return
        with contextlib.suppress(RootstockError):  # the end of a shard says the same
            self._note(self._seen.look(chain.from_iterable(indices for indices, _ in self._open.values())))
        self._places.look(self._executor.connected_managers())
        now = time.monotonic()
        self._next = now + max(_RECORDED_S, (now - begun) / _PART)

    def _fail(self, index: int, error: RootstockError) -> None:
        structure = self._source.name(index)
        with contextlib.suppress(ConfigurationError):
            structure = describe(self._source[index], structure)
        self._recorder.fail(index, FailureClass.INFRASTRUCTURE, error, structure)

    # -- the end

    def _look_for_signals(self) -> None:
        signals = self._told.signals()
        if signals > 1:
            self._stop(0.0)
        elif signals and not self._stopped:
            self._told.warn("Ending: what is unfinished is recorded. Once more, to end at once.")
            self._stop(self._run.workers.grace)

    def _end(self, error: RootstockError) -> None:
        """End all, for an error with which nothing can go on."""
        self._fatal = self._fatal or error
        self._stop(0.0 if self._executor.bad_state_is_set else self._run.workers.grace)

    def _stop(self, grace: float) -> None:
        """Hand out no more, and wait some seconds for what is computed."""
        if not self._stopped:
            self._stopped = True
            with contextlib.suppress(OSError):
                Path(self._order.orders).write_bytes(b"stop")
            self._ends_at = time.monotonic() + grace
        self._ends_at = min(self._ends_at or 0.0, time.monotonic() + grace)

    def _show(self) -> None:
        states = self._places.states()
        if states != self._shown:
            self._shown = states
            self._told.states(states)
