"""One worker for one or several calculators: started when it is first needed, replaced when it is lost."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rootstock import __version__
from rootstock.client.connection import Client
from rootstock.client.inputs import Inputs
from rootstock.client.launch import ResolvedModel
from rootstock.client.process import forks
from rootstock.client.shared_arrays import Result
from rootstock.client.threads import thread_count
from rootstock.client.timeouts import EVALUATION_S, START_S
from rootstock.errors import ModelError, NonFiniteError, WorkerError, WorkerStartError
from rootstock.root.records import read_build


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
        Threads of the worker's numerical libraries; None: what ``OMP_NUM_THREADS`` says, or else the processors
        that this process may use, shared among its workers.
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

    def start(self, *, for_all_ranks: bool = False) -> Client:
        """Start a worker and wait until it has loaded the model; `for_all_ranks` as in `thread_count`."""
        threads = self.threads
        if threads is None:
            threads = 0 if "OMP_NUM_THREADS" in os.environ else thread_count(for_all_ranks)  # 0: the worker inherits it
        launch, argument = self.model.launch(threads), self.model.argument
        try:
            return Client(launch, argument, self.device, self.options, start_timeout=self.start_timeout, log=self.log)
        except WorkerStartError as error:
            error.hint = error.hint or self.model.source.doubt(argument)
            raise


class Timings:
    """How long evaluations took, from the question to the answer."""

    RECENT = 1000

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0
        self._recent: deque[float] = deque(maxlen=self.RECENT)
        self.add_recent = self._recent.append

    def summary(self) -> dict[str, float]:
        """Return the number of evaluations and their mean, and of the last thousand the median, 95 % and maximum."""
        if not self.count:
            return {"count": 0}
        recent = sorted(self._recent)
        return {
            "count": self.count,
            "mean_s": self.total / self.count,
            "median_s": recent[len(recent) // 2],
            "p95_s": recent[len(recent) * 95 // 100],
            "max_s": recent[-1],
        }


class Session:
    """A worker that calculators share.

    Each call is served by a worker that is ready: one that died, was interrupted in the middle of a frame, or belongs
    to the process that this one was forked from is replaced first.
    """

    _for_all_ranks = False

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self.timings = Timings()
        self._weights: list[dict[str, Any]] | None = None  # the files, with their hashes, once somebody asked
        self._client: Client | None = None
        self._lock, self._asking = threading.RLock(), False
        self._owner = forks()

    def client(self) -> Client:
        """Return a worker that is ready."""
        with self._own_lock():
            if self._asking:  # by this thread, in whose call a signal came: the lock keeps others out
                raise WorkerError(
                    "A signal handler asks a worker in the middle of the call that the signal interrupted.",
                    "Let the handler set a flag, and ask where the program looks at it, between two steps.",
                )
            if not self.users:
                raise WorkerError("This calculator is closed.", "Make a new one, or enter it again (with calc: ...).")
            if self._client is not None and not self._client.settle(self.spec.timeout):
                self._client.kill()
                self._client = None
            if self._client is None:
                self._client = self.spec.start(for_all_ranks=self._for_all_ranks)
            return self._client

    def properties(self) -> list[str]:
        """Return what the model can compute, by ASE's names. Asking starts the worker."""
        return self.client().properties

    def evaluate(self, inputs: Inputs, usual: int, needed: int) -> Result:
        """Compute properties; see `Client.evaluate`.

        Parameters
        ----------
        inputs : Inputs
        usual, needed : int
            What is computed, unless the model cannot; and what must be, a part of it.
        """
        with self._own_lock():
            client, timings = self._client, self.timings
            if client is None or not client.idle or self._asking:
                client = self.client()
            begun = time.perf_counter()
            try:
                self._asking = True  # nothing can interrupt between this and the try, nor between finally and its line
                results = self._ask(client, inputs, usual, needed)
            except WorkerError:
                if not client.usable:
                    self._client = None  # nothing of a lost worker is kept
                raise
            finally:
                self._asking = False
            took = time.perf_counter() - begun
            timings.count += 1
            timings.total += took
            timings.add_recent(took)
            return results

    def _ask(self, client: Client, inputs: Inputs, usual: int, needed: int) -> Result:
        try:
            return client.evaluate(inputs, usual, self.spec.timeout)
        except (ModelError, NonFiniteError):
            # What nobody has asked for must not be in the way: a stress that is not finite, or takes too much memory.
            if usual == needed or not client.usable:
                raise
            return client.evaluate(inputs, needed, self.spec.timeout)

    def info(self) -> dict[str, Any]:
        """Return what computes, and how long that takes; see `RootstockCalculator.info`."""
        client = self.client()
        record = read_build(client.launch.build) if client.launch.build else None
        ready, model = client.ready, self.spec.model
        if self._weights is None:
            self._weights = [asdict(file) for file in model.weights()]
        return {
            "rootstock": __version__,
            "environment": client.launch.name,
            "environment_sha256": model.source.sha256,
            "launch": client.launch.mode,
            "root": str(model.layout.root),
            "build": record.digest if record else None,
            "lock_sha256": record.lock_sha256 if record else None,
            "accelerator": record.accelerator if record else None,
            "model": model.argument,
            "setup_kwargs": dict(self.spec.options),
            "calculator": ready.get("calculator"),
            "properties": client.properties,
            "versions": ready.get("versions"),
            "weights": self._weights or None,
            "device": self.spec.device,
            **{key: ready.get(key) for key in ("gpu", "threads", "host", "pid", "executable")},
            "start_s": client.start_s,
            "setup_s": ready.get("setup_s"),
            "calls": self.timings.summary(),
            "log": str(client.log),
        }

    def _own_lock(self) -> Any:
        if self._owner != forks():  # forked: the worker, and whoever holds the lock, are the parent's
            self._lock, self._asking, self._client, self._owner = threading.RLock(), False, None, forks()
        return self._lock

    def release(self, user: Any) -> None:
        """End the worker if `user` was the last that needs it."""
        self.users.discard(user)
        if not self.users and self._client is not None and self._owner == forks():
            self._client.close()
            self._client = None
