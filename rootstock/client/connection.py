"""The client's end: one worker, asked one thing at a time."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootstock.client.dialogue import Dialogue
from rootstock.client.extra_results import ExtraReader, told_of, with_extras
from rootstock.client.handshake import wait_until_ready
from rootstock.client.inputs import Inputs
from rootstock.client.peer import GOODBYE_S, Phase
from rootstock.client.process import FRAME_S, Launch, WorkerProcess, forks
from rootstock.client.reported import USELESS, reported_error, useless_error
from rootstock.client.shared_arrays import Arrays, Result, sections
from rootstock.errors import (
    UnsupportedPropertyError,
    WorkerError,
    WorkerProtocolError,
)
from rootstock.worker.channel.endpoint import PeerGoneError
from rootstock.worker.channel.failures import Failure, decode_failure
from rootstock.worker.channel.frames import Frame, Kind
from rootstock.worker.channel.memory import INFO_BIT, PROPERTY_BITS
from rootstock.worker.channel.running_time import running_time

if TYPE_CHECKING:
    from rootstock.config.capabilities import Capabilities
    from rootstock.root.lock import Report

_CALLS_OF_A_LOOK = 256
_Answer = tuple[Frame, dict[str, Any], Failure | None]  # with what is reported, if it is a failure


class WorkerConnection(Dialogue):
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
    capabilities : Capabilities, optional
        What the environment file says of the model: its extra results and methods travel.

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
        capabilities: Capabilities | None = None,
    ) -> None:
        self.launch = launch
        self.largest_part = 0
        started = time.perf_counter()
        self.process = WorkerProcess(launch, log)
        super().__init__(_finish, self.process)
        self.process.owner = weakref.ref(self)
        setup = {
            "environment": str(launch.environment_file), "model": model, "device": device, "options": dict(options),
            "root": str(launch.layout.root), "cache": str(launch.layout.cache), "patience": patience,
            "listed": listed and list(listed), **(told := told_of(capabilities)),
        }  # fmt: skip
        try:
            self.process.start()
            self.pid, self.log = self.process.pid, self.process.log
            self.arrays = Arrays(self.process.memory, self.process.title)
            self.extras = ExtraReader(told, self.process.memory, self.process.title)
            self.ready = wait_until_ready(self.process, setup, start_timeout, on_progress)
            self.properties = [name for name in PROPERTY_BITS if name in self.ready["properties"]]
            self.device = str(self.ready.get("device") or device)
            self.offered = sum(PROPERTY_BITS[name] for name in self.properties)
        except BaseException:
            self.kill()
            raise
        self.start_s = time.perf_counter() - started

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
        frame, said, report = self._exchange(inputs, properties, timeout)
        if report is not None:
            self.arrays.shown = None
            if report.code in USELESS:
                self.kill()
                raise useless_error(self.process, report)
            raise reported_error(self.process, report)[0]
        results = self.arrays.results(frame.properties, properties)
        return self._with_extras(results, said.get("extras")) if self.extras else results

    def _with_extras(self, results: Result, said: Any) -> Result:
        try:
            return with_extras(results, self.extras.results(said, self.arrays.atoms))
        except PeerGoneError:
            raise self.gone() from None
        except WorkerProtocolError as error:
            self.kill()
            self.process.explain(error)
            raise

    def _exchange(self, inputs: Inputs, properties: int, timeout: float) -> _Answer:
        if self.phase is not Phase.IDLE:
            raise WorkerProtocolError(f"The worker {self.process.title} is not ready for a question.")
        self.phase, arrays = Phase.BUSY, self.arrays
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
            if answer[0].properties & properties != properties and answer[2] is None:
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

    def _receive(self, timeout: float) -> _Answer:
        """Wait for the answer to the last question."""
        frame, content = self.process.endpoint.receive(timeout, FRAME_S)
        if frame.kind not in (Kind.RESULT, Kind.FAILURE) or frame.sequence != self.sequence:
            raise self.unexpected(frame)
        if frame.kind == Kind.FAILURE:
            return frame, content, decode_failure(content)
        if (frame.atoms, frame.capacity) != (self.arrays.atoms, self.process.memory.capacity):
            raise WorkerProtocolError(f"The worker {self.process.title} answered for other atoms than asked about.")
        if content and isinstance(content.get("device"), str):
            self.device = content["device"]
        return frame, content, None


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
