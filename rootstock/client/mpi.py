"""MPI programs: one worker, on rank 0, for all ranks of a communicator that run the same simulation."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from rootstock.client.batch_arrays import Question
from rootstock.client.batch_exchange import Answer
from rootstock.client.inputs import Inputs
from rootstock.client.method_call import MethodCall
from rootstock.client.session import WorkerSession, WorkerSpec
from rootstock.client.shared_arrays import Result
from rootstock.errors import ConfigurationError, WorkerTimeoutError
from rootstock.worker.channel.running_time import running_time

logger = logging.getLogger("rootstock")

_HEARTBEAT_S = 30.0
_SPIN_S = 0.002  # then waiting ranks sleep: the worker needs their processors
_NAP_S = 0.0005
_APART_A = 1e-6  # the same simulation on processors of two kinds differs by rounding

T = TypeVar("T")


def worker_session(find_spec: Callable[[], WorkerSpec], comm: Any = None) -> WorkerSession:
    """Return a session for the ranks of a communicator.

    Parameters
    ----------
    find_spec : callable
        Returns how to start the worker.
    comm : communicator, optional
        Of mpi4py or of ASE's kind. None: `ase.parallel.world`.
    """
    from ase.parallel import MPI4PY, world

    if comm is None:
        comm = world
    elif hasattr(comm, "Get_rank"):
        comm = MPI4PY(comm)
    return WorkerSession(find_spec) if comm.size == 1 else ParallelSession(find_spec, comm)


class ParallelSession(WorkerSession):
    """A session in which every rank of a communicator asks for the same thing at the same time.

    That is what a program does that runs the same lines on all of them. Rank 0 has the worker, and tells the others
    its answers, errors too.

    Parameters
    ----------
    find_spec : callable
        Returns how rank 0 starts the worker.
    comm : communicator
        Of ASE's kind.
    """

    _for_all_ranks = True

    def __init__(self, find_spec: Callable[[], WorkerSpec], comm: Any) -> None:
        super().__init__(find_spec)
        self._comm = comm
        self._device = ""
        self._info: dict[str, Any] = {}  # known to every rank once the worker was started

    def properties(self) -> list[str]:
        if not self._info:
            self._info = self._together("start", super().info)
        return list(self._info["properties"])

    def evaluate(self, inputs: Inputs, predicted: int, required: int) -> Result:
        """Compute properties, with the same arguments on every rank.

        Parameters
        ----------
        inputs : Inputs
        predicted, required : int
            As `WorkerSession.evaluate`.
        """
        self.properties()
        compute = functools.partial(super().evaluate, inputs, predicted, required)
        question = (predicted, required, inputs.rest, inputs.positions)
        result, self._device = self._together(question, lambda: (compute(), super(ParallelSession, self).device))
        return result

    def call_method(self, request: MethodCall) -> Any:
        """Call a method of the calculator, with the same arguments on every rank.

        Parameters
        ----------
        request : MethodCall
        """
        self.properties()
        call = functools.partial(super().call_method, request)
        inputs = request.inputs
        asked = (request.name, request.arguments, request.keywords, request.structure, inputs.rest, inputs.positions)
        return self._together(asked, call)

    def ask_many(
        self, questions: Sequence[Question], *, alone: bool, seconds: float, enough: Callable[[], bool] = lambda: False
    ) -> Answer:  # fmt: skip
        """Compute some of many structures, with the same arguments on every rank.

        Parameters
        ----------
        questions, alone, seconds, enough
            As `WorkerSession.ask_many`.
        """
        self.properties()
        compute = functools.partial(super().ask_many, questions, alone=alone, seconds=seconds, enough=enough)
        asked = tuple((each.number, each.asked, each.inputs.rest, each.inputs.positions) for each in questions)
        answer, self._device = self._together((alone, asked), lambda: (compute(), super(ParallelSession, self).device))
        return answer

    @property
    def device(self) -> str:
        """What computes, on rank 0; as long as nothing has, what was asked for."""
        return self._device or self.spec.device

    def info(self) -> dict[str, Any]:
        """Return what computes. It may be asked by one rank alone, once the worker was started by all."""
        self.properties()
        return super().info() if self._comm.rank == 0 else {**self._info, "device": self.device}

    def _together(self, question: Any, answer: Callable[[], T]) -> T:
        from ase.parallel import broadcast

        self._meet("to ask the same")
        spec, model = self.spec, self.spec.model
        # Nodes of two kinds may have builds of their own: the worker runs on the first.
        environment = model.source.name if model.registered else str(model.source.path)
        request = (str(model.layout.root), environment, model.argument, spec.device, spec.options, question)
        if self._comm.sum_scalar(int(not _same(broadcast(request, 0, self._comm), request))):
            raise ConfigurationError(
                f"The {self._comm.size} MPI ranks ask for different atoms or properties at the same time.",
                "One worker on rank 0 serves a program in which all ranks do the same. Where each has atoms of its "
                "own, give each a worker: RootstockCalculator(..., comm=MPI.COMM_SELF).",
            )
        outcome: tuple[Any, BaseException | None] = (None, None)
        if self._comm.rank == 0:
            try:
                outcome = answer(), None
            except BaseException as error:  # noqa: BLE001  # Ctrl-C too: the others wait for rank 0
                outcome = None, error
        self._meet("for rank 0 to compute")
        result, failure = broadcast(outcome, 0, self._comm)
        if failure is not None:
            raise failure
        return cast(T, result)

    def _meet(self, purpose: str) -> None:
        """Wait until every rank is here, asleep where the communicator can do that.

        A rank that waits in MPI's own barrier runs its processor at full speed, and would do so for ever if another
        rank never came.
        """
        mpi = self._comm
        while mpi is not None and not hasattr(mpi, "Ibarrier"):  # ASE's world holds ASE's object, which holds mpi4py's
            mpi = getattr(mpi, "comm", None)
        if mpi is None:
            self._comm.barrier()
            return
        limit = self.spec.start_timeout + self.spec.timeout
        barrier, begun = mpi.Ibarrier(), running_time()
        last_warning = begun
        while not barrier.Test():
            waited = (now := running_time()) - begun
            if waited > limit:
                raise WorkerTimeoutError(
                    f"MPI rank {self._comm.rank} waited {waited:.0f} s for the other ranks {purpose}.",
                    "All ranks must ask; where each has atoms of its own: RootstockCalculator(..., comm=MPI.COMM_SELF)",
                )
            if now - last_warning > _HEARTBEAT_S:
                last_warning = now
                logger.warning("MPI rank %d still waits for the others %s, %.0f s.", self._comm.rank, purpose, waited)
            time.sleep(_NAP_S if waited > _SPIN_S else 0)


def _same(first: Any, other: Any) -> bool:
    """Compare two questions; positions, the only arrays, need not agree to the last bit."""
    if isinstance(first, np.ndarray) and isinstance(other, np.ndarray):
        return first.shape == other.shape and bool(np.abs(first - other).max(initial=0.0) < _APART_A)
    if type(first) is tuple and type(other) is tuple:
        return len(first) == len(other) and all(map(_same, first, other))
    return bool(first == other)
