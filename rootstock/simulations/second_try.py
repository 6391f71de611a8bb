"""Whose fault the failure of one structure is, where each is computed alone: a fresh worker is asked, too.

For many at once, `rootstock.client.blame` finds that out with fewer workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from rootstock.client.evaluated import FailureClass
from rootstock.client.reported import failure_class, was_lost
from rootstock.errors import UnsupportedPropertyError, WorkerError, WorkerStartError

_T = TypeVar("_T")


def with_second_try(calculator: Any, compute: Callable[[], _T]) -> _T:
    """Return what a computation returns; if a worker fails, what it returns with a fresh one.

    So no structure has the blame for what was computed before it, nor the next one for this one.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
    compute : callable
        Computes one structure, from its beginning.

    Raises
    ------
    WorkerError
        That of the fresh worker.
    """
    try:
        return compute()
    except WorkerError as error:
        if not renewed(calculator, error):
            raise
    try:
        return compute()
    except WorkerError as error:
        renewed(calculator, error)
        raise


def renewed(calculator: Any, error: WorkerError) -> bool:
    """End a worker that has failed, and tell whether a fresh one may do better.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
    error : WorkerError
    """
    if was_lost(error):
        return True
    if isinstance(error, WorkerStartError | UnsupportedPropertyError):
        return False
    if failure_class(error) is FailureClass.INFRASTRUCTURE:
        return False
    renew = getattr(calculator, "renew", None)  # that of others has no worker of ours, or does not say which
    if renew is not None:
        renew()
    return renew is not None
