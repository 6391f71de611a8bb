"""A calculator's own way to compute many structures together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ase import Atoms

from rootstock.worker.batch_size import FIRST_ATOMS, BatchSize

_PATIENCE = 3  # times that it may fail though each structure can be computed alone


class BatchHook:
    """``calculate_batch`` of a calculator, and what it says of itself.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
    on_gpu : bool
        Whether it computes on one.

    Attributes
    ----------
    shapes : list of float
        The only sizes of a part, ascending; none: any.
    refusals : int
        How often it failed though each structure could be computed alone.
    reason : str
        How, the last time; or why it is not used.
    sizes : dict of int to BatchSize
        By what is asked, as bits.
    """

    def __init__(self, calculator: Any, *, on_gpu: bool) -> None:
        self._compute = _method(calculator, "calculate_batch")
        self._cost = _method(calculator, "batch_cost")
        self.shapes = _shapes(getattr(calculator, "fixed_shapes", ()))
        self._on_gpu = on_gpu
        self._declined: set[int] = set()
        self.sizes: dict[int, BatchSize] = {}
        self.refusals, self.reason = 0, ""

    @property
    def says_cost(self) -> bool:
        """Whether the calculator says what structures cost."""
        return self._cost is not None

    def serves(self, asked: int) -> bool:
        """Tell whether structures are computed together that this is asked of."""
        return self._compute is not None and self.refusals < _PATIENCE and asked not in self._declined

    def size(self, asked: int, cost_of_an_atom: float) -> BatchSize:
        """Return how much is computed together.

        Parameters
        ----------
        asked : int
            As bits.
        cost_of_an_atom : float
            In the unit of `cost`.
        """
        first = FIRST_ATOMS[self._on_gpu] * max(cost_of_an_atom, 1e-9)
        if asked not in self.sizes:
            self.sizes[asked] = BatchSize(first, self.shapes)
        self.sizes[asked].at_least(first)
        return self.sizes[asked]

    def resume(self, asked: int, limit: float) -> None:
        """Begin where a worker before has arrived.

        Parameters
        ----------
        asked : int
            As bits.
        limit : float
        """
        if asked not in self.sizes and 0 < limit < float("inf"):
            self.sizes[asked] = BatchSize(limit, self.shapes, known=True)

    def cost(self, images: Sequence[Atoms]) -> list[float] | None:
        """Return what each structure costs; None if the calculator does not say."""
        if self._cost is None:
            return None
        try:
            costs = [float(cost) for cost in self._cost(list(images))]
            if len(costs) == len(images) and all(0 <= cost < float("inf") for cost in costs):
                return costs
            problem = f"it returned {costs!r:.200}"
        except Exception as error:  # noqa: BLE001  # an estimate is not worth a result
            problem = f"{type(error).__name__}: {error}"
        self._cost = None
        print(f"batch_cost is not used any more: {problem}", file=sys.stderr, flush=True)  # noqa: T201  # into the log
        return None

    def compute(self, images: list[Atoms], names: list[str]) -> list[Any]:
        """Return for each structure its results, or an exception.

        Parameters
        ----------
        images : list of ase.Atoms
        names : list of str
            What is asked, by ASE's names.

        Raises
        ------
        TypeError
            If there are not as many as structures.
        """
        assert self._compute is not None
        found = list(self._compute(images, names))
        if len(found) != len(images):
            raise TypeError(f"calculate_batch returned {len(found)} results for {len(images)} structures.")
        return found

    def decline(self, asked: int, reason: str) -> None:
        """Ask it no more for these properties: it has said that it does not compute them.

        Parameters
        ----------
        asked : int
            As bits.
        reason : str
            What it said.
        """
        self._declined.add(asked)
        self.reason = f"it declines: {reason[:500]}"
        print(f"calculate_batch is not used for what was asked: {reason}", file=sys.stderr, flush=True)  # noqa: T201

    def refuse(self, reason: str) -> None:
        """Count that it failed though each structure could be computed alone."""
        self.refusals += 1
        self.reason = reason[:500]
        print(f"calculate_batch failed, and each structure alone did not: {reason}", file=sys.stderr, flush=True)  # noqa: T201


def _method(calculator: Any, name: str) -> Any:
    method = getattr(calculator, name, None)
    return method if callable(method) else None


def _shapes(value: Any) -> list[float]:
    try:
        return sorted(float(shape) for shape in value if 0 < float(shape) < float("inf"))
    except (TypeError, ValueError):
        return []
