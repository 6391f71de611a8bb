"""Compute many structures with one session, whatever becomes of some of them.

Of a worker that is lost, what it had finished is kept. What it was computing then is computed again, each structure by
itself. One that ends a fresh worker which was given nothing else is the cause, unless the next structure, and one that
is known to work, ends its worker too: then the fault is the node's.
"""

from __future__ import annotations

import contextlib
import platform
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from rootstock.client.batch_arrays import Question
from rootstock.client.batch_exchange import Answer, Failed
from rootstock.client.evaluated import Evaluated, FailureClass
from rootstock.client.inputs import Inputs
from rootstock.client.reported import failure_class
from rootstock.client.session import WorkerSession
from rootstock.client.shared_arrays import Result
from rootstock.client.strange_elements import name_strange_elements
from rootstock.config.reference_structure import reference_atoms
from rootstock.errors import (
    ConfigurationError,
    ModelError,
    NonFiniteError,
    RootstockError,
    WorkerError,
)
from rootstock.worker.channel.memory import PROPERTY_BITS

SLICE_S = 2.0  # an exchange takes about so long: then its results are handed out, and other threads have their turn
_FIRST, _MOST, _MOST_ATOMS = 64, 2**14, 2**18  # structures in an exchange
_MOST_INFO = 4 * 2**20  # characters of atoms.info
_PARTS = 8  # an exchange is to have so many
_DEATHS = 3  # without a result in between, before a structure is tried that is known to work
USUAL = ("energy", "forces")


class ManyStructures:
    """One pass over many structures.

    Parameters
    ----------
    session : WorkerSession
    properties : sequence of str or None
        By ASE's names. None: energy, forces, and the stress of structures that have one.

    Raises
    ------
    PropertyNotImplementedError
        If the model does not compute one of them. Asking starts the worker.
    """

    def __init__(self, session: WorkerSession, properties: Sequence[str] | None) -> None:
        self._session = session
        offered = session.properties()
        for name in properties or ():
            if name not in offered:
                raise PropertyNotImplementedError(
                    f"The model does not compute {name}; it computes {', '.join(offered)}."
                )
        names = [name for name in USUAL if name in offered] if properties is None else properties
        self._asked = sum(PROPERTY_BITS[name] for name in dict.fromkeys(names))
        self._of_periodic = PROPERTY_BITS["stress"] if properties is None and "stress" in offered else 0
        self._together = False
        self._structures, self._atoms = _FIRST, _MOST_ATOMS  # of the next exchange
        self._deaths = 0
        self._accused: list[tuple[Question, WorkerError]] = []
        self._sound: Question | None = None  # the smallest that has worked

    def run(self, images: Iterable[Atoms]) -> Iterator[Evaluated]:
        """Compute structures, and yield each when it is done, in any order; few of them are in memory.

        Raises
        ------
        WorkerError
            If no worker can be started, or each ends. What was yielded holds.
        """
        coming = enumerate(images)
        while window := list(islice(coming, self._structures)):
            questions = []
            for number, structure in window:
                question = self._question(number, structure)
                if isinstance(question, Evaluated):
                    yield question
                else:
                    questions.append(question)
            for some in self._exchanges(questions):
                yield from self._compute(some)

    def _question(self, number: int, structure: Atoms) -> Question | Evaluated:
        if not isinstance(structure, Atoms):
            raise ConfigurationError(f"Structure {number} is a {type(structure).__name__}, and no ase.Atoms.")
        asked = self._asked
        if self._of_periodic and structure.cell.rank == 3 and structure.pbc.any():
            asked |= self._of_periodic
        inputs = Inputs()
        try:
            inputs.update(structure)
        except (ConfigurationError, NonFiniteError) as error:
            return Evaluated(number, None, error, structure, FailureClass.STRUCTURE)
        return Question(number, inputs, asked, structure)

    def _exchanges(self, questions: list[Question]) -> Iterator[list[Question]]:
        """Divide structures into what is asked in one exchange; if they are computed together, those of like size."""
        if self._together:
            questions.sort(key=lambda question: (question.asked, -question.atoms, question.number))
        some: list[Question] = []
        atoms = text = 0
        for question in questions:
            atoms += question.atoms
            text += len(question.inputs.rest.info)
            if some and (atoms > self._atoms or text > _MOST_INFO):
                yield some
                some, atoms, text = [], question.atoms, len(question.inputs.rest.info)
            some.append(question)
        if some:
            yield some

    def _compute(self, questions: list[Question]) -> Iterator[Evaluated]:
        """Compute all of some structures."""
        waiting = deque([(questions, False)])
        while waiting:
            some, alone = waiting.popleft()
            answer = self._session.ask_many(some, alone=alone, seconds=SLICE_S)
            yield from self._take(some, answer)
            suspects = [some[k] for k in answer.suspects]
            known = {*answer.outcomes, *answer.suspects}
            rest = [question for k, question in enumerate(some) if k not in known]
            if answer.error is not None:
                self._deaths += 1
                if not suspects and not answer.outcomes:
                    suspects, rest = rest[:1], rest[1:]  # it ended before it began with any
                if answer.alone:
                    self._accused += [(suspect, answer.error) for suspect in suspects]
                    suspects = []
                if self._deaths >= _DEATHS:
                    yield from self._check_node(answer.error)
            self._session.give_way()
            if rest:
                waiting.appendleft((rest, alone))
            # Each by itself. One that ends a worker which had computed others before ends the next one as its first.
            waiting.extendleft(([suspect], True) for suspect in reversed(suspects))
        if self._accused:
            yield from self._check_node(self._accused[0][1])

    def _take(self, questions: list[Question], answer: Answer) -> Iterator[Evaluated]:
        if len(answer.outcomes) and not answer.error:
            self._adapt(questions, answer)
        for k, outcome in answer.outcomes.items():
            question = questions[k]
            if isinstance(outcome, Failed):
                if type(outcome.error) is ModelError:
                    name_strange_elements(outcome.error, self._session.spec.model, question.inputs)
                yield Evaluated(question.number, None, outcome.error, question.structure, outcome.failure)
                continue
            yield from self._acquit(question, outcome)

    def _acquit(self, question: Question, results: Result) -> Iterator[Evaluated]:
        """Yield a structure that has worked, and those that have ended a worker: the fault was theirs."""
        if self._sound is None or question.atoms < self._sound.atoms:
            self._sound = question
        yield from self._condemn()
        yield Evaluated(question.number, results, None, question.structure)

    def _condemn(self) -> Iterator[Evaluated]:
        self._deaths = 0
        accused, self._accused = self._accused, []
        for question, error in accused:
            yield Evaluated(question.number, None, error, question.structure, failure_class(error))

    def _adapt(self, questions: list[Question], answer: Answer) -> None:
        """Choose how much the next exchange has: some seconds of work, and enough parts to find their best size."""
        self._together = answer.together
        done = len(answer.outcomes)
        wanted = 2 * done if done == len(questions) and answer.seconds < SLICE_S / 2 else done
        self._structures = min(max(_FIRST, wanted), _MOST)
        if answer.together:
            mean = max(1.0, sum(question.atoms for question in questions) / len(questions))
            self._structures = min(max(self._structures, int(_PARTS * answer.atoms / mean)), _MOST)

    def _check_node(self, error: WorkerError) -> Iterator[Evaluated]:
        """Find out whether workers end here whatever they are given, by a structure that is known to work.

        Raises
        ------
        WorkerError
            If they do.
        """
        question = self._sound or self._reference()
        if question is not None:
            answer = self._session.ask_many([question], alone=True, seconds=SLICE_S)
            if isinstance(answer.outcomes.get(0), dict):
                yield from self._condemn()
                return
            error = answer.error or error
        elif self._deaths < _DEATHS:
            yield from self._condemn()  # nothing else is known of this model
            return
        self._accused = []
        raise _closed(error, self._deaths, known=question is not None)

    def _reference(self) -> Question | None:
        """Return a structure of which the environment file says what this model computes."""
        model = self._session.spec.model
        with contextlib.suppress(RootstockError):
            for reference in model.source.references():
                if model.source.named(reference.model) == model.source.named(model.argument):
                    question = self._question(0, reference_atoms(reference, model.source))
                    return question if isinstance(question, Question) else None
        return None


def _closed(error: WorkerError, deaths: int, *, known: bool) -> WorkerError:
    node = platform.node()
    with_what = "also with a structure that is known to work" if known else "each before it had computed anything"
    return WorkerError(
        f"{deaths} workers in a row were lost on node {node}, {with_what}. The last one: {error.message}",
        f"Compute on another node (Slurm: --exclude={node}). What was computed before holds.",
        log=error.log,
        tail=error.tail,
    )
