"""What a worker of Parsl's computes of structures that come with the task, and the calculators that it keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ase import Atoms

from rootstock.client.evaluated import FailureClass
from rootstock.errors import RootstockError
from rootstock.interfaces.arguments import check_arguments
from rootstock.interfaces.calculator import RootstockCalculator
from rootstock.simulations.parsl_engine.busy import busy
from rootstock.simulations.parsl_engine.pinning import pin

_MOST = 3  # models that a process keeps in memory
_kept: dict[str, RootstockCalculator] = {}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a structure, which its owner still has: see `rootstock.calculator.Evaluated`."""

    results: dict[str, Any] | None
    error: RootstockError | None
    failure: FailureClass | None
    extra_results: dict[str, Any]


def warm_calculator(parameters: Mapping[str, Any]) -> RootstockCalculator:
    """Return the calculator with some arguments that this process has, on the GPU that is its own.

    Its worker is started with the first call, and serves all later ones.

    Parameters
    ----------
    parameters : Mapping
        Of the calculator, as it has them.
    """
    key = json.dumps(parameters, sort_keys=True, default=str)
    if (found := _kept.pop(key, None)) is None:
        while len(_kept) >= _MOST:
            _kept.pop(next(iter(_kept))).close()
        found = RootstockCalculator(**parameters)
        if (slot := pin(found)) is not None:
            found = RootstockCalculator(**{**parameters, "threads": slot.threads})
    _kept[key] = found  # the one that was used last is the last
    return found


def kept_calculator(**arguments: Any) -> RootstockCalculator:
    """Return a calculator in an app of your own: this worker of Parsl's keeps it, and its model, for later ones.

    It computes on the GPU of the worker: a name out of the job's own variable, by the worker's rank.

    Parameters
    ----------
    **arguments
        Of `rootstock.RootstockCalculator`, such as ``model``.

    Examples
    --------
    >>> @parsl.python_app  # doctest: +SKIP
    ... def neb_barrier(images):
    ...     from rootstock.parsl import kept_calculator
    ...     calc = kept_calculator(model="mace-medium")
    """
    return warm_calculator(check_arguments(arguments))


def evaluate_shard(
    parameters: Mapping[str, Any], properties: Sequence[str] | None, images: Sequence[Atoms]
) -> list[Outcome]:
    """Compute structures.

    Parameters
    ----------
    parameters : Mapping
        As for `warm_calculator`.
    properties : sequence of str or None
        As for `RootstockCalculator.evaluate_many`.
    images : sequence of ase.Atoms
    """
    with busy():
        calculator = warm_calculator(parameters)
        done = calculator.evaluate_many(images, properties)
        return [Outcome(each.results, each.error, each.failure, each.extra_results) for each in done]
