"""Relaxations that go on together, fed as they finish.

In each turn the worker computes one cohort while a thread takes the steps of the other. It is the first thread that
asks, so that an interruption ends the question as it does that of a single structure; what the other thread does takes
milliseconds and is waited for.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

from ase import Atoms

from rootstock.client.batch_arrays import require_atoms
from rootstock.client.evaluated import Evaluated, FailureClass
from rootstock.errors import ConfigurationError, RootstockError
from rootstock.root.signals import thread_pool
from rootstock.simulations.lockstep.cohorts import Cohorts
from rootstock.simulations.lockstep.evaluations import Evaluations, evaluations
from rootstock.simulations.lockstep.live import OPTIMIZERS, Live, can_lockstep, failed
from rootstock.simulations.lockstep.relaxed import Relaxed
from rootstock.simulations.lockstep.steps import advance
from rootstock.simulations.relax import Relaxation

logger = logging.getLogger(__name__)
_TOLD_S = 2.0  # between two lines about how far they are
Feed = Callable[[int, bool], Iterable[tuple[int, Atoms, int]]]
Answers = list[tuple[Live, Evaluated]]


class Lockstep:
    """Relaxations that go on together.

    Each takes the path that it takes alone, bit for bit on a processor if the model computes one structure after the
    other; with one that computes several together, numbers differ by rounding.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
        One of ours computes many structures at once; any other one after the other.
    relaxation : Relaxation
    stopped : callable
        Is asked before each step whether to end.

    Raises
    ------
    ConfigurationError
        If its optimizer cannot run in lockstep.
    """

    def __init__(self, calculator: Any, relaxation: Relaxation, *, stopped: Callable[[], bool] = lambda: False) -> None:
        if not can_lockstep(relaxation.optimizer):
            raise ConfigurationError(
                f"Relaxations by {relaxation.optimizer} cannot go on together: it asks for forces within a step.",
                f"Use one of {', '.join(OPTIMIZERS)}.",
            )
        self._calculator, self._relaxation = calculator, relaxation
        self._live: dict[int, Live] = {}
        self._evaluations: Evaluations | None = None
        self._stopped, self._is_over, self._told = False, stopped, time.monotonic()

    def run(self, feed: Feed) -> Iterator[Relaxed]:
        """Relax structures, and yield each when it is done, in any order.

        Parameters
        ----------
        feed : callable
            Is given how many atoms there is room for, and whether to wait; returns structures to begin with now, each
            with a key, which `Relaxed.index` will be, and the steps that it has taken before, which count. If it
            waits, it returns at least one, however large, or else there are no more.

        Yields
        ------
        Relaxed

        Raises
        ------
        ConfigurationError
            If the model does not compute what is needed, or something else than `ase.Atoms` is to be relaxed.
        WorkerError
            If no worker can be started, or each ends. What was yielded holds, and `unfinished` has the others.
        """
        evaluated = self._evaluations = evaluations(self._calculator, self._relaxation)
        if self._stopped:
            evaluated.stop()
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(thread_pool(1)) if evaluated.apart else None
            yield from self._turns(feed, evaluated, pool)

    def stop(self) -> None:
        """End `run` when the part that is being computed is done. Any thread may call this, also a signal handler."""
        self._stopped = True
        if self._evaluations is not None:
            self._evaluations.stop()

    def unfinished(self) -> list[tuple[int, Atoms, int]]:
        """Return, when `run` has ended, each relaxation that had begun and was not yielded.

        Returns
        -------
        list of (int, ase.Atoms, int)
            The key, the last step that was computed (or the structure as it came), and how many steps that took. They
            can be fed again; the optimizer then knows nothing of the steps before.
        """
        return [(key, *live.last()) for key, live in list(self._live.items())]

    def _turns(self, feed: Feed, evaluated: Evaluations, pool: Executor | None) -> Iterator[Relaxed]:
        cohorts = Cohorts(apart=evaluated.apart)
        answers: Answers = []
        lost = None
        while not (self._stopped or self._is_over()):
            yield from self._refill(feed, cohorts, evaluated.largest_part)
            if not self._live:
                return
            cohorts.balance()
            stepping = pool.submit(self._advance, answers, cohorts) if pool else None
            if stepping is None:
                finished = self._advance(answers, cohorts)
            answers, lost = self._ask(cohorts, evaluated)
            if stepping is not None:
                finished = stepping.result()
            yield from self._finish(finished, cohorts)
            self._tell()
            cohorts.turn()
            if lost is not None:
                break
        yield from self._finish(self._advance(answers, cohorts), cohorts)  # what was computed last
        if lost is not None:
            raise lost

    def _tell(self) -> None:
        if self._live and time.monotonic() - self._told > _TOLD_S:
            self._told = time.monotonic()
            steps = [live.steps for live in self._live.values()]
            logger.info("%d relaxations under way, in steps %d to %d", len(steps), min(steps), max(steps))

    def _refill(self, feed: Feed, cohorts: Cohorts, largest_part: int) -> Iterator[Relaxed]:
        """Take more structures, as long as there is room and there are some."""
        while not self._stopped and (room := cohorts.room(largest_part)):
            wait, came = not self._live, False
            for key, atoms, steps in feed(room, wait):
                came = True
                require_atoms(key, atoms)
                try:
                    live = Live(key, atoms, steps, self._relaxation)
                except ConfigurationError as error:
                    yield failed(key, atoms, error, FailureClass.STRUCTURE, steps)
                else:
                    self._live[key] = live
                    cohorts.add(live)
            if not came:
                return

    def _ask(self, cohorts: Cohorts, evaluated: Evaluations) -> tuple[Answers, RootstockError | None]:
        """Compute one cohort; an error that ends it comes with what was computed before."""
        answers: Answers = []
        begun = time.perf_counter()
        try:
            for each in evaluated.compute(cohorts.asked):
                answers.append((self._live[each.index], each))
                if self._is_over():
                    self.stop()
        except RootstockError as error:
            return answers, error
        cohorts.took("asking", sum(len(live.atoms) for live, _ in answers), time.perf_counter() - begun)
        return answers, None

    def _advance(self, answers: Answers, cohorts: Cohorts) -> list[Relaxed]:
        begun = time.perf_counter()
        finished = advance(answers, self._relaxation, self._calculator)
        cohorts.took("stepping", sum(len(live.atoms) for live, _ in answers), time.perf_counter() - begun)
        return finished

    def _finish(self, finished: Sequence[Relaxed], cohorts: Cohorts) -> Iterator[Relaxed]:
        """Yield those that have come to their end; nobody finds them here any more."""
        cohorts.drop({relaxed.index for relaxed in finished})
        for relaxed in finished:
            del self._live[relaxed.index]
            yield relaxed
