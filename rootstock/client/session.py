"""One worker for one or several calculators: started when it is first needed, replaced when it is lost."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rootstock import __version__
from rootstock.client.batch_session import BatchSession
from rootstock.client.connection import WorkerConnection
from rootstock.client.demands import StructureCheck
from rootstock.client.inputs import Inputs
from rootstock.client.launch import ResolvedModel
from rootstock.client.method_call import MethodCall, call_method
from rootstock.client.methods import methods_of
from rootstock.client.peer import Phase, asked_meanwhile, closed_meanwhile
from rootstock.client.shared_arrays import Result
from rootstock.client.sharing import end_unused
from rootstock.client.threads import thread_count
from rootstock.client.timeouts import EVALUATION_S, START_S
from rootstock.client.timings import Timings
from rootstock.config.capabilities import Capabilities
from rootstock.config.demands import listed_properties
from rootstock.errors import (
    DeviceError,
    MissingWeightsError,
    ModelError,
    NonFiniteError,
    WorkerError,
    WorkerStartError,
)
from rootstock.root.records import read_build

logger = logging.getLogger("rootstock")


@dataclass(frozen=True)
class WorkerSpec:
    """Everything that is needed to start a worker, here or elsewhere.

    Attributes
    ----------
    model : ResolvedModel
    device : str
        Argument of ``setup()``.
    options : Mapping[str, Any]
        Further keyword arguments of ``setup()``.
    threads : int or None
        Threads of the worker's numerical libraries; None: as `thread_count` says; 0: as their variables say.
    start_timeout, timeout : float
        Seconds for the start, and for one evaluation.
    log : Path or None
        Where the worker's output goes.
    """

    model: ResolvedModel
    device: str
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    start_timeout: float = START_S
    timeout: float = EVALUATION_S
    log: Path | None = None

    @functools.cached_property
    def capabilities(self) -> Capabilities:
        """What the environment file says of the model."""
        return self.model.source.capabilities(self.model.argument)

    def start(self, *, for_all_ranks: bool = False) -> WorkerConnection:
        """Start a worker and wait until it has loaded the model; `for_all_ranks` as in `thread_count`."""
        threads = self.threads
        if threads is None:
            threads = thread_count(for_all_ranks)
        launch, argument = self.model.launch(threads), self.model.argument
        try:
            return WorkerConnection(
                launch, argument, self.device, self.options, start_timeout=self.start_timeout, log=self.log,
                listed=listed_properties(self.model.source, argument),
                capabilities=self.capabilities,
            )  # fmt: skip
        except WorkerStartError as error:
            error.hint = error.hint or self.model.source.doubt(argument)
            raise


class WorkerSession(BatchSession):
    """A worker that calculators share.

    Each call is served by a worker that is ready: one that died, was interrupted in the middle of a frame, or belongs
    to the process that this one was forked from is replaced first.

    Parameters
    ----------
    find_spec : callable
        Returns how to start the worker; it is called when that is first needed.
    """

    _connection: WorkerConnection | None
    _for_all_ranks = False

    def __init__(self, find_spec: Callable[[], WorkerSpec]) -> None:
        super().__init__()
        self._find_spec = find_spec
        self._spec: WorkerSpec | None = None
        self._patience: dict[str, Any] = {}  # what was set before the spec was found
        self._check: StructureCheck | None = None
        self.timings = Timings()
        self._weights: list[dict[str, Any]] | None = None  # the files, with their hashes, once somebody asked

    def _reset(self) -> None:
        super()._reset()
        self._busy = False

    @property
    def spec(self) -> WorkerSpec:
        """How to start the worker; found once."""
        if self._spec is None:
            with self.own_lock():
                self._spec = self._spec or replace(self._find_spec(), **self._patience)
        return self._spec

    def set_patience(self, **seconds: Any) -> None:
        """Change `start_timeout` and `timeout` of the spec, and nothing else of it."""
        with self.own_lock():
            self._patience |= seconds
            self._spec = self._spec and replace(self._spec, **seconds)

    def connection(self) -> WorkerConnection:
        """Return a worker that is ready.

        Raises
        ------
        WorkerError
            If every calculator is closed, or a signal handler asks during a call; as `WorkerSpec.start`, too.
        """
        with self.own_lock():
            if self._busy:  # by this thread, in whose call a signal came: the lock keeps others out
                raise asked_meanwhile()
            self._settle(self.spec.timeout)
            if self._connection is None:
                try:
                    self._connection = self._start()
                except WorkerStartError as error:
                    # Perhaps for lack of memory, which has many names: workers that nobody uses any more have some.
                    if isinstance(error, (DeviceError, MissingWeightsError)) or not end_unused():
                        raise
                    self._connection = self._start()
                if self.end_if_unused():
                    raise closed_meanwhile()
            return self._connection

    def refuse(self, inputs: Inputs) -> None:
        """Refuse atoms that the model cannot compute, before a worker is asked; see `StructureCheck.refuse`."""
        self._check = self._check or StructureCheck(self.spec.model)
        self._check.refuse(inputs)

    def _start(self) -> WorkerConnection:
        connection = self.spec.start(for_all_ranks=self._for_all_ranks)
        logger.info("worker: ready after %.1f s", connection.start_s)
        return connection

    def properties(self) -> list[str]:
        """Return what the model can compute, by ASE's names. Asking starts the worker."""
        return list(self.connection().properties)

    def call_method(self, request: MethodCall) -> Any:
        """Call a method of the calculator in the worker; see `rootstock.client.method_call.call_method`."""
        if request.structure is not None:
            self.refuse(request.inputs)
        with self.own_lock():
            connection = self.connection()
            try:
                self._busy = True
                return call_method(connection, request, self.spec.timeout)
            except WorkerError:
                if not connection.usable:
                    self._forget_lost()
                raise
            finally:
                self._busy = False

    def _forget_lost(self) -> None:
        """Keep nothing of a lost worker; raise if that has a reason of ours."""
        self._connection = None
        if not self.users:
            raise closed_meanwhile() from None
        self._settle(0.0)  # raises if Python ends: that is the reason

    def evaluate(self, inputs: Inputs, predicted: int, required: int) -> Result:
        """Compute properties; see `WorkerConnection.evaluate`.

        Parameters
        ----------
        inputs : Inputs
        predicted, required : int
            What is computed, unless the model cannot; and what must be, a part of it.

        Raises
        ------
        ConfigurationError
            As `refuse`.
        """
        self.refuse(inputs)
        with self.own_lock():
            connection, timings = self._connection, self.timings
            if connection is None or connection.phase is not Phase.IDLE or self._busy:
                connection = self.connection()
            begun = time.perf_counter()
            try:
                self._busy = True  # nothing can interrupt between this and the try, nor between finally and its line
                results = self._ask(connection, inputs, predicted, required)
            except WorkerError:
                if not connection.usable:
                    self._forget_lost()
                raise
            finally:
                self._busy = False
            took = time.perf_counter() - begun
            timings.count += 1
            timings.total += took
            timings.add_recent(took)
            if timings.count == timings.watch.next:
                timings.watch.look(timings.total)
            return results

    def _ask(self, connection: WorkerConnection, inputs: Inputs, predicted: int, required: int) -> Result:
        try:
            return connection.evaluate(inputs, predicted, (self._spec or self.spec).timeout)
        except (ModelError, NonFiniteError):
            # What nobody has asked for must not be in the way: a stress that is not finite, or takes too much memory.
            if predicted == required or not connection.usable:
                raise
            return connection.evaluate(inputs, required, self.spec.timeout)

    @property
    def device(self) -> str:
        """What computes; as long as no worker runs, what was asked for."""
        return self._connection.device if self._connection else self.spec.device

    def info(self) -> dict[str, Any]:
        """Return what computes, and how long that takes; see `RootstockCalculator.info`."""
        connection = self.connection()
        record = read_build(connection.launch.build) if connection.launch.build else None
        ready, model = connection.ready, self.spec.model
        if self._weights is None:
            self._weights = [asdict(file) for file in model.weights()]
        return {
            "rootstock": __version__,
            "environment": connection.launch.name,
            "environment_sha256": model.source.sha256,
            "launch": connection.launch.mode,
            "root": str(model.layout.root),
            "build": record.digest if record else None,
            "lock_sha256": record.lock_sha256 if record else None,
            "accelerator": record.computes_on if record else None,
            "model": model.argument,
            "setup_kwargs": dict(self.spec.options),
            "calculator": ready.get("calculator"),
            "properties": connection.properties,
            "extra_properties": dict(self.spec.capabilities.extra_properties),
            "callable_methods": list(self.spec.capabilities.methods),
            "versions": ready.get("versions"),
            "weights": self._weights or None,
            "methods": methods_of(
                model.source, model.argument, record, [file["sha256"] for file in self._weights], self.spec.options
            ).sentence,
            "device": connection.device,
            **{key: None if connection.device == "cpu" else ready.get(key) for key in ("gpu", "gpu_uuid")},
            **{key: ready.get(key) for key in ("threads", "host", "pid", "executable")},
            "start_s": connection.start_s,
            "setup_s": ready.get("setup_s"),
            "calls": self.timings.summary(),
            "batches": {"hook": ready.get("batch"), **vars(self.batches)},
            "log": str(connection.log),
        }
