"""Compute many structures: together where the calculator has ``calculate_batch``, one after the other elsewhere.

A batch is computed in parts, each announced before it begins. So the client, who owns the memory, knows what is done
and what was being computed when this process ends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from ase import Atoms

from rootstock.errors import WorkerProtocolError
from rootstock.worker.batch_hook import BatchHook
from rootstock.worker.batch_images import Images
from rootstock.worker.batch_size import BatchSize
from rootstock.worker.batch_structures import Structures
from rootstock.worker.channel.batch_memory import FAILED, BatchMemory
from rootstock.worker.channel.endpoint import Endpoint
from rootstock.worker.channel.failures import FailureCode, encode_failure
from rootstock.worker.channel.frames import Frame, Kind
from rootstock.worker.device import computing_device, lost_gpu
from rootstock.worker.device_memory import free_memory
from rootstock.worker.evaluate import Evaluator
from rootstock.worker.failure_codes import code_of

_MESSAGE, _TRACEBACK = 2000, 4000  # characters of each failure: there may be thousands
_FAILURES = 200  # in one frame
_LOOP_S = 0.02, 0.1  # one after the other, a part takes about so long, and no more structures than these
_LOOP_MOST = 256


class LostGpuError(Exception):
    """The GPU refuses whatever is asked of it from now on.

    Attributes
    ----------
    failure : dict
        For the FAILURE frame.
    """

    def __init__(self, failure: dict[str, Any]) -> None:
        super().__init__()
        self.failure = failure


class _Trouble(NamedTuple):
    """What an exception said; the exception itself would keep arrays alive."""

    failure: dict[str, Any]
    out_of_memory: bool
    declined: bool


class _Part(NamedTuple):
    """Structures that are announced together.

    `images` are those that are computed together, with whether each has a stress; empty if they are not.
    """

    begin: int
    end: int
    images: list[tuple[Atoms, bool]]
    cost: float
    size: BatchSize | None


class BatchEvaluator:
    """Answers BATCH frames.

    Parameters
    ----------
    evaluator : Evaluator
    endpoint : Endpoint
    device : str
        As it was asked for.
    """

    def __init__(self, evaluator: Evaluator, endpoint: Endpoint, device: str) -> None:
        self._evaluator, self._endpoint, self._device = evaluator, endpoint, device
        self._memory = BatchMemory(evaluator.memory)
        on_gpu = computing_device(device) != "cpu"
        self._hook = BatchHook(evaluator.calculator, on_gpu=on_gpu)
        # On a processor others may be busy, too: what this process took of it says more than what the clock says.
        self._clock = time.perf_counter if on_gpu else time.process_time
        self._loop = 1  # structures in a part that are computed one after the other
        self._failures: dict[int, dict[str, Any]] = {}
        self._told: tuple[int, int, bool] = (0, 0, False)
        self._sequence = self._most = 0
        self._most_of = (0, 0)  # how many structures, of those before which one
        self._batch: Structures

    def evaluate(self, frame: Frame, content: dict[str, Any]) -> dict[str, Any]:
        """Compute the structures of a frame, until all are done or the client wants to go on with something else.

        Parameters
        ----------
        frame : Frame
        content : dict

        Returns
        -------
        dict
            The content of the RESULT frame: the structures before ``begin`` are done.

        Raises
        ------
        LostGpuError
            If the GPU is of no more use. What was being computed then has been announced.
        WorkerProtocolError
            If the frame's numbers do not fit together.
        """
        begun = time.perf_counter()
        self._evaluator.forget()
        self._batch = batch = Structures(self._memory, frame, content)
        if extras := self._evaluator.extras:
            extras.begin_batch(self._memory.end)
        self._sequence, self._failures, self._most = frame.sequence, {}, 0
        alone = content.get("alone") is True
        try:
            for asked, limit in dict(content.get("sizes", {})).items():
                self._hook.resume(int(asked), float(limit))
        except (TypeError, ValueError) as error:
            raise WorkerProtocolError("Received sizes of batches that are no numbers.") from error
        at, images = 0, Images(batch, self._evaluator, self._hook)
        self._most_of = (len(batch), 0)
        while at < len(batch) and not (at and (batch.stopped or (extras and extras.enough))):
            part = self._next(at, images, alone=alone)
            self._tell(part.begin, part.end, together=bool(part.images))
            before, at = at, self._together(part) if part.images else self._one_by_one(part)
            images.drop(at, again=at == before)
        self._tell_failures(0)
        return {
            "begin": at,
            "seconds": time.perf_counter() - begun,
            "sizes": {str(asked): size.limit for asked, size in self._hook.sizes.items()},
            "atoms": self._most,
            "refusals": self._hook.refusals,
            "reason": self._hook.reason,
        }

    def _next(self, begin: int, images: Images, *, alone: bool) -> _Part:
        """Return the next part: as much as fits."""
        batch, asked = self._batch, self._batch.asked[begin]
        if alone or not self._hook.serves(asked) or not batch.suits[begin]:
            end, most = begin + 1, 1 if alone else self._loop
            while end < len(batch) and end - begin < most and not self._hook.serves(batch.asked[end]):
                end += 1
            return _Part(begin, end, [], 0.0, None)
        most, until = self._most_of
        last = begin + most if begin < until else len(batch)  # of what was too much at once, never as much again
        cost, end = images.cost(begin), begin + 1
        size = self._hook.size(asked, cost / batch.atoms[begin])
        while end < min(last, len(batch)) and batch.asked[end] == asked and batch.suits[end]:
            if cost + images.cost(end) > size.limit:
                break
            cost += images.cost(end)
            end += 1
        if end == begin + 1:  # it is computed as a single one is
            return _Part(begin, end, [], cost, size)
        return _Part(begin, end, [images.image(k) for k in range(begin, end)], cost, size)

    def _together(self, part: _Part) -> int:
        """Compute a part by the hook, and return where to go on."""
        atoms = sum(self._batch.atoms[part.begin : part.end])
        begun = self._clock()
        trouble, again, reason = self._ask_hook(part)
        took = self._clock() - begun
        if trouble is None and not again:
            assert part.size is not None
            part.size.took(part.cost, took)
            self._most = max(self._most, atoms)
            return part.end
        if trouble is not None:
            self._look_at_gpu(trouble)
            if trouble.out_of_memory:
                free_memory()
                assert part.size is not None
                part.size.too_large(part.cost)
                self._most_of = (part.end - part.begin) // 2, part.end
                return part.begin
            if trouble.declined:
                self._hook.decline(self._batch.asked[part.begin], trouble.failure["message"])
                return part.begin
            reason, again = f"{trouble.failure['type']}: {trouble.failure['message']}", [*range(part.begin, part.end)]
        alone = []
        for k in again:
            self._tell(k, k + 1, together=False)
            alone.append(self._one(k))
        if all(alone):
            self._hook.refuse(reason)
        return part.end

    def _ask_hook(self, part: _Part) -> tuple[_Trouble | None, list[int], str]:
        """Return what went wrong with all, or which structures have no results, and an example why."""
        again, reason, batch = [], "", self._batch
        try:
            names = self._evaluator.names(batch.asked[part.begin])
            found = self._hook.compute([image for image, _ in part.images], names)
        except BaseException as error:  # noqa: BLE001  # whatever a model raises is no reason to end
            return _trouble(error), [], ""
        for k, (_, has_stress), results in zip(range(part.begin, part.end), part.images, found, strict=True):
            try:
                if isinstance(results, BaseException):
                    raise results
                row = batch.row(k)
                bits = self._evaluator.store(results, row, batch.asked[k], has_stress=has_stress)
                self._put_extras(k, row, results)
                row["found"][...] = bits
            except BaseException as error:  # noqa: BLE001
                again.append(k)
                reason = f"{type(error).__name__}: {error}"
        return None, again, reason

    def _one_by_one(self, part: _Part) -> int:
        begun, clock, took, done = time.perf_counter(), self._clock(), 0.0, False
        end = part.begin
        while end < part.end and not (end > part.begin and (self._batch.stopped or took > _LOOP_S[1])):
            done = self._one(end)
            took = time.perf_counter() - begun
            end += 1
        if part.size is not None:  # a hook could have had it, with others
            if done:
                part.size.took(part.cost, self._clock() - clock)
            return end
        if end < part.end:
            self._loop = max(1, self._loop // 2)
            return end
        if part.end - part.begin == self._loop and took < _LOOP_S[0]:
            self._loop = min(2 * self._loop, _LOOP_MOST)
        elif took > _LOOP_S[1]:
            self._loop = max(1, self._loop // 2)
        return part.end

    def _one(self, k: int) -> bool:
        """Compute a structure as if it were asked for alone, and tell whether that worked."""
        trouble = self._attempt(k)
        if trouble is not None and trouble.out_of_memory:
            free_memory()  # in pieces, perhaps there was enough
            trouble = self._attempt(k)
        if trouble is not None:
            self._look_at_gpu(trouble)
            self._failures[k] = trouble.failure
            self._batch.views["found"][k] = FAILED
            self._tell_failures(_FAILURES)
        return trouble is None

    def _attempt(self, k: int) -> _Trouble | None:
        frame, row, info = self._batch.question(k)
        positions = row["positions"].copy()  # a model may change them in their place
        try:
            bits = self._evaluator.compute(frame, row, info)
            self._put_extras(k, row, self._evaluator.calculator.results)
            row["found"][...] = bits
        except BaseException as error:  # noqa: BLE001
            row["positions"][...] = positions
            return _trouble(error)
        return None

    def _put_extras(self, k: int, row: dict[str, Any], results: Mapping[str, Any]) -> None:
        if extras := self._evaluator.extras:
            row["extras"][...] = extras.put_block(results, self._batch.atoms[k], self._memory.fd)

    def _look_at_gpu(self, trouble: _Trouble) -> None:
        if lost_gpu(self._device):
            self._tell_failures(0)
            raise LostGpuError({**trouble.failure, "code": FailureCode.LOST_GPU.value})

    def _tell(self, begin: int, end: int, *, together: bool) -> None:
        self._told = begin, end, together
        content: dict[str, Any] = {"begin": begin, "end": end, "together": together}
        if self._failures:
            content["failures"] = {str(k): failure for k, failure in self._failures.items()}
            self._failures = {}
        self._endpoint.send(Frame(Kind.PROGRESS, sequence=self._sequence), content, timeout=float("inf"))

    def _tell_failures(self, most: int) -> None:
        """Tell of failures if there are more than so many."""
        if len(self._failures) > most:
            begin, end, together = self._told
            self._tell(begin, end, together=together)


def _trouble(error: BaseException) -> _Trouble:
    code = code_of(error)
    failure = encode_failure(error, code)
    failure["message"], failure["traceback"] = failure["message"][:_MESSAGE], failure["traceback"][-_TRACEBACK:]
    return _Trouble(failure, code is FailureCode.OUT_OF_MEMORY, type(error) is NotImplementedError)
