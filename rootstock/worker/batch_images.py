"""The structures of a batch as Atoms objects, and what they cost."""

from __future__ import annotations

from ase import Atoms

from rootstock.worker.batch_hook import BatchHook
from rootstock.worker.batch_structures import Structures
from rootstock.worker.evaluate import Evaluator

_GLANCE = 8  # structures whose cost is asked for at a time


class Images:
    """The structures of a batch as Atoms objects, made when they are needed: a hook may keep what it knows of them.

    Parameters
    ----------
    batch : Structures
    evaluator : Evaluator
    hook : BatchHook
    """

    def __init__(self, batch: Structures, evaluator: Evaluator, hook: BatchHook) -> None:
        self._batch, self._evaluator, self._hook = batch, evaluator, hook
        self._made: dict[int, tuple[Atoms, bool]] = {}
        self._costs: dict[int, float] = {}
        # Whoever pads to fixed sizes, and does not say what costs what, counts atoms.
        self._plain = [float(atoms) for atoms in batch.atoms] if hook.shapes else batch.costs()

    def image(self, k: int) -> tuple[Atoms, bool]:
        """Return one of them, and whether it has a stress; `k` is its place."""
        if k not in self._made:
            self._made[k] = self._batch.image(k, self._evaluator)
        return self._made[k]

    def cost(self, k: int) -> float:
        """Return what one of them costs; `k` is its place."""
        if k not in self._costs:
            near = [each for each in range(k, min(k + _GLANCE, len(self._batch))) if self._batch.suits[each]]
            images = [self.image(each)[0] for each in near] if self._hook.says_cost else []
            costs = self._hook.cost(images) if images else None
            self._costs.update(zip(near, costs or [self._plain[each] for each in near], strict=True))
        return self._costs[k]

    def drop(self, before: int, *, again: bool) -> None:
        """Forget what is done; and all that a hook was given in vain, which it may have changed.

        Parameters
        ----------
        before : int
            The first that is not done.
        again : bool
            Whether it was in vain.
        """
        for k in [k for k in self._made if k < before or again]:
            del self._made[k]
