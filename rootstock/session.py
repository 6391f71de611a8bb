"""One worker for one or several calculators: started when it is first needed, replaced when it is lost."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootstock.client import Client, Result
from rootstock.environment import EnvironmentManager
from rootstock.errors import WorkerError, WorkerStartError
from rootstock.gpu import no_gpu
from rootstock.inputs import Inputs
from rootstock.sources import EnvironmentSource
from rootstock.spawn import forks

_alive: weakref.WeakSet[Client] = weakref.WeakSet()


@dataclass(frozen=True)
class WorkerSpec:
    """Everything that is needed to start a worker, here or elsewhere.

    Attributes
    ----------
    manager : EnvironmentManager
        The root.
    source : EnvironmentSource
        The environment.
    model, device : str
        Arguments of ``setup()``.
    options : Mapping[str, Any]
        Further keyword arguments of ``setup()``.
    mode : str
        How to launch; see `EnvironmentManager.launch`.
    threads : int or None
        Threads of the worker's numerical libraries; None: what ``OMP_NUM_THREADS`` says, or else the processors
        that this process may use, shared among its workers.
    start_timeout, timeout : float
        Seconds for the start, and for one evaluation.
    log : Path or None
        Where the worker's output goes.
    """

    manager: EnvironmentManager
    source: EnvironmentSource
    model: str
    device: str
    options: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "auto"
    threads: int | None = None
    start_timeout: float = 600.0
    timeout: float = 3600.0
    log: Path | None = None

    def start(self, on_progress: Callable[[str], None] | None = None) -> Client:
        """Start a worker and wait until it has loaded the model."""
        launch = self.manager.launch(self.source, self.mode, self._thread_count(), self.device)
        try:
            client = Client(
                launch, self.model, self.device, self.options,
                start_timeout=self.start_timeout, log=self.log, on_progress=on_progress,
            )  # fmt: skip
        except WorkerStartError as error:
            gpu = no_gpu() if self.device.startswith("cuda") else ""
            error.hint = error.hint or self.source.doubt(self.model) or gpu.replace("\n", ". ")
            raise
        _alive.add(client)
        return client

    def _thread_count(self) -> int:
        if self.threads is not None:
            return self.threads
        if "OMP_NUM_THREADS" in os.environ:
            return 0  # the worker inherits it
        # Threads beyond the processors make each other wait: two workers with two threads each on two cores have
        # been seen to run sixty times slower.
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, processors // (1 + sum(client.usable for client in _alive)))


class Session:
    """A worker that calculators share.

    Each call is served by a worker that is ready: one that died, was interrupted in the middle of a frame, or belongs
    to the process that this one was forked from is replaced first.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self._client: Client | None = None
        self._lock = threading.RLock()
        self._owner = forks()

    def client(self) -> Client:
        """Return a worker that is ready."""
        with self._own_lock():
            if not self.users:
                raise WorkerError("This calculator is closed.", "Make a new one, or enter it again (with calc: ...).")
            if self._client is not None and not self._client.settle(self.spec.timeout):
                self._client.kill()
                self._client = None
            if self._client is None:
                self._client = self.spec.start()
            return self._client

    def evaluate(self, inputs: Inputs, properties: int) -> Result:
        """Compute properties; see `Client.evaluate`."""
        with self._own_lock():
            client = self._client
            if client is None or not client.idle:
                client = self.client()
            try:
                return client.evaluate(inputs, properties, self.spec.timeout)
            except WorkerError:
                if not client.usable:
                    self._client = None  # nothing of a lost worker is kept
                raise

    def _own_lock(self) -> Any:
        if self._owner != forks():  # forked: the worker, and whoever holds the lock, are the parent's
            self._lock, self._client, self._owner = threading.RLock(), None, forks()
        return self._lock

    def release(self, user: Any) -> None:
        """End the worker if `user` was the last that needs it."""
        self.users.discard(user)
        if not self.users and self._client is not None and self._owner == forks():
            self._client.close()
            self._client = None
