"""Compute many structures with one session, whatever becomes of some of them.

Of a worker that is lost, what it had finished is kept. What it was computing then is computed again, each structure by
itself. Whose fault a failure is, `rootstock.client.blame` decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from rootstock.client.batch_arrays import Question, require_atoms
from rootstock.client.batch_exchange import Answer, Failed
from rootstock.client.blame import DEATHS, Blame
from rootstock.client.evaluated import Evaluated, FailureClass
from rootstock.client.extra_results import extras_of
from rootstock.client.inputs import Inputs
from rootstock.client.session import WorkerSession
from rootstock.errors import (
    ConfigurationError,
    DeviceError,
    MissingWeightsError,
    NonFiniteError,
    WorkerStartError,
)
from rootstock.worker.channel.memory import PROPERTY_BITS

SLICE_S = 2.0  # an exchange takes about so long: then its results are handed out, and other threads have their turn
_FIRST, _MOST, _MOST_ATOMS = 64, 2**14, 2**18  # structures in an exchange
_MOST_INFO = 4 * 2**20  # characters of atoms.info
_PARTS = 8  # an exchange is to have so many
USUAL = ("energy", "forces")


class _Task(NamedTuple):
    """Structures that are to be computed: each by itself, by a worker that has computed nothing before."""

    questions: list[Question]
    alone: bool = False
    fresh: bool = False


class _Coming:
    """Structures that come from somewhere, until there are no more, or an error."""

    def __init__(self, images: Iterable[Atoms]) -> None:
        self._images = images
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Atoms]:
        try:
            yield from self._images
        except Exception as error:  # noqa: BLE001  # it is raised when those before are computed
            self.error = error


class ManyStructures:
    """One pass over many structures.

    Parameters
    ----------
    session : WorkerSession
    properties : sequence of str or None
        By ASE's names. None: energy, forces, and the stress of structures that have one.
    stopped : callable
        Whether to compute no more than the part that is being computed. It is asked before each part.

    Raises
    ------
    ConfigurationError
        If no property is asked for.
    PropertyNotImplementedError
        If the model does not compute one of them. Asking starts the worker.
    """

    def __init__(
        self, session: WorkerSession, properties: Sequence[str] | None, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._session = session
        offered = session.properties()
        if isinstance(properties, str):
            raise ConfigurationError(f"properties={properties!r} is one name.", f"Give a sequence: ({properties!r},)")
        names = [name for name in USUAL if name in offered] if properties is None else list(properties)
        if not names:
            raise ConfigurationError("No property is asked for.", "For example: ('energy', 'forces')")
        for name in names:
            if name not in offered:
                raise PropertyNotImplementedError(
                    f"The model does not compute {name}; it computes {', '.join(offered)}."
                )
        self._asked = sum(PROPERTY_BITS[name] for name in dict.fromkeys(names))
        self._of_periodic = PROPERTY_BITS["stress"] if properties is None and "stress" in offered else 0
        self._together, self._stop_asked, self._is_over = False, False, stopped
        self._structures = _FIRST  # of the next exchange
        self._before: dict[int, Inputs] = {}  # what was asked of structures that are moved
        self._blame = Blame(session, self._question)

    def run(self, images: Iterable[Atoms]) -> Iterator[Evaluated]:
        """Compute structures, and yield each when it is done, in any order; few of them are in memory.

        Parameters
        ----------
        images : iterable of ase.Atoms
            Each is read when it is drawn; it may change afterwards.

        Raises
        ------
        ConfigurationError
            If one is something else than `ase.Atoms`.
        WorkerError
            If no worker can be started, or each ends. What was yielded holds.
        Exception
            What `images` raises, once those before are computed.
        """
        questions: list[Question] = []
        drawn, coming = 0, _Coming(images)
        for number, structure in enumerate(coming):
            question = self._question(number, structure)
            if isinstance(question, Evaluated):
                yield question
            else:
                questions.append(question)
            drawn += 1
            if drawn >= self._structures:
                yield from self._window(questions)
                questions, drawn = [], 0
            if self._stopped():
                return
        yield from self._window(questions)
        if coming.error is not None:
            raise coming.error

    def compute(self, structures: Iterable[tuple[int, Atoms]]) -> Iterator[Evaluated]:
        """Compute some structures now, and yield each when it is done, in any order.

        Who asks again and again keeps this object: it remembers what is held against structures and their worker.

        Parameters
        ----------
        structures : iterable of (int, ase.Atoms)
            Each with a number, which may come again in a later call: that of the same structure, moved.

        Raises
        ------
        WorkerError
            If no worker can be started, or each ends. What was yielded holds.
        """
        questions = []
        if len(self._before) > _MOST:
            self._before.clear()
        for number, structure in structures:
            question = self._question(number, structure, self._before.get(number))
            if isinstance(question, Evaluated):
                yield question
            else:
                self._before[number] = question.inputs
                questions.append(question)
        yield from self._window(questions)

    def stop(self) -> None:
        """Compute no more than the part that is being computed. Any thread may call this, also a signal handler."""
        self._stop_asked = True
        self._session.hurry()

    def _stopped(self) -> bool:
        return self._stop_asked or self._is_over()

    @property
    def largest_part(self) -> int:
        """How many atoms the worker has computed together of late; 0 if it computes one structure after the other."""
        return self._session.batches.atoms

    def _question(self, number: int, structure: Atoms, before: Inputs | None = None) -> Question | Evaluated:
        require_atoms(number, structure)
        asked = self._asked
        if self._of_periodic and structure.cell.rank == 3 and structure.pbc.any():
            asked |= self._of_periodic
        inputs = before.moved() if before else Inputs()
        try:
            inputs.update(structure)
            self._session.refuse(inputs)
        except (ConfigurationError, NonFiniteError) as error:
            return Evaluated(number, None, error, structure, FailureClass.STRUCTURE)
        return Question(number, inputs, asked, structure, len(inputs))

    def _window(self, questions: list[Question]) -> Iterator[Evaluated]:
        """Compute some structures, in as many exchanges as it takes."""
        for some in self._exchanges(questions):
            if not self._stopped():
                yield from self._compute(some)

    def _exchanges(self, questions: list[Question]) -> Iterator[list[Question]]:
        """Divide structures into what is asked in one exchange; if they are computed together, those of like size."""
        if self._together:
            questions.sort(key=lambda question: (question.asked, -question.atoms, question.number))
        some: list[Question] = []
        atoms = text = 0
        for question in questions:
            atoms += question.atoms
            text += len(question.inputs.rest.info)
            if some and (atoms > _MOST_ATOMS or text > _MOST_INFO):
                yield some
                some, atoms, text = [], question.atoms, len(question.inputs.rest.info)
            some.append(question)
        if some:
            yield some

    def _compute(self, questions: list[Question]) -> Iterator[Evaluated]:
        """Compute all of some structures."""
        waiting, blame = deque([_Task(questions)]), self._blame
        while waiting:
            task = waiting.popleft()
            answer = self._ask(task)
            blame.answered(fresh=answer.fresh)
            for k, outcome in answer.outcomes.items():
                yield from self._take(task.questions[k], outcome, first=answer.fresh and len(task.questions) == 1)
            if self._stopped():
                return
            waiting.extendleft(self._left(task, answer))
            # Of those that are left, ones that are not suspected of anything are the better witnesses.
            left = [each for task in waiting if not task.alone for each in task.questions]
            left = left or [each for task in waiting for each in task.questions]
            if answer.error is not None and blame.deaths >= DEATHS:
                yield from self._told(blame.check_node(answer.error, left))
            if blame.doubts or not waiting:
                yield from self._told(blame.check_worker(left))
            waiting.extendleft(_Task(again, alone=len(again) == 1, fresh=True) for again in blame.again())
            self._session.give_way()

    def _left(self, task: _Task, answer: Answer) -> Iterator[_Task]:
        """Yield what is still to be computed of a task, the first of it last."""
        suspects = [task.questions[k] for k in answer.suspects]
        known = {*answer.outcomes, *answer.suspects}
        rest = [question for k, question in enumerate(task.questions) if k not in known]
        if answer.error is not None:
            self._blame.lost()
            if not suspects and not answer.outcomes:
                suspects, rest = rest[:1], rest[1:]  # it ended before it began with any
            if answer.alone:
                self._blame.accuse(suspects[0], answer.error)
                suspects = []
        if rest:
            yield task._replace(questions=rest, fresh=False)
        # Each by itself. One that ends a worker which had computed others before ends the next one as its first.
        for suspect in reversed(suspects):
            yield _Task([suspect], alone=True)

    def _ask(self, task: _Task) -> Answer:
        """Ask a worker; where some structure has worked before, one that does not start is tried again."""
        while True:
            try:
                if task.fresh:
                    self._session.renew()
                answer = self._session.ask_many(task.questions, alone=task.alone, seconds=SLICE_S, enough=self._stopped)
            except (DeviceError, MissingWeightsError):
                raise
            except WorkerStartError:
                self._blame.deaths += 1
                if not self._blame.has_worked or self._blame.deaths >= DEATHS:
                    raise
            else:
                if answer.outcomes and not task.alone:
                    self._adapt(task.questions, answer)
                return answer

    def _take(self, question: Question, outcome: object, *, first: bool) -> Iterator[Evaluated]:
        if not isinstance(outcome, Failed):
            yield from self._told(self._blame.worked(question))
            extra = extras_of(outcome)
            results: dict[str, Any] = dict(outcome) if extra else outcome  # type: ignore[call-overload,assignment]
            yield Evaluated(question.number, results, None, question.structure, extra_results=extra)
            return
        yield from self._told(self._blame.failed(question, outcome, first=first))

    @staticmethod
    def _told(failures: Iterable[tuple[Question, Failed]]) -> Iterator[Evaluated]:
        for question, failed in failures:
            yield Evaluated(question.number, None, failed.error, question.structure, failed.failure)

    def _adapt(self, questions: list[Question], answer: Answer) -> None:
        """Choose how much the next exchange has: some seconds of work, and enough parts to find their best size."""
        self._together = answer.together
        done = len(answer.outcomes)
        wanted = 2 * done if done == len(questions) and answer.seconds < SLICE_S / 2 else done
        self._structures = min(max(_FIRST, wanted), _MOST)
        if answer.together:
            mean = max(1.0, sum(question.atoms for question in questions) / len(questions))
            self._structures = min(max(self._structures, int(_PARTS * answer.atoms / mean)), _MOST)
