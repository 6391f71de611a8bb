"""Why Parsl has ended, as it is told to whoever asks for a result."""

from __future__ import annotations

import copy
from typing import TypeVar

from ase.calculators.calculator import PropertyNotImplementedError

from rootstock.errors import RootstockError, SchedulerError, WorkerError

_Error = TypeVar("_Error", bound=BaseException)
AGAIN = "What is recorded or returned stays. Type the same command again to compute the rest."
_AGAIN_IN_PYTHON = "Futures that are done keep their results. Load Parsl again, and evaluate the rest."
_REFUSED_IN_PYTHON = "Ask for something else: config(partition=..., account=..., walltime=..., options=[...])"


def as_new(error: _Error) -> _Error:
    """Return an error that many may raise, as one that nobody has raised: each raise adds to its traceback.

    One of somebody else's is returned as it is: its traceback may be all that is known.

    Parameters
    ----------
    error : BaseException
    """
    ours = isinstance(error, RootstockError | PropertyNotImplementedError)
    if not ours:
        return error
    copied = copy.copy(error)
    copied.__cause__ = copied.__context__ = None
    return copied.with_traceback(None)  # Parsl changes what a copy of an error is: with all of that


def in_python(error: RootstockError) -> RootstockError:
    """Return an error as new, with the next thing to try in a program: it has no options of a command line.

    Parameters
    ----------
    error : RootstockError
    """
    if isinstance(error, SchedulerError):
        return type(error)(error.message, _REFUSED_IN_PYTHON)
    return type(error)(error.message, _AGAIN_IN_PYTHON) if error.hint == AGAIN else as_new(error)


def gone() -> RootstockError:
    """Return the error of an interchange that is gone."""
    return WorkerError("Parsl's interchange, through which all tasks go, has ended.", AGAIN)


def stalled(seconds: float) -> RootstockError:
    """Return the error of workers that do nothing.

    Parameters
    ----------
    seconds : float
        For how long they have done nothing.
    """
    return WorkerError(
        f"Parsl has stalled: for {seconds:.0f} s its workers have ended no task and recorded nothing, and none of them "
        "computes.",
        AGAIN,
    )


def jobs_fail(error: BaseException | None, folder: str) -> RootstockError:
    """Return the error of jobs that fail, as Parsl has noticed.

    Parameters
    ----------
    error : BaseException or None
        What Parsl says.
    folder : str
        In which it keeps its files.
    """
    said = " ".join(str(error or "").split())[:500] or "nobody says why"
    return WorkerError(
        f"Parsl's jobs fail: {said}",
        f"What they say is in {folder}. What is recorded stays. If this repeats, submit one by hand.",
    )
