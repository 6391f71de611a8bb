"""One exchange about many structures with one worker, of which nothing that was computed is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from rootstock.client.batch_arrays import BatchArrays, Question
from rootstock.client.evaluated import FailureClass
from rootstock.client.peer import Phase
from rootstock.client.process import FRAME_S
from rootstock.client.reported import reported_error, useless_error
from rootstock.client.shared_arrays import Result
from rootstock.errors import RootstockError, WorkerError, WorkerProtocolError
from rootstock.worker.channel.endpoint import PeerGoneError
from rootstock.worker.channel.failures import decode_failure
from rootstock.worker.channel.frames import MAX_ATOMS, Frame, Kind
from rootstock.worker.channel.running_time import running_time

if TYPE_CHECKING:
    from rootstock.client.connection import WorkerConnection

_LEAST_S, _TIMES, _SAMPLES = 60.0, 20, 3
_DIGITS, _MOST_SIZES = 9, 64  # of the numbers and of the sizes that a worker may tell


class Failed(NamedTuple):
    """Why a structure has no results, and whose fault that is."""

    error: RootstockError
    failure: FailureClass


class Pace:
    """How long parts took, so that one that hangs is noticed."""

    def __init__(self) -> None:
        self._of_an_atom: deque[float] = deque(maxlen=100)
        self._longest = 0.0

    def took(self, atoms: int, seconds: float) -> None:
        """Note how long a part took.

        Parameters
        ----------
        atoms : int
        seconds : float
        """
        self._of_an_atom.append(seconds / max(atoms, 1))
        self._longest = max(self._longest, seconds)

    def limit(self, structures: int, atoms: int, timeout: float, *, usual: bool) -> float:
        """Return how many seconds a part may take.

        Parameters
        ----------
        structures, atoms : int
            Of the part.
        timeout : float
            Seconds that one structure may take at most.
        usual : bool
            Whether the worker has done such a part before: the first compiles, perhaps.
        """
        limit = max(timeout, min(max(structures, 1) * timeout, _LEAST_S))
        if not usual or len(self._of_an_atom) < _SAMPLES:
            return limit
        return min(limit, max(_LEAST_S, 3 * self._longest, _TIMES * median(self._of_an_atom) * atoms))


@dataclass
class Answer:
    """What became of an exchange.

    Attributes
    ----------
    outcomes : dict of int to (dict or Failed)
        By the place of a structure in the question. Structures that are neither here nor among `suspects` were not
        computed.
    suspects : list of int
        Those that were being computed when the worker was lost.
    error : WorkerError or None
        How it was lost.
    alone : bool
        Whether it was lost with the first structure that it was ever given, and no other.
    fresh : bool
        Whether the worker had been asked nothing before.
    seconds : float
        How long it took.
    worked : float
        For how many of these seconds the worker was at it, as it says itself.
    together : bool
        Whether the worker computes several together.
    atoms : int
        How many it would compute together at most.
    sizes : dict of str to float
        The limits it has found, by what is asked.
    refusals : int
        How often its hook failed though each structure alone did not.
    reason : str
        How.
    """

    outcomes: dict[int, Result | Failed] = field(default_factory=dict)
    suspects: list[int] = field(default_factory=list)
    error: WorkerError | None = None
    alone: bool = False
    fresh: bool = False
    seconds: float = 0.0
    worked: float = 0.0
    together: bool = False
    atoms: int = 0
    sizes: dict[str, float] = field(default_factory=dict)
    refusals: int = 0
    reason: str = ""


class Exchange:
    """Ask a worker about many structures, once.

    Parameters
    ----------
    connection : WorkerConnection
    questions : sequence of Question
    pace : Pace
    timeout : float
        Seconds that one structure may take at most.
    enough : callable
        Whether the answer is wanted when the part that is being computed is done.
    """

    def __init__(
        self, connection: WorkerConnection, questions: Sequence[Question], pace: Pace, timeout: float,
        enough: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._connection, self._questions, self._pace, self._timeout = connection, questions, pace, timeout
        self._process = connection.process
        self._enough = enough
        self._answer = Answer()
        self._begin = self._end = 0
        self._together = False
        self._failures: dict[int, Failed] = {}
        self._since = 0.0

    def run(self, *, alone: bool, sizes: Mapping[str, float]) -> Answer:
        """Ask, and wait for the answer.

        Parameters
        ----------
        alone : bool
            Whether each structure is to be computed by itself.
        sizes : Mapping of str to float
            The limits that a worker before has found.

        Raises
        ------
        WorkerError
            If there is no memory for so many atoms.
        """
        connection, begun = self._connection, running_time()
        fresh = not connection.sequence
        arrays = connection.begin_batch()
        try:
            content = {**arrays.put(self._questions), "alone": alone, "sizes": dict(sizes)}
            atoms = sum(question.atoms for question in self._questions)
            connection.sequence += 1
            frame = Frame(Kind.BATCH, sequence=connection.sequence, atoms=atoms, capacity=arrays.memory.room[0])
            self._process.endpoint.send(frame, content, timeout=self._timeout)
            connection.phase = Phase.WAITING
            self._since = running_time()
            while self._hear(arrays):
                pass
        except PeerGoneError:
            self._lost(connection.gone(), arrays)
        except TimeoutError:
            limit = self._limit()
            error = connection.too_late(limit)
            if limit < self._timeout:
                error.hint = (
                    f"That is {_TIMES} times what its atoms should take, by the structures before, and at least "
                )
                error.hint += f"{_LEAST_S:.0f} s."
            self._lost(error, arrays)
        except WorkerProtocolError as broken:
            # What it said before is not believed either.
            connection.kill()
            self._answer = Answer(error=self._process.explain(broken))
        except WorkerError:
            connection.phase = Phase.IDLE  # no memory for so many atoms: the worker knows nothing of it
            raise
        except BaseException:
            arrays.memory.stop()  # an interruption: what nobody waits for is not computed to its end
            raise
        answer = self._answer
        answer.together |= self._together
        answer.seconds = running_time() - begun
        answer.fresh = fresh
        answer.alone = fresh and not answer.outcomes and len(answer.suspects) == 1 and self._end == 1
        return answer

    def _limit(self) -> float:
        questions = self._questions[self._begin : self._end]
        atoms = sum(question.atoms for question in questions)
        largest = self._connection.largest_part
        usual = largest > 0 and (atoms <= largest or not self._together)
        return self._pace.limit(len(questions), atoms, self._timeout, usual=usual)

    def _hear(self, arrays: BatchArrays) -> bool:
        """Take the next frame, and tell whether there will be another one."""
        frame, content = self._connection.hear(self._limit(), FRAME_S)
        if frame.kind == Kind.FAILURE:
            report = decode_failure(content)
            self._connection.kill()
            self._lost(useless_error(self._process, report), arrays)
            return False
        begin, end = content.get("begin"), content.get("end", content.get("begin"))
        if type(begin) is not int or type(end) is not int or not self._begin <= begin <= end <= len(self._questions):
            raise WorkerProtocolError(f"The worker {self._process.title} announced a part from {begin!r} to {end!r}.")
        self._note_failures(content.get("failures", {}))
        now = running_time()
        if begin > self._begin:
            atoms = sum(question.atoms for question in self._questions[self._begin : begin])
            self._pace.took(atoms, now - self._since)
            self._connection.largest_part = max(self._connection.largest_part, atoms, 1)
        self._since, self._begin, self._end = now, begin, end
        if frame.kind == Kind.RESULT:
            self._take(arrays, begin)
            self._finish(content)
            return False
        self._together = content.get("together") is True
        self._answer.together |= self._together
        if self._enough():
            arrays.memory.stop()
        return True

    def _note_failures(self, failures: Any) -> None:
        if not isinstance(failures, dict):
            raise WorkerProtocolError("Received failures that are none.")
        for text, content in failures.items():
            known = text.isdecimal() and len(text) < _DIGITS and int(text) < len(self._questions)
            if not known or not isinstance(content, dict):
                raise WorkerProtocolError(f"Received a failure of a structure {text:.50}, which is none of this batch.")
            report = decode_failure(content)
            self._failures[int(text)] = Failed(*reported_error(self._process, report))

    def _take(self, arrays: BatchArrays, upto: int) -> None:
        """Take out what is done of the structures before one, all at once: it lies in memory of this process."""
        for k, found in enumerate(arrays.results(0, upto)):
            if isinstance(found, dict):
                self._answer.outcomes[k] = found
            elif found is not None:
                self._answer.outcomes[k] = Failed(found, FailureClass.STRUCTURE)
            elif k in self._failures:
                self._answer.outcomes[k] = self._failures[k]

    def _lost(self, error: WorkerError, arrays: BatchArrays) -> None:
        """Take what was done before the worker was lost, and say what it was doing."""
        try:
            self._take(arrays, self._end)
        except (PeerGoneError, WorkerProtocolError):  # it is lost anyway: all is computed again
            self._answer.outcomes.clear()
        self._answer.error = error
        # One that has failed, and did not come to say how, is none of them.
        done = arrays.done(self._begin, self._end)
        begun = [self._begin + k for k, is_done in enumerate(done) if not is_done]
        self._answer.suspects = begun if self._together else begun[:1]

    def _finish(self, content: dict[str, Any]) -> None:
        answer, connection = self._answer, self._connection
        if not self._begin:
            raise WorkerProtocolError(f"The worker {self._process.title} answered for no structure of a batch.")
        if missing := [k for k in range(self._begin) if k not in answer.outcomes]:
            raise WorkerProtocolError(
                f"The worker {self._process.title} left out structure {missing[0]} of a batch, and says it is done."
            )
        connection.phase = Phase.IDLE
        if isinstance(content.get("device"), str):
            connection.device = content["device"]
        try:
            sizes = {str(asked): float(limit) for asked, limit in content["sizes"].items()}
            if len(sizes) > _MOST_SIZES or max(map(len, sizes), default=0) >= _DIGITS:
                raise ValueError("too many sizes")
            answer.sizes = sizes
            answer.worked = float(content["seconds"])
            if not 0 <= answer.worked < inf:
                raise ValueError("no seconds")
            answer.atoms, answer.refusals, answer.reason = (
                min(int(content["atoms"]), MAX_ATOMS), int(content["refusals"]), str(content["reason"])[:1000],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise WorkerProtocolError(f"The worker {self._process.title} answered with no sizes: {error!r}.") from error
