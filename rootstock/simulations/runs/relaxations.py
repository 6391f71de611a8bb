"""Relaxations of the structures of a run: many at once, or one after the other where the optimizer wants that."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ase import Atoms

from rootstock.client.evaluated import FailureClass
from rootstock.client.reported import failure_class
from rootstock.errors import ConfigurationError, NotConvergedError, OutputError, RootstockError, WorkerError
from rootstock.simulations.lockstep.engine import Lockstep
from rootstock.simulations.lockstep.live import can_lockstep
from rootstock.simulations.relax import Relaxation
from rootstock.simulations.runs.aside import put_back, set_aside
from rootstock.simulations.runs.feed import Feed
from rootstock.simulations.runs.partials import Partials
from rootstock.simulations.second_try import with_second_try

if TYPE_CHECKING:
    from rootstock.simulations.runs.compute import Computation

logger = logging.getLogger("rootstock")


def relax_each(run: Computation, feed: Feed) -> None:
    """Relax structures until there are no more, or somebody asks to stop; where the others are then is recorded.

    Parameters
    ----------
    run : Computation
    feed : Feed

    Raises
    ------
    ConfigurationError, OutputError, WorkerError
        As from `Computation.run`.
    """
    relaxation = run.folder.settings(Relaxation)
    partials = Partials(run.folder.path, run.folder.record.structures)
    if can_lockstep(relaxation.optimizer):
        _together(run, feed, relaxation, partials)
        return
    logger.warning(
        "%s asks for forces within a step: each worker relaxes one structure after the other. LBFGS, BFGS, FIRE and "
        "MDMin relax many together.", relaxation.optimizer,
    )  # fmt: skip
    _one_by_one(run, feed, relaxation, partials)


def _together(run: Computation, feed: Feed, relaxation: Relaxation, partials: Partials) -> None:
    aside: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
    before: dict[int, int] = {}

    def more(room: int, wait: bool) -> Iterator[tuple[int, Atoms, int]]:
        came = False
        while not came and (indices := feed.take(room, wait=wait)):
            for index in indices:
                if (atoms := run.read(index)) is not None:
                    came = True
                    aside[index] = set_aside(atoms)
                    before[index] = partials.go_on(index, atoms)
                    yield index, atoms, before[index]

    lockstep = Lockstep(run.calculator, relaxation, stopped=lambda: feed.stopped)
    try:
        for relaxed in lockstep.run(more):
            atoms = relaxed.structure
            put_back(atoms, *aside.pop(relaxed.index), moved=True)
            if relaxed.error is not None:
                run.give_up(relaxed.index, relaxed.failure or FailureClass.STRUCTURE, relaxed.error, atoms, feed)
            else:
                atoms.calc = SimpleNamespace(results=relaxed.results)  # all that is read of it
                run.add(relaxed.index, atoms, relaxed.converged, relaxed.steps)
    except OutputError:
        raise
    except BaseException:
        _record(run, lockstep, before)
        raise
    _record(run, lockstep, before)


def _record(run: Computation, lockstep: Lockstep, before: dict[int, int]) -> None:
    """Record where relaxations are that have not come to their end."""
    for index, atoms, steps in lockstep.unfinished():
        if steps > before[index]:
            run.recorder.add_partial(index, atoms, steps)


def _one_by_one(run: Computation, feed: Feed, relaxation: Relaxation, partials: Partials) -> None:
    while indices := feed.take(1, wait=True):
        for index in indices:
            if (atoms := run.read(index)) is None:
                continue
            aside = set_aside(atoms)
            before = partials.go_on(index, atoms)
            single = _Single(run, feed, index, replace(relaxation, steps=max(relaxation.steps - before, 0)), before)
            try:
                relaxed = single.relax(atoms)
            except (ConfigurationError, NotConvergedError, WorkerError) as error:
                run.fail(index, failure_class(error), error, atoms)
                continue
            if relaxed is None:
                return
            put_back(relaxed, *aside, moved=True)
            run.add(index, relaxed, bool(relaxed.info["converged"]), single.steps)


class _StopError(Exception):
    """Ends a relaxation on its way."""


@dataclass
class _Single:
    """One relaxation, which records where it is if it is ended on its way."""

    run: Computation
    feed: Feed
    index: int
    relaxation: Relaxation
    steps: int

    def relax(self, atoms: Atoms) -> Atoms | None:
        """Return the relaxed structure; None if somebody asked to stop."""
        before, last = self.steps, atoms.copy()

        def on_step(step: int, now: Atoms, force: float) -> None:  # noqa: ARG001
            last.set_cell(now.cell)
            last.positions[:] = now.positions
            self.steps = before + step
            if self.feed.stopped:
                raise _StopError

        try:
            calc = self.run.calculator
            return with_second_try(calc, lambda: self.relaxation.run(atoms, calc, on_step=on_step))
        except _StopError:
            self._record(last, before)
            return None
        except RootstockError:
            raise
        except BaseException:
            self._record(last, before)
            raise

    def _record(self, last: Atoms, before: int) -> None:
        if self.steps > before:
            self.run.recorder.add_partial(self.index, last, self.steps)
