"""What a session knows of many structures, and how it asks about them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from rootstock.client.batch_arrays import Question
from rootstock.client.batch_exchange import Answer, Exchange, Pace
from rootstock.client.peer import PeerSession, closed_meanwhile
from rootstock.errors import WorkerError
from rootstock.worker.channel.running_time import running_time

if TYPE_CHECKING:
    from rootstock.client.connection import WorkerConnection

logger = logging.getLogger("rootstock")

_TURN_S = 0.005  # enough for a thread that waits to take the lock
# How much models compute together, as their workers have found out: the next worker begins there.
_SIZES: dict[str, dict[str, float]] = {}


class Batches:
    """What is known of many structures.

    That is how many were computed, for how many seconds workers were at it, and of how many atoms the largest part was
    of late.
    """

    def __init__(self) -> None:
        self.structures, self.seconds, self.atoms = 0, 0.0, 0
        self.refusals, self.reason = 0, ""

    def note(self, answer: Answer) -> None:
        """Take over what a worker says of an exchange."""
        self.structures += len(answer.outcomes)
        self.seconds += answer.worked
        self.atoms = answer.atoms or self.atoms
        self.reason = answer.reason or self.reason
        if answer.refusals > self.refusals:
            logger.warning(
                "calculate_batch failed %d times where each structure alone did not: %s. After three times "
                "structures are computed one by one.", answer.refusals, answer.reason,
            )  # fmt: skip
        self.refusals = max(self.refusals, answer.refusals)


class BatchSession(PeerSession):
    """The part of a worker's session that asks about many structures at once."""

    spec: Any
    _connection: WorkerConnection | None
    _busy: bool

    def __init__(self) -> None:
        super().__init__()
        self.batches, self._pace = Batches(), Pace()
        # In whichever pass over many:
        self.sound: Question | None = None  # the smallest structure that has worked
        self.unfit = inf  # atoms: so many did not fit into a fresh worker
        self.fits = 0  # atoms of the largest structure that has worked
        self.confirmed = False  # whether fresh workers have failed, too, as long as no structure has worked

    def _reset(self) -> None:
        super()._reset()
        self._wanted = False

    def connection(self) -> WorkerConnection:
        """Return a worker that is ready."""
        raise NotImplementedError

    def ask_many(
        self, questions: Sequence[Question], *, alone: bool, seconds: float, enough: Callable[[], bool] = lambda: False
    ) -> Answer:  # fmt: skip
        """Compute as many of some structures as can be done in some time, at least one part of them.

        Parameters
        ----------
        questions : sequence of Question
        alone : bool
            Whether each structure is computed by itself.
        seconds : float
            After these, or when another thread waits, the answer comes once the part that is being computed is done.
        enough : callable
            Whether it is to come then in any case.

        Raises
        ------
        WorkerError
            If no worker can be started, or the calculator is closed. A worker that was lost is told in the answer.
        """
        with self.own_lock():
            connection, until = self.connection(), running_time() + seconds
            exchange = Exchange(
                connection, questions, self._pace, self.spec.timeout,
                lambda: self._wanted or running_time() > until or enough(),
            )  # fmt: skip
            key = self._batch_key()
            try:
                self._busy, self._long_call = True, threading.get_ident()
                answer = exchange.run(alone=alone, sizes=_SIZES.get(key, {}))
            except (WorkerError, OSError, ValueError):
                if not self.users:  # another thread has let go of what was in use here
                    raise closed_meanwhile() from None
                raise
            finally:
                self._busy, self._long_call = False, 0
                if not connection.usable:
                    self._connection = None
            if answer.error is not None:
                if not self.users:
                    raise closed_meanwhile()
                self._settle(0.0)  # raises if Python ends: that is the reason
            if answer.sizes:
                _SIZES[key] = {**_SIZES.get(key, {}), **answer.sizes}
            self.batches.note(answer)
            return answer

    def renew(self) -> None:
        """End the worker: the next question has a fresh one."""
        with self.own_lock():
            self._drop()

    def hurry(self) -> None:
        """Have an exchange end when the part that is being computed is done; any thread may, also a signal handler."""
        self._hurry()

    def _hurry(self) -> None:
        self._wanted = True
        if (connection := self._connection) is not None and connection.batches is not None:
            connection.batches.memory.stop()

    def give_way(self) -> None:
        """Let the threads come next that wait for a worker which computes many structures."""
        if self._wanted:
            self._wanted = False
            time.sleep(_TURN_S)

    def _batch_key(self) -> str:
        """Return what the size of a batch depends on."""
        spec = self.spec
        model = spec.model.build_name or spec.model.source.sha256
        return json.dumps([str(spec.model.layout.root), model, spec.model.argument, spec.device, dict(spec.options)])
