"""The client's end: one worker, asked one thing at a time."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootstock.client.batch_arrays import BatchArrays
from rootstock.client.handshake import wait_until_ready
from rootstock.client.inputs import Inputs
from rootstock.client.peer import GOODBYE_S, PeerConnection, Phase
from rootstock.client.process import FRAME_S, Launch, WorkerProcess, forks
from rootstock.client.reported import USELESS, reported_error, useless_error
from rootstock.client.shared_arrays import Arrays, Result, sections
from rootstock.errors import (
    UnsupportedPropertyError,
    WorkerDiedError,
    WorkerError,
    WorkerProtocolError,
    WorkerTimeoutError,
)
from rootstock.worker.channel.endpoint import PeerGoneError
from rootstock.worker.channel.failures import Failure, decode_failure
from rootstock.worker.channel.frames import Frame, Kind
from rootstock.worker.channel.memory import INFO_BIT, PROPERTY_BITS
from rootstock.worker.channel.running_time import running_time

if TYPE_CHECKING:
    from rootstock.root.lock import Report

_CALLS_OF_A_LOOK = 256


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
    listed : sequence of str, optional
        The properties that it may offer; by default all that the calculator declares.

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
    sequence : int
        How many questions it was asked.
    largest_part : int
        Of how many atoms was the largest part of a batch that it has done.

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
        listed: Sequence[str] | None = None,
    ) -> None:
        self.launch = launch
        self.sequence = self.largest_part = 0
        self._between = False  # whether the last frame was taken whole, and there is another to come
        self.batches: BatchArrays | None = None
        started = time.perf_counter()
        self.process = WorkerProcess(launch, log)
        super().__init__(_finish, self.process)
        self.process.owner = weakref.ref(self)
        setup = {
            "environment": str(launch.environment_file), "model": model, "device": device, "options": dict(options),
            "root": str(launch.layout.root), "cache": str(launch.layout.cache), "patience": patience,
            "listed": listed and list(listed),
        }  # fmt: skip
        try:
            self.process.start()
            self.pid, self.log = self.process.pid, self.process.log
            self._arrays = Arrays(self.process.memory, self.process.title)
            self.ready = wait_until_ready(self.process, setup, start_timeout, on_progress)
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
        if self.phase is Phase.WAITING and (self._between or self.process.endpoint.untouched):
            try:
                while self.hear(timeout, FRAME_S)[0].kind == Kind.PROGRESS:  # of a batch
                    pass
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
            raise UnsupportedPropertyError(f"The model {self.process.title} does not compute {name}.")
        frame, report = self._exchange(inputs, properties, timeout)
        if report is not None:
            self._arrays.shown = None
            if report.code in USELESS:
                self.kill()
                raise useless_error(self.process, report)
            raise reported_error(self.process, report)[0]
        return self._arrays.results(frame.properties, properties)

    # -- several frames for one question: see `rootstock.client.batch_exchange`

    def begin_batch(self) -> BatchArrays:
        """Begin a dialogue about many structures; what the worker knew of single atoms is gone.

        Raises
        ------
        WorkerProtocolError
            If another one has not come to its end.
        """
        if self.phase is not Phase.IDLE:
            raise WorkerProtocolError(f"The worker {self.process.title} is not ready for a question.")
        self.phase, self._between, self._arrays.shown = Phase.BUSY, False, None
        self.process.shorten_log()
        self.batches = self.batches or BatchArrays(self.process.memory, self.process.title)
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
            raise self._unexpected(frame)
        return frame, content

    def _exchange(self, inputs: Inputs, properties: int, timeout: float) -> tuple[Frame, Failure | None]:
        if self.phase is not Phase.IDLE:
            raise WorkerProtocolError(f"The worker {self.process.title} is not ready for a question.")
        self.phase, arrays = Phase.BUSY, self._arrays
        try:
            changes = arrays.put(inputs)
        except PeerGoneError:
            raise self.gone() from None
        except WorkerError:
            self.phase = Phase.IDLE  # no memory for so many atoms: the worker knows nothing of it
            raise
        self.sequence += 1
        if not self.sequence % _CALLS_OF_A_LOOK:  # in short calls the endpoint never looks
            self.process.shorten_log()
        atoms, capacity = arrays.atoms, self.process.memory.capacity
        frame = Frame(Kind.EVALUATE, properties, changes, arrays.present, 0, self.sequence, atoms, capacity)
        content = {"info": inputs.rest.info} if changes & INFO_BIT and inputs.rest.info else None
        try:
            if content is None:  # a frame of 48 bytes finds room
                self.process.endpoint.send(frame)
                rest = timeout
            else:
                begun = running_time()
                self.process.endpoint.send(frame, content, timeout=timeout)
                rest = max(0.0, begun + timeout - running_time())
            self.phase = Phase.WAITING
            answer = self._receive(rest)
            if answer[0].properties & properties != properties and answer[1] is None:
                name = sections(properties & ~answer[0].properties)[0].name
                raise WorkerProtocolError(f"The worker {self.process.title} was asked for {name}, and left it out.")
        except PeerGoneError:
            raise self.gone() from None
        except TimeoutError:
            raise self.too_late(timeout) from None
        except WorkerProtocolError as error:
            self.kill()
            self.process.explain(error)
            raise
        arrays.shown = inputs.state
        self.phase = Phase.IDLE
        return answer

    def _receive(self, timeout: float) -> tuple[Frame, Failure | None]:
        """Wait for the answer to the last question; and what it reports, if it is a failure."""
        frame, content = self.process.endpoint.receive(timeout, FRAME_S)
        if frame.kind not in (Kind.RESULT, Kind.FAILURE) or frame.sequence != self.sequence:
            raise self._unexpected(frame)
        if frame.kind == Kind.FAILURE:
            return frame, decode_failure(content)
        if (frame.atoms, frame.capacity) != (self._arrays.atoms, self.process.memory.capacity):
            raise WorkerProtocolError(f"The worker {self.process.title} answered for other atoms than asked about.")
        if content and isinstance(content.get("device"), str):
            self.device = content["device"]
        return frame, None

    def _unexpected(self, frame: Frame) -> WorkerProtocolError:
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
