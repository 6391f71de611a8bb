"""Whose fault a failure is: the structure's, the worker's, or the node's.

A structure that ends a fresh worker which was given nothing else is the cause, if another structure works then. A
failure that leaves its worker alive is believed when that worker is seen to be sound: by the next structure that works,
or by one that is known to work. A worker that fails with that one, too, is replaced, and its failures are computed
again; so are those of a worker that is lost, or replaced, before it was seen to be sound. Where nothing is known to
work, fresh workers are asked about the failures.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Sequence
from typing import Any

from rootstock.client.batch_arrays import Question
from rootstock.client.batch_exchange import Failed
from rootstock.client.evaluated import FailureClass
from rootstock.client.reported import failure_class
from rootstock.client.session import WorkerSession
from rootstock.config.reference_structure import reference_atoms
from rootstock.errors import RootstockError, WorkerError
from rootstock.worker.channel.failures import FailureCode
from rootstock.worker.channel.memory import PROPERTY_BITS

DEATHS = 3  # workers lost without a result in between, before the node is doubted
_DOUBTS, _MOST_DOUBTS = 3, 12  # failures in a row before a worker is; more of them, once it was found sound
_OTHERS = 3  # structures that are tried where none is known to work; by so many fresh workers failures are confirmed
_TRY_S = 2.0

Failures = list[tuple[Question, Failed]]


class Blame:
    """What is held against structures until it is sure.

    Parameters
    ----------
    session : WorkerSession
    make_question : callable
        Returns what is asked of a structure, given its number and its atoms.

    Attributes
    ----------
    deaths : int
        Workers that were lost since the last result.
    """

    def __init__(self, session: WorkerSession, make_question: Callable[..., Any]) -> None:
        self._session, self._make_question = session, make_question
        self.deaths = 0
        self._held: Failures = []  # by a worker that lives
        self._accused: Failures = []  # of having ended a worker
        self._again: list[list[Question]] = []
        self._firsts: set[int] = set()  # of which structures the first ones were that are computed again together
        self._short: Failures = []  # did not fit into the memory that others may have left
        self._alone = False  # whether what is held is all that its worker was ever given
        self._patience = _DOUBTS

    @property
    def has_worked(self) -> bool:
        """Whether a structure has worked."""
        return self._session.sound is not None

    @property
    def doubts(self) -> bool:
        """Whether so many have failed in a row that the worker may be at fault."""
        return self._alone or len(self._held) >= self._patience

    def worked(self, question: Question) -> Failures:
        """Note that a structure has results, and return what is sure now."""
        if self._session.sound is None or question.atoms < self._session.sound.atoms:
            self._session.sound = question
        self._session.fits = max(self._session.fits, question.atoms)
        self.deaths = 0
        return self._release() if self._held or self._accused else []

    def failed(self, question: Question, failed: Failed, *, first: bool) -> Failures:
        """Note that a structure has failed, and return what is sure now.

        Parameters
        ----------
        question : Question
        failed : Failed
        first : bool
            Whether it was the only one that its worker was ever given.
        """
        if failed.failure is FailureClass.INFRASTRUCTURE:
            return [(question, failed)]
        if failed.failure is FailureClass.RESOURCE:
            if first:
                self._session.unfit = min(self._session.unfit, question.atoms)
                short, self._short = self._short, []
                self._short = [each for each in short if not self._is_unfit(each[0])]
                return [(question, failed), *(each for each in short if self._is_unfit(each[0]))]
            if not self._is_unfit(question):
                self._short.append((question, failed))  # perhaps others have left too little
                return []
        if first and self._known() is None:
            self._session.renew()  # the next one is not to suffer from it
            return [(question, failed)]
        self._alone = first
        self._held.append((question, failed))
        return []

    def _is_unfit(self, question: Question) -> bool:
        """Tell whether one like this did not fit into a fresh worker, as far as the number of atoms says."""
        unfit = self._session.unfit
        return question.atoms == unfit or question.atoms > max(unfit, self._session.fits)

    def accuse(self, question: Question, error: WorkerError) -> None:
        """Note that a structure has ended a fresh worker that was given nothing else.

        Parameters
        ----------
        question : Question
        error : WorkerError
        """
        lost = error.code == FailureCode.LOST_GPU.value  # as its assertions do to a GPU
        self._accused.append((question, Failed(error, FailureClass.STRUCTURE if lost else failure_class(error))))

    def lost(self) -> None:
        """Note that a worker was lost: whose fault its failures were, nobody can find out any more."""
        self.deaths += 1
        self._disbelieve()

    def answered(self, *, fresh: bool) -> None:
        """Note that a worker has answered; if it is a fresh one, what it says tells nothing of the one before."""
        if fresh:
            self._disbelieve()

    def again(self) -> list[list[Question]]:
        """Return what is to be computed by fresh workers, one for each list."""
        again, self._again = self._again, []
        if self._short:  # the smallest says what becomes of larger ones
            smallest = min(range(len(self._short)), key=lambda k: self._short[k][0].atoms)
            again.append([self._short.pop(smallest)[0]])
        return again

    def check_worker(self, others: Sequence[Question]) -> Failures:
        """Find out whether the worker is sound with which structures have failed, or which follows one that was lost.

        Parameters
        ----------
        others : sequence of Question
            To be tried if none is known to work.

        Raises
        ------
        WorkerError
            If the node is at fault.
        """
        sure: Failures = []
        if self._held and (known := self._known()):
            if self._try(known) is None:
                self._patience = min(2 * self._patience, _MOST_DOUBTS)
                self.deaths = 0
                return self._release()
            if self._alone:  # it has made its worker so, or the node makes all so: that the next one tells
                self.deaths += 1
                self._accused, self._held, self._alone = [*self._accused, *self._held], [], False
            else:
                self.lost()
            self._session.renew()
        elif self._held:
            sure = self._confirm()
        if self._accused:  # the worker that is asked now is fresh, or has failed with nothing
            return sure + self.check_node(self._accused[0][1].error, others)
        return sure + self._release()

    def _disbelieve(self) -> None:
        """Have what has failed computed again, by fresh workers.

        The first one may have made its worker fail with the others. Otherwise, which one did is found by halves.
        """
        held = [question for question, _ in self._held]
        if held:
            middle = len(held) // 2 if held[0].number in self._firsts else 1
            parts = [part for part in (held[:middle], held[middle:]) if part]
            self._firsts |= {part[0].number for part in parts if len(part) > 1}
            self._again += parts
        self._held, self._alone = [], False

    def _confirm(self) -> Failures:
        """Ask fresh workers about failures where nothing is known to work, and return those that are believed.

        First about all, the last one first: what makes a worker fail with everything comes before those that suffer
        from it. Then about some of them. If all fail there, too, the model works with nothing that it is given.
        """
        held = [question for question, _ in self._held]
        few = [] if self._session.confirmed or len(held) == 1 else [[each] for each in _spread(held)]
        for tried in (held[::-1], *few):
            self._session.renew()
            answer = self._session.ask_many(tried, alone=True, seconds=_TRY_S)
            works = [tried[k] for k, outcome in answer.outcomes.items() if isinstance(outcome, dict)]
            if works:
                self._session.sound = works[0]
                self._disbelieve()
                return []
        self._session.confirmed = True
        if self._accused:
            self._session.renew()  # perhaps the last one has made it fail with everything
        sure, self._held = self._held, []
        return sure

    def check_node(self, error: RootstockError, others: Sequence[Question]) -> Failures:
        """Find out whether workers end here whatever they are given.

        Parameters
        ----------
        error : RootstockError
            How the last one ended.
        others : sequence of Question
            To be tried if none is known to work.

        Raises
        ------
        WorkerError
            If they do.
        """
        known = self._known()
        tried = [known] if known else _spread(sorted(others, key=lambda question: question.atoms))
        for question in tried:
            if (trouble := self._try(question)) is None:
                self._session.sound = self._session.sound or question
                self.deaths = 0
                return self._release()
            error = trouble
        if not tried and self.deaths < DEATHS:
            return self._release()  # nothing else is known of this model
        self._accused, self._held, self._alone = [], [], False
        raise _closed(error, max(self.deaths, 1), known=known is not None)

    def _try(self, question: Question) -> RootstockError | None:
        """Return why a structure does not work; None if it does."""
        answer = self._session.ask_many([question], alone=True, seconds=_TRY_S)
        outcome = answer.outcomes.get(0)
        return None if isinstance(outcome, dict) else outcome.error if outcome else answer.error

    def _known(self) -> Question | None:
        """Return a structure that has worked, or of which the environment file says what this model computes."""
        if self._session.sound is not None:
            return self._session.sound
        model = self._session.spec.model
        with contextlib.suppress(RootstockError):
            for reference in model.source.references():
                if model.source.named(reference.model) == model.source.named(model.argument):
                    atoms = reference_atoms(reference, model.source)
                    question = self._make_question(0, atoms)
                    if not isinstance(question, Question):
                        return None
                    # Whatever is asked of others: energies are what every reference has.
                    return question._replace(asked=PROPERTY_BITS["energy"])
        return None

    def _release(self) -> Failures:
        failures = [*self._accused, *self._held]
        self._accused, self._held, self._alone = [], [], False
        return failures


def _spread(questions: Sequence[Question]) -> list[Question]:
    """Return a few of them, from all over."""
    few = min(_OTHERS, len(questions))
    return [questions[k * len(questions) // few] for k in range(few)]


def _closed(error: RootstockError, deaths: int, *, known: bool) -> WorkerError:
    node = platform.node()
    with_what = "also with a structure that is known to work" if known else "with each structure that was tried"
    return WorkerError(
        f"{deaths} workers in a row were lost on node {node}, {with_what}. The last one: {error.message}",
        f"Compute on another node (Slurm: --exclude={node}). What was computed before holds.",
        log=getattr(error, "log", ""),
        tail=getattr(error, "tail", ""),
    )
