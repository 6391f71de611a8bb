"""Questions to a worker and its answers, whatever they are about: which may follow what, and what an end means."""

from __future__ import annotations

from typing import Any

from rootstock.client.batch_arrays import BatchArrays
from rootstock.client.extra_results import ExtraReader
from rootstock.client.peer import PeerConnection, Phase
from rootstock.client.process import FRAME_S, WorkerProcess, forks
from rootstock.client.shared_arrays import Arrays
from rootstock.errors import WorkerDiedError, WorkerError, WorkerProtocolError, WorkerTimeoutError
from rootstock.worker.channel.endpoint import PeerGoneError
from rootstock.worker.channel.frames import Frame, Kind


class Dialogue(PeerConnection):
    """The part of a connection that does not depend on what is asked.

    Attributes
    ----------
    sequence : int
        How many questions the worker was asked.
    """

    process: WorkerProcess
    arrays: Arrays
    extras: ExtraReader
    batches: BatchArrays | None = None
    sequence = 0
    _between = False  # whether the last frame was taken whole, and there is another to come

    def settle(self, timeout: float) -> bool:
        """Make ready for the next evaluation; tell whether this worker can serve it.

        An evaluation that was interrupted (Ctrl-C) is waited for and its answer dropped. A worker whose channel was
        cut in the middle of a frame, that has died, or that belongs to the process this one was forked from,
        cannot serve.
        """
        if self._owner != forks():
            return False
        if self.phase is Phase.WAITING and (self._between or self.process.endpoint.untouched):
            try:
                while self.hear(timeout, FRAME_S)[0].kind == Kind.PROGRESS:  # of a batch
                    pass
                self.phase = Phase.IDLE
            except (PeerGoneError, TimeoutError, WorkerProtocolError):
                return False
        return self.phase is Phase.IDLE

    def begin(self) -> None:
        """Begin with a question that is no evaluation; what the worker knew of single atoms is gone.

        Raises
        ------
        WorkerProtocolError
            If another one has not come to its end.
        """
        if self.phase is not Phase.IDLE:
            raise WorkerProtocolError(f"The worker {self.process.title} is not ready for a question.")
        self.phase, self._between, self.arrays.shown = Phase.BUSY, False, None
        self.process.shorten_log()

    def begin_batch(self) -> BatchArrays:
        """Begin with a question about many structures; see `begin`."""
        self.begin()
        self.batches = self.batches or BatchArrays(self.process.memory, self.process.title, self.extras)
        return self.batches

    def hear(self, timeout: float, rest: float) -> tuple[Frame, dict[str, Any]]:
        """Return the next frame about the last question.

        Parameters
        ----------
        timeout, rest : float
            As of `Endpoint.receive`, which also says what is raised.
        """
        self._between = False
        frame, content = self.process.endpoint.receive(timeout, rest)
        self._between = frame.kind == Kind.PROGRESS
        if frame.sequence != self.sequence or frame.kind not in (Kind.PROGRESS, Kind.RESULT, Kind.FAILURE):
            raise self.unexpected(frame)
        return frame, content

    def unexpected(self, frame: Frame) -> WorkerProtocolError:
        """Return the error for an answer to something else."""
        said = f"answered with kind {frame.kind}, number {frame.sequence}; expected number {self.sequence}"
        return WorkerProtocolError(f"The worker {self.process.title} {said}.")

    def gone(self) -> WorkerError:
        """Let go of a worker that has ended, and return the error for it."""
        self.phase = Phase.OVER
        return self.process.died(WorkerDiedError, "during an evaluation")

    def too_late(self, timeout: float) -> WorkerTimeoutError:
        """End the worker and return the error for an answer that did not come, or not to its end."""
        half = not self.process.endpoint.untouched
        self.kill()
        how = "stopped in the middle of an answer" if half else f"gave no answer within {timeout:.0f} s"
        hint = "" if half else "If the model needs longer, pass a larger timeout=."
        return self.process.explain(WorkerTimeoutError(f"The worker {self.process.title} {how} and was ended.", hint))
