"""Relax a list of structures."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from ase import Atoms

from rootstock.client.batch_arrays import require_atoms
from rootstock.client.evaluated import FailureClass
from rootstock.client.reported import failure_class
from rootstock.errors import ConfigurationError, NotConvergedError, WorkerError, WorkerStartError
from rootstock.simulations.extra_results import extra_results
from rootstock.simulations.lockstep.engine import Lockstep
from rootstock.simulations.lockstep.live import can_lockstep
from rootstock.simulations.lockstep.relaxed import Relaxed
from rootstock.simulations.relax import Relaxation
from rootstock.simulations.second_try import with_second_try

logger = logging.getLogger("rootstock")


def relax_many(
    structures: Iterable[Atoms],
    calculator: Any,
    relaxation: Relaxation,
    *,
    on_done: Callable[[Relaxed], object] | None = None,
) -> list[Relaxed]:
    """Relax many structures together, each as ASE's optimizer relaxes it alone.

    The worker computes the structures of a step together where its model can, and a structure that converges makes room
    for the next one. Optimizers that search along a line relax one structure after the other.

    Parameters
    ----------
    structures : iterable of ase.Atoms
        They may differ in everything, and are not changed.
    calculator : RootstockCalculator
        Any other calculator of ASE's kind computes one structure after the other.
    relaxation : Relaxation
    on_done : callable, optional
        Is given each structure when it is done, in another order.

    Returns
    -------
    list of Relaxed
        In the order of `structures`. One that fails does not keep the others from being relaxed. If no worker can be
        started any more, those that are left have that error.

    Raises
    ------
    ConfigurationError
        If the model does not compute what is needed, or one is something else than `ase.Atoms`.
    WorkerError
        If no worker can be started at all.

    Examples
    --------
    >>> import rootstock
    >>> relaxation = rootstock.Relaxation(fmax=0.02, cell="full")
    >>> relaxed = rootstock.relax_many(structures, calc, relaxation)  # doctest: +SKIP
    >>> ase.io.write("relaxed.extxyz", [each.atoms for each in relaxed])  # doctest: +SKIP
    """
    if not isinstance(relaxation, Relaxation):
        raise ConfigurationError(
            f"{relaxation!r} is no rootstock.Relaxation.", "For example: rootstock.Relaxation(fmax=0.02, cell='full')"
        )
    if not hasattr(calculator, "implemented_properties"):
        raise ConfigurationError(
            f"{calculator!r} is no calculator.", "For example: rootstock.RootstockCalculator(model='mace-medium')"
        )
    kept = list(structures)
    for index, atoms in enumerate(kept):
        require_atoms(index, atoms)
    done: dict[int, Relaxed] = {}
    lockstep = Lockstep(calculator, relaxation) if can_lockstep(relaxation.optimizer) else None
    results = lockstep.run(_feed(kept)) if lockstep else _one_by_one(kept, calculator, relaxation)
    try:
        for each in results:
            done[each.index] = each
            if on_done is not None:
                on_done(each)
    except WorkerError as error:
        if not done:
            raise
        begun = {key: (atoms, steps) for key, atoms, steps in (lockstep.unfinished() if lockstep else ())}
        for index in sorted(set(range(len(kept))) - done.keys()):
            atoms, steps = begun.get(index, (kept[index], 0))
            done[index] = Relaxed(index, None, error, atoms, FailureClass.INFRASTRUCTURE, None, steps)
            if on_done is not None:
                on_done(done[index])
    return [done[index] for index in range(len(kept))]


def _feed(structures: Sequence[Atoms]) -> Callable[[int, bool], Iterator[tuple[int, Atoms, int]]]:
    """Return what hands out structures, the largest first: none of those is left when all others are done."""
    waiting = deque(sorted(range(len(structures)), key=lambda index: -len(structures[index])))

    def feed(room: int, wait: bool) -> Iterator[tuple[int, Atoms, int]]:
        while waiting and (wait or len(structures[waiting[0]]) <= room):
            index = waiting.popleft()
            room, wait = room - len(structures[index]), False
            yield index, structures[index], 0

    return feed


def _one_by_one(structures: Sequence[Atoms], calculator: Any, relaxation: Relaxation) -> Iterator[Relaxed]:
    """Relax one structure after the other."""
    logger.warning(
        "Relaxations by %s cannot go on together: one structure is relaxed after the other.", relaxation.optimizer
    )
    for index, atoms in enumerate(structures):
        steps = 0

        def note(step: int, atoms: Atoms, force: float) -> None:  # noqa: ARG001
            nonlocal steps
            steps = step

        try:
            relaxed = with_second_try(calculator, partial(relaxation.run, atoms, calculator, on_step=note))
            extra = dict(extra_results(calculator))
        except WorkerStartError:  # whatever the structure
            raise
        except (ConfigurationError, NotConvergedError, WorkerError) as error:
            yield Relaxed(index, None, error, atoms, failure_class(error), None, steps)
        else:
            results, relaxed.calc = relaxed.calc.results, None
            converged = bool(relaxed.info["converged"])
            yield Relaxed(index, results, None, relaxed, None, converged, steps, extra_results=extra)
