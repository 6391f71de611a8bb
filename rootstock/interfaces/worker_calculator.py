"""The worker of a calculator: which one it uses, when it starts, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from rootstock.client.mpi import worker_session
from rootstock.client.session import WorkerSession, WorkerSpec
from rootstock.client.sharing import share_equal
from rootstock.interfaces.arguments import with_absolute_paths
from rootstock.interfaces.many import ManyCalculator


class WorkerCalculator(ManyCalculator):
    """The part of a calculator that knows its worker."""

    _comm: Any
    _shared = False  # pickles of before 2026.12 hold none

    def _session_for(self, spec: WorkerSpec, arguments: Mapping[str, Any]) -> WorkerSession:
        session = worker_session(lambda: spec, self._comm)
        # Ranks of an MPI program would not let go of it at the same time; they have one worker for all of them anyway.
        if not self._shared or type(session) is not WorkerSession:
            return session
        origin = f"{spec.model.build_name} {spec.model.source.sha256}"
        return share_equal(origin, with_absolute_paths(arguments), lambda: session)

    def start(self) -> Self:
        """Start the worker now, if it is not running, and wait until the model is loaded."""
        self._sync_parameters()
        self._session.join(self)
        self._session.properties()
        return self

    @property
    def device(self) -> str:
        """What computes; as long as no worker runs, what was asked for. A model may ignore its device."""
        return self._session.device

    def info(self) -> dict[str, Any]:
        """Return what computes: all that a methods section needs, as JSON can hold it. Asking starts the worker.

        Returns
        -------
        dict
            Environment, build and lock (by their hashes), the versions of every package, model and options, device
            and GPU, node, threads, and seconds: of the start, and of the calls (`Timings.summary`).
        """
        self._sync_parameters()
        return self._session.info()

    def __enter__(self) -> Self:
        return self.start()
