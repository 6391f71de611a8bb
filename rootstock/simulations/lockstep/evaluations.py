"""How the structures of a step are computed: by a worker, many at once, or by a calculator, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ase.calculators.calculator import PropertyNotImplementedError

from rootstock.client.evaluated import Evaluated, FailureClass
from rootstock.client.many import ManyStructures
from rootstock.client.reported import failure_class
from rootstock.errors import ConfigurationError, ModelError, RootstockError, WorkerStartError
from rootstock.simulations.extra_results import extra_results
from rootstock.simulations.lockstep.live import Live
from rootstock.simulations.relax import Relaxation


class Evaluations(Protocol):
    """Computes what relaxations need for their next step.

    Attributes
    ----------
    apart : bool
        Whether another process computes, and this one can do something else meanwhile.
    largest_part : int
        How many atoms are computed together at most, as far as that is known; 0 if one structure is after the other.
    """

    apart: bool

    @property
    def largest_part(self) -> int: ...

    def compute(self, cohort: Sequence[Live]) -> Iterator[Evaluated]:
        """Yield what becomes of each, in any order, with its key as index."""

    def stop(self) -> None:
        """Compute no more than what is being computed."""


def evaluations(calculator: Any, relaxation: Relaxation) -> Evaluations:
    """Return what computes energy, forces, and where cells are relaxed stress.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
        One of ours has a worker, which starts now.
    relaxation : Relaxation

    Raises
    ------
    ConfigurationError
        If the calculator does not compute one of them.
    WorkerError
        If no worker can be started.
    """
    names = ("energy", "forces") if relaxation.cell == "fixed" else ("energy", "forces", "stress")
    offered = calculator.implemented_properties
    if missing := [name for name in names if name not in offered]:
        raise ConfigurationError(f"The model does not compute {missing[0]}; it computes {', '.join(offered)}.")
    if hasattr(calculator, "many_structures"):
        return _ByWorker(calculator.many_structures(names))
    return _OneByOne(calculator, names)


class _ByWorker:
    apart = True

    def __init__(self, many: ManyStructures) -> None:
        self._many, self.stop = many, many.stop

    @property
    def largest_part(self) -> int:
        return self._many.largest_part

    def compute(self, cohort: Sequence[Live]) -> Iterator[Evaluated]:
        return self._many.compute([(live.key, live.atoms) for live in cohort])


class _OneByOne:
    apart, largest_part = False, 0

    def __init__(self, calculator: Any, names: Sequence[str]) -> None:
        self._calculator, self._names = calculator, names
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def compute(self, cohort: Sequence[Live]) -> Iterator[Evaluated]:
        for live in cohort:
            if self._stopped:
                return
            yield self._one(live)

    def _one(self, live: Live) -> Evaluated:
        try:
            results = {name: self._calculator.get_property(name, live.atoms) for name in self._names}
        except WorkerStartError:  # whatever the structure
            raise
        except RootstockError as error:
            return Evaluated(live.key, None, error, live.atoms, failure_class(error))
        except PropertyNotImplementedError as error:
            return self._failed(live, ConfigurationError(str(error)))
        except Exception as error:  # noqa: BLE001  # whatever a calculator raises: the others go on
            return self._failed(live, ModelError(f"The calculator failed: {type(error).__name__}: {error}"))
        return Evaluated(live.key, results, None, live.atoms, extra_results=dict(extra_results(self._calculator)))

    @staticmethod
    def _failed(live: Live, error: RootstockError) -> Evaluated:
        return Evaluated(live.key, None, error, live.atoms, FailureClass.STRUCTURE)
