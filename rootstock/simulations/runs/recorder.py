"""Records results as they come: each waits a few seconds at most for the disk, and is then reported done."""

from __future__ import annotations

import _thread
import contextlib
import json
import platform
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from ase import Atoms

from rootstock.client.evaluated import FailureClass
from rootstock.errors import ConfigurationError
from rootstock.root.signals import start_thread
from rootstock.simulations.extxyz import frame
from rootstock.simulations.provenance import SOURCE
from rootstock.simulations.runs.index import Status, gpu_number
from rootstock.simulations.runs.parts import Disk, Parts, Result

DELAY_S = 5.0
_HELD = 16 * 2**20  # bytes that wait for the disk at most
_LONGEST = 2000  # characters of a message
_NOT_FINAL = (Status.MISSING, Status.PARTIAL)
_STATUS = {FailureClass.STRUCTURE: Status.FAILED_STRUCTURE, FailureClass.RESOURCE: Status.FAILED_RESOURCE}


class _Request:
    """Asks the thread to record what it holds, and to end if it is the last."""

    def __init__(self, *, last: bool) -> None:
        self.last, self._answered = last, False
        self.error: BaseException | None = None
        self._answer = _thread.allocate_lock()
        self._answer.acquire()

    def answer(self, error: BaseException | None) -> None:
        self.error, self._answered = error, True
        self._answer.release()

    def wait(self, thread: threading.Thread) -> None:
        """Wait for the answer; once interrupted, it can be waited for again."""
        while not self._answered and thread.is_alive():
            self._answer.acquire(timeout=1.0)


class Recorder:
    """Records results in parts of a run folder.

    A thread writes, which no signal interrupts. It syncs what has waited long enough, also while a slow structure is
    computed.

    Parameters
    ----------
    folder : Path
        Of the run.
    on_recorded : callable, optional
        Is given the indices that are recorded, in the thread that adds, syncs or closes.
    disk : Disk, optional
    clock : callable
        Returns seconds that never go back.
    delay : float [s]
        How long a result waits at most.
    """

    def __init__(
        self,
        folder: Path,
        on_recorded: Callable[[Sequence[int]], object] | None = None,
        *,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.monotonic,
        delay: float = DELAY_S,
    ) -> None:
        self._on_recorded = on_recorded
        self._parts, self._clock, self._delay = Parts(folder, disk or Disk()), clock, delay
        self._waiting: deque[tuple[float, Result]] = deque()  # with the time at which each was added
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[list[int] | BaseException] = queue.SimpleQueue()
        self._held, self._synced = 0, clock()
        self._thread: threading.Thread | None = None
        self.failed = 0

    def add(
        self, index: int, atoms: Atoms, *, converged: bool | None = None, steps: int = 0
    ) -> ConfigurationError | None:
        """Record the results of a structure; one that the format cannot hold is a failure.

        Parameters
        ----------
        index : int
        atoms : ase.Atoms
            With its results.
        converged : bool, optional
            Of a relaxation.
        steps : int
            How many it took.

        Returns
        -------
        ConfigurationError or None
            Why the format cannot hold it, in which case that is recorded as its failure.

        Raises
        ------
        OutputError
            If it, or one before, cannot be recorded.
        """
        try:
            content = frame(atoms).encode()
        except ConfigurationError as error:
            self.fail(index, FailureClass.STRUCTURE, error, describe(atoms))
            return error
        self._put(Result(index, Status.NOT_CONVERGED if converged is False else Status.DONE, content, steps))
        return None

    def add_partial(self, index: int, atoms: Atoms, steps: int) -> None:
        """Record where a relaxation is that is stopped.

        Parameters
        ----------
        index : int
        atoms : ase.Atoms
            Of these, positions and cell are read again.
        steps : int
            How many were taken.

        Raises
        ------
        OutputError
            If it, or one before, cannot be recorded.
        """
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        self._put(Result(index, Status.PARTIAL, frame(bare).encode(), steps))

    def fail(
        self, index: int, failure_class: FailureClass, error: Exception, structure: str = "", gpu: str = ""
    ) -> None:
        """Record that a structure has no results.

        Parameters
        ----------
        index : int
        failure_class : FailureClass
            One of the infrastructure is written down for people, and computed again.
        error : Exception
        structure : str
            As `describe` returns it.
        gpu : str
            The kind of GPU.

        Raises
        ------
        OutputError
            If it, or one before, cannot be recorded.
        """
        said = {
            "index": index, "class": str(failure_class), "error": type(error).__name__,
            "message": str(error)[:_LONGEST], "structure": structure[:_LONGEST], "gpu": gpu, "host": platform.node(),
            "time": datetime.now().astimezone().isoformat(timespec="microseconds"),
        }  # fmt: skip
        self.failed += failure_class is not FailureClass.INFRASTRUCTURE
        line = json.dumps(said).encode() + b"\n"
        self._put(Result(index, _STATUS.get(failure_class, Status.MISSING), line, gpu_number(gpu)))

    def sync(self) -> None:
        """Return when all that was added is recorded.

        Raises
        ------
        OutputError
            If something cannot be recorded. It is tried again with the next call.
        """
        self._ask(last=False)

    def close(self) -> None:
        """Record all that was added, and end.

        Raises
        ------
        OutputError
            If something cannot be recorded.
        """
        try:
            self._ask(last=True)
        finally:
            self._thread = None

    def _put(self, result: Result) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="rootstock-recorder", daemon=True)
            start_thread(self._thread)
        now = self._clock()
        self._waiting.append((now, result))  # which does not wake the thread: that costs as much as a frame
        self._held += len(result.content)
        if (error := self._tell()) is not None:
            raise error
        if self._held >= _HELD or now - self._synced >= self._delay:
            self.sync()

    def _ask(self, *, last: bool) -> None:
        if (thread := self._thread) is None:
            return
        request = _Request(last=last)
        self._requests.put(request)
        try:
            request.wait(thread)
        except BaseException:
            if last:  # interrupted once, it ends first what it has begun; twice, it leaves at once
                request.wait(thread)
                if request.error is not None:
                    raise request.error from None
            raise
        self._held, self._synced = 0, self._clock()
        self._tell()
        if request.error is not None:
            raise request.error

    def _tell(self) -> BaseException | None:
        """Report what the thread has recorded meanwhile, and return what went wrong."""
        error = None
        while not self._news.empty():
            said = self._news.get()
            if isinstance(said, BaseException):
                error = said
            elif self._on_recorded is not None:
                self._on_recorded(said)
        return error

    def _write(self) -> None:
        """Record what comes, in a thread of its own, until somebody asks for the last time."""
        held: list[tuple[float, Result]] = []
        look, failed = min(1.0, self._delay / 5), False
        while True:
            request = None
            with contextlib.suppress(queue.Empty):
                request = self._requests.get(timeout=look)
            while self._waiting:
                held.append(self._waiting.popleft())
            late = held and not failed and self._clock() - held[0][0] >= self._delay - look
            if request is None and not late:  # what failed waits for somebody who asks
                continue
            error = self._record([result for _, result in held])
            if failed := error is not None:
                if request is None:
                    self._news.put(error)
            else:
                held.clear()
            if request is not None:
                if request.last:
                    self._parts.close()
                request.answer(error)
                if request.last:
                    return

    def _record(self, results: Sequence[Result]) -> BaseException | None:
        if results:
            try:
                self._parts.record(results)
            except BaseException as error:  # noqa: BLE001  # raised where somebody asked
                return error
            self._news.put([result.index for result in results if result.status not in _NOT_FINAL])
        return None


def describe(atoms: Atoms, name: str = "") -> str:
    """Return what failures call a structure: where it comes from, and its formula.

    Parameters
    ----------
    atoms : ase.Atoms
    name : str
        File and frame; by default as the structure says.
    """
    name = name or str(atoms.info.get(SOURCE, ""))
    return f"{name}, {atoms.get_chemical_formula()}" if name else str(atoms.get_chemical_formula())
