"""The client's end: one worker, asked one thing at a time."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootstock.client.handshake import wait_until_ready
from rootstock.client.inputs import Inputs
from rootstock.client.peer import GOODBYE_S, PeerConnection, Phase
from rootstock.client.process import FRAME_S, Launch, WorkerProcess, forks
from rootstock.client.shared_arrays import Arrays, Result, sections
from rootstock.errors import (
    ModelError,
    UnsupportedPropertyError,
    WorkerDiedError,
    WorkerError,
    WorkerProtocolError,
    WorkerTimeoutError,
)
from rootstock.worker.channel.endpoint import PeerGoneError
from rootstock.worker.channel.failures import Failure, FailureCode, decode_failure
from rootstock.worker.channel.frames import Frame, Kind
from rootstock.worker.channel.memory import INFO_BIT, PROPERTY_BITS
from rootstock.worker.channel.running_time import running_time

if TYPE_CHECKING:
    from rootstock.root.lock import Report

_CALLS_OF_A_LOOK = 256

_KINDS: dict[FailureCode, tuple[type[WorkerError], str]] = {
    FailureCode.UNSUPPORTED_PROPERTY: (UnsupportedPropertyError, "model"),
    FailureCode.CANNOT_SERVE: (WorkerError, "worker"),
}
# Failures after which a worker cannot serve any more.
_USELESS = {
    FailureCode.LOST_GPU: "The GPU context is unusable after this error",
    FailureCode.CANNOT_SERVE: "The model, or the job, has set a limit under which the worker cannot go on",
}


class WorkerConnection(PeerConnection):
    """A started worker.

    Parameters
    ----------
    launch : Launch
        How to start it.
    model, device : str
        Arguments of the environment's ``setup()``.
    options : Mapping[str, Any]
        Further keyword arguments of ``setup()``; JSON must be able to hold them.
    start_timeout : float
        Seconds from the start of the process until the model is loaded.
    log : Path, optional
        Where the worker's output goes.
    on_progress : callable, optional
        Called with a line of text as the start proceeds. By default a start that takes long is logged.
    patience : float
        Seconds that a server may keep silent from which weights are fetched; 0: for ever.

    Attributes
    ----------
    pid : int
        Process number of what was started: the worker, or the ``uv`` that started it.
    log : Path
        Where the worker's output goes.
    ready : dict
        What the worker said about itself.
    properties : list of str
        What the model can compute, by ASE's names.
    start_s : float
        Seconds that the start took.

    Raises
    ------
    WorkerStartError
        If the worker does not become ready.
    """

    def __init__(
        self,
        launch: Launch,
        model: str,
        device: str,
        options: Mapping[str, Any],
        *,
        start_timeout: float,
        log: Path | None = None,
        on_progress: Report | None = None,
        patience: float = 0.0,
    ) -> None:
        self.launch = launch
        self._sequence = 0
        started = time.perf_counter()
        self._process = WorkerProcess(launch, log)
        super().__init__(_finish, self._process)
        self._process.owner = weakref.ref(self)
        setup = {
            "environment": str(launch.environment_file),
            "model": model,
            "device": device,
            "options": dict(options),
            "root": str(launch.layout.root),
            "cache": str(launch.layout.cache),
            "patience": patience,
        }
        try:
            self._process.start()
            self.pid, self.log = self._process.pid, self._process.log
            self._arrays = Arrays(self._process.memory, self._process.title)
            self.ready = wait_until_ready(self._process, setup, start_timeout, on_progress)
            self.properties = [name for name in PROPERTY_BITS if name in self.ready["properties"]]
            self.device = str(self.ready.get("device") or device)
            self.offered = sum(PROPERTY_BITS[name] for name in self.properties)
        except BaseException:
            self.kill()
            raise
        self.start_s = time.perf_counter() - started

    def settle(self, timeout: float) -> bool:
        """Make ready for the next evaluation; tell whether this worker can serve it.

        An evaluation that was interrupted (Ctrl-C) is waited for and its answer dropped. A worker whose channel was
        cut in the middle of a frame, that has died, or that belongs to the process this one was forked from,
        cannot serve.
        """
        if self._owner != forks():
            return False
        if self.phase is Phase.WAITING and self._process.endpoint.untouched:
            try:
                self._receive(timeout)
                self.phase = Phase.IDLE
            except (PeerGoneError, TimeoutError, WorkerProtocolError):
                return False
        return self.phase is Phase.IDLE

    def evaluate(self, inputs: Inputs, properties: int, timeout: float) -> Result:
        """Compute properties of atoms.

        Parameters
        ----------
        inputs : Inputs
            The atoms.
        properties : int
            What to compute, as bits of `rootstock.worker.channel.memory.PROPERTY_BITS`.
        timeout : float
            Seconds to wait for the answer.

        Returns
        -------
        dict of str to float or ndarray
            What was asked for, and what else the model computed on the way: energies in eV, lengths in Angstrom,
            stress in eV/Angstrom^3 in Voigt order, all float64.

        Raises
        ------
        ModelError
            If the model raised an exception; the worker lives on, unless the GPU refuses it anything else.
        UnsupportedPropertyError
            If it does not compute one of `properties`.
        NonFiniteError
            If a result is NaN or infinite.
        WorkerDiedError, WorkerTimeoutError, WorkerProtocolError
            If the worker is lost; this object is then of no more use.
        """
        if missing := properties & ~self.offered:
            name = sections(missing)[0].name
            raise UnsupportedPropertyError(f"The model {self._process.title} does not compute {name}.")
        frame, report = self._exchange(inputs, properties, timeout)
        if report is not None:
            self._arrays.shown = None
            kind, who = _KINDS.get(report.code, (ModelError, "model"))
            error = self._process.failure(kind, f"The {who} {self._process.title} failed", report)
            if report.code in _USELESS:
                self.kill()
                self._process.explain(error)  # in the output, CUDA says which assertion failed
                error.hint = f"{_USELESS[report.code]}; the worker was stopped. The next call starts a new one."
            raise error
        return self._arrays.results(frame.properties, properties)

    def _exchange(self, inputs: Inputs, properties: int, timeout: float) -> tuple[Frame, Failure | None]:
        if self.phase is not Phase.IDLE:
            raise WorkerProtocolError(f"The worker {self._process.title} is not ready for a question.")
        self.phase, arrays = Phase.BUSY, self._arrays
        try:
            changes = arrays.put(inputs)
        except PeerGoneError:
            raise self._gone() from None
        except WorkerError:
            self.phase = Phase.IDLE  # no memory for so many atoms: the worker knows nothing of it
            raise
        self._sequence += 1
        if not self._sequence % _CALLS_OF_A_LOOK:  # in short calls the endpoint never looks
            self._process.shorten_log()
        atoms, capacity = arrays.atoms, self._process.memory.capacity
        frame = Frame(Kind.EVALUATE, properties, changes, arrays.present, 0, self._sequence, atoms, capacity)
        content = {"info": inputs.rest.info} if changes & INFO_BIT and inputs.rest.info else None
        try:
            if content is None:  # a frame of 48 bytes finds room
                self._process.endpoint.send(frame)
                rest = timeout
            else:
                begun = running_time()
                self._process.endpoint.send(frame, content, timeout=timeout)
                rest = max(0.0, begun + timeout - running_time())
            self.phase = Phase.WAITING
            answer = self._receive(rest)
            if answer[0].properties & properties != properties and answer[1] is None:
                name = sections(properties & ~answer[0].properties)[0].name
                raise WorkerProtocolError(f"The worker {self._process.title} was asked for {name}, and left it out.")
        except PeerGoneError:
            raise self._gone() from None
        except TimeoutError:
            raise self._too_late(timeout) from None
        except WorkerProtocolError as error:
            self.kill()
            self._process.explain(error)
            raise
        arrays.shown = inputs.state
        self.phase = Phase.IDLE
        return answer

    def _receive(self, timeout: float) -> tuple[Frame, Failure | None]:
        """Wait for the answer to the last question; and what it reports, if it is a failure."""
        frame, content = self._process.endpoint.receive(timeout, FRAME_S)
        if frame.kind not in (Kind.RESULT, Kind.FAILURE) or frame.sequence != self._sequence:
            raise WorkerProtocolError(
                f"The worker {self._process.title} answered with kind {frame.kind}, number {frame.sequence}; "
                f"expected the answer to number {self._sequence}."
            )
        if frame.kind == Kind.FAILURE:
            return frame, decode_failure(content)
        if (frame.atoms, frame.capacity) != (self._arrays.atoms, self._process.memory.capacity):
            raise WorkerProtocolError(
                f"The worker {self._process.title} answered for other atoms than it was asked about."
            )
        if content and isinstance(content.get("device"), str):
            self.device = content["device"]
        return frame, None

    def _gone(self) -> WorkerError:
        """Let go of a worker that has ended, and return the error for it."""
        self.phase = Phase.OVER
        return self._process.died(WorkerDiedError, "during an evaluation")

    def _too_late(self, timeout: float) -> WorkerTimeoutError:
        """End the worker and return the error for an answer that did not come, or not to its end."""
        half = not self._process.endpoint.untouched
        self.kill()
        how = "stopped in the middle of an answer" if half else f"gave no answer within {timeout:.0f} s"
        error = WorkerTimeoutError(
            f"The worker {self._process.title} {how} and was ended.",
            "" if half else "If the model needs longer, pass a larger timeout=.",
        )
        return self._process.explain(error)


def _finish(process: WorkerProcess, owner: int, *, polite: bool = True) -> None:
    """End a worker."""
    if forks() != owner:
        return
    patience = 0.0
    try:
        if polite and process.answers:
            process.endpoint.send(Frame(Kind.CLOSE), timeout=0.0)
            patience = GOODBYE_S
    except (PeerGoneError, OSError):
        pass  # it does not listen
    finally:
        process.end(patience)
