"""Structures of a Python program that Parsl's workers compute: they are collected into shards, and each is a future."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import parsl
from ase import Atoms
from parsl.dataflow.dflow import DataFlowKernel
from parsl.errors import NoDataFlowKernelError
from parsl.executors import HighThroughputExecutor

from rootstock.client.batch_arrays import require_atoms
from rootstock.client.evaluated import Evaluated
from rootstock.client.many import USUAL
from rootstock.errors import ConfigurationError, RootstockError, WorkerError
from rootstock.interfaces.arguments import check_arguments, worker_spec
from rootstock.simulations.parsl_engine.executor import Executor
from rootstock.simulations.parsl_engine.reasons import as_new
from rootstock.simulations.parsl_engine.retries import LOST
from rootstock.simulations.parsl_engine.warm import Outcome, evaluate_shard

SHARD = 25  # structures: the engine then costs each some milliseconds at most
_EACH = 4  # shards a slot among which few structures are divided, so that all slots get some
_COLLECTOR = "rootstock_collector"  # in Parsl's own object, with which it ends
_QUIET_S, _LONGEST_S = 0.1, 1.0  # in which nothing more comes; and that the first one waits


class EvaluatedFuture(Future[Evaluated]):
    """A structure that is computed elsewhere: its result is `rootstock.calculator.Evaluated`.

    A structure that fails is a result, whose `error` says why; the future itself fails only if what was asked for is
    wrong, such as a property that the model does not have, or if the scheduler refuses the jobs.
    """

    _collector: _Collector

    def result(self, timeout: float | None = None) -> Evaluated:
        """Return what became of the structure; wait for that.

        Parameters
        ----------
        timeout : float, optional [s]
        """
        if not self.done():
            self._collector.hurry()
        if (error := self.exception(timeout)) is not None:
            raise as_new(error)  # so that what is printed begins here, also if this is asked for again
        return super().result()


@dataclass(frozen=True)
class _Kind:
    """What structures have in common that are computed together."""

    parameters: Mapping[str, Any]
    properties: tuple[str, ...] | None


_Entry = tuple[int, Atoms, EvaluatedFuture]


class _Collector:
    """Collects structures for a moment, and makes shards of them.

    Parameters
    ----------
    kernel : DataFlowKernel
        Parsl.
    """

    def __init__(self, kernel: DataFlowKernel) -> None:
        self._kernel = kernel
        self._entries: dict[str, tuple[_Kind, list[_Entry]]] = {}
        self._builds: dict[str, str | None] = {}
        self._count = itertools.count()
        self._news = threading.Condition()
        self._last = 0.0
        self._flushes = self._hurry = False
        executors = [each for each in kernel.executors.values() if isinstance(each, HighThroughputExecutor)]
        ours = [each for each in executors if isinstance(each, Executor)]
        self._labels = [each.label for each in ours or executors] or "all"
        self._slots = max(sum(each.slots for each in ours), 1)

    def build(self, arguments: Mapping[str, Any]) -> str | None:
        """Return the build that all workers are to use: the one that is in use when the first one is asked for.

        Parameters
        ----------
        arguments : Mapping
            As `check_arguments` returns them.
        """
        if (key := _key(arguments)) not in self._builds:
            self._builds[key] = worker_spec(arguments).model.build_name
        return self._builds[key]

    def add(self, kind: _Kind, atoms: Atoms) -> EvaluatedFuture:
        """Return the future of one more structure.

        Parameters
        ----------
        kind : _Kind
        atoms : ase.Atoms
        """
        future = EvaluatedFuture()
        future._collector = self
        key = _key([kind.parameters, kind.properties])
        with self._news:
            self._entries.setdefault(key, (kind, []))[1].append((next(self._count), atoms, future))
            self._last = time.monotonic()
            flushes, self._flushes = self._flushes, True
            if self._full():
                self._news.notify_all()
        if not flushes:  # a task of Parsl's, in this process, so that the end of Parsl waits for it and its shards
            self._submit(self._flush, (), ["_parsl_internal"], join=True)
        return future

    def hurry(self) -> None:
        """Wait for no more structures: somebody waits for one."""
        with self._news:
            self._hurry = True
            self._news.notify_all()

    def _full(self) -> bool:
        return sum(len(entries) for _, entries in self._entries.values()) >= SHARD * _EACH * self._slots

    def _flush(self) -> list[Future[list[Outcome]]]:
        with self._news:
            end = time.monotonic() + _LONGEST_S
            while not self._hurry and not self._full():
                left = min(self._last + _QUIET_S, end) - time.monotonic()
                if left <= 0:
                    break
                self._news.wait(left)
            taken, self._entries = self._entries, {}
            self._flushes = self._hurry = False
        shards = []
        for kind, entries in taken.values():
            size = min(SHARD, max(1, len(entries) // (_EACH * self._slots)))
            shards += [self._send(kind, entries[k : k + size]) for k in range(0, len(entries), size)]
        return shards

    def _send(self, kind: _Kind, entries: Sequence[_Entry]) -> Future[list[Outcome]]:
        images = [atoms for _, atoms, _ in entries]
        shard = self._submit(evaluate_shard, (kind.parameters, kind.properties, images), self._labels)
        shard.add_done_callback(partial(self._ended, kind, entries))
        return shard

    def _submit(self, function: Any, arguments: tuple[Any, ...], labels: Any, *, join: bool = False) -> Future[Any]:
        found: Future[Any] = self._kernel.submit(
            function, app_args=arguments, executors=labels, cache=False, ignore_for_cache=None, app_kwargs={}, join=join
        )
        return found

    def _ended(self, kind: _Kind, entries: Sequence[_Entry], shard: Future[list[Outcome]]) -> None:
        error = shard.exception()
        if error is None:
            for (number, atoms, future), each in zip(entries, shard.result(), strict=True):
                extra = each.extra_results
                future.set_result(Evaluated(number, each.results, each.error, atoms, each.failure, extra_results=extra))
            return
        if isinstance(error, LOST) and len(entries) > 1:  # one of them may be the reason
            for entry in entries:
                self._send(kind, [entry])
            return
        for number, atoms, future in entries:
            if isinstance(error, (*LOST, WorkerError)):
                future.set_result(Evaluated.lost(number, _of_ours(error), atoms))
            else:
                future.set_exception(as_new(error))


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _of_ours(error: BaseException) -> RootstockError:
    if isinstance(error, RootstockError):
        return as_new(error)  # for each structure an error of its own, which anybody may raise
    return WorkerError(f"Parsl has lost the worker, or its node, again and again: {error}")


_lock = threading.Lock()


def evaluate(atoms: Atoms, *, properties: Sequence[str] | None = USUAL, **arguments: Any) -> EvaluatedFuture:
    """Compute a structure by a worker of Parsl's.

    Structures are collected into shards of up to 25. Each worker of Parsl's keeps its models loaded, on a GPU of its
    own.

    Parameters
    ----------
    atoms : ase.Atoms
        It is copied: what becomes of it later does not matter.
    properties : sequence of str, optional
        By ASE's names. None: energy, forces, and the stress of structures that have one.
    **arguments
        Of `rootstock.RootstockCalculator`, such as ``model`` and ``device``.

    Returns
    -------
    EvaluatedFuture
        A `concurrent.futures.Future`, which Parsl's apps take as an argument. Its result is a
        `rootstock.calculator.Evaluated`, with `results`, `error` and `atoms`, also of a structure that fails.

    Raises
    ------
    ConfigurationError
        If Parsl is not loaded, or an argument is wrong.
    """
    require_atoms(0, atoms)
    arguments = check_arguments(arguments)
    try:
        kernel = parsl.dfk()
    except NoDataFlowKernelError:
        raise ConfigurationError(
            "Parsl is not loaded.", "with parsl.load(rootstock.parsl.config(cluster='della', gpus=16)): ..."
        ) from None
    with _lock:
        if (collector := vars(kernel).get(_COLLECTOR)) is None:
            vars(kernel)[_COLLECTOR] = collector = _Collector(kernel)
    kind = _Kind({**arguments, "build": collector.build(arguments)}, None if properties is None else tuple(properties))
    return collector.add(kind, atoms.copy())
