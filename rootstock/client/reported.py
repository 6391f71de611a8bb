"""What a worker reports of an exception, as the error that the caller sees."""

from __future__ import annotations

import signal

from rootstock import errors
from rootstock.client.evaluated import FailureClass
from rootstock.client.process import WorkerProcess
from rootstock.errors import (
    ModelError,
    OutOfMemoryError,
    RootstockError,
    UnsupportedPropertyError,
    WorkerDiedError,
    WorkerError,
    WorkerProtocolError,
    WorkerStartError,
    WorkerTimeoutError,
)
from rootstock.worker.channel.failures import Failure, FailureCode

_KINDS: dict[FailureCode, tuple[type[WorkerError], FailureClass]] = {
    FailureCode.UNSUPPORTED_PROPERTY: (UnsupportedPropertyError, FailureClass.STRUCTURE),
    FailureCode.OUT_OF_MEMORY: (OutOfMemoryError, FailureClass.RESOURCE),
    FailureCode.INPUT_OUTPUT: (ModelError, FailureClass.INFRASTRUCTURE),
    FailureCode.LOST_GPU: (ModelError, FailureClass.INFRASTRUCTURE),
    FailureCode.CANNOT_SERVE: (WorkerError, FailureClass.INFRASTRUCTURE),
}
# Somebody, or the batch system, has ended the worker; or the kernel, for lack of memory.
_FROM_OUTSIDE = {
    getattr(signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGKILL", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGXFSZ", "SIGPWR")
    if hasattr(signal, name)
}
# After these a worker cannot serve any more.
USELESS = {
    FailureCode.LOST_GPU: "The GPU context is unusable after this error",
    FailureCode.CANNOT_SERVE: "The model, or the job, has set a limit under which the worker cannot go on",
}


def reported_error(process: WorkerProcess, report: Failure) -> tuple[WorkerError, FailureClass]:
    """Return the error for an exception in a worker, and whose fault it is.

    Parameters
    ----------
    process : WorkerProcess
    report : Failure
    """
    kind, failure = _KINDS.get(report.code, (ModelError, FailureClass.STRUCTURE))
    who = "model" if issubclass(kind, ModelError) else "worker"
    error = process.failure(kind, f"The {who} {process.title} failed", report)
    error.code = report.code.value
    return error, failure


def failure_class(error: RootstockError) -> FailureClass:
    """Return whose fault it is that a structure has no results.

    Parameters
    ----------
    error : RootstockError
        Of a worker that was lost, if it was fresh, and was given nothing but this structure.
    """
    for code, (_, failure) in _KINDS.items():
        if isinstance(error, WorkerError) and error.code == code.value:
            return failure
    if isinstance(error, WorkerStartError | WorkerProtocolError):
        return FailureClass.INFRASTRUCTURE
    exited = error.returncode if isinstance(error, WorkerDiedError) else None
    number = 0 if exited is None else -exited if exited < 0 else exited - 128
    return FailureClass.INFRASTRUCTURE if number in _FROM_OUTSIDE else FailureClass.STRUCTURE


def error_class(name: str) -> type[RootstockError]:
    """Return our class of errors that has a name; `RootstockError` if none has.

    Parameters
    ----------
    name : str
        As another process of ours has told it.
    """
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, RootstockError) else RootstockError


def was_lost(error: WorkerError) -> bool:
    """Return whether a worker was lost with an error, perhaps for what it had computed before.

    Parameters
    ----------
    error : WorkerError
    """
    gone = isinstance(error, WorkerDiedError | WorkerTimeoutError)
    return gone or error.code in {code.value for code in USELESS}


def useless_error(process: WorkerProcess, report: Failure) -> WorkerError:
    """Return the error for an exception after which a worker was ended.

    Parameters
    ----------
    process : WorkerProcess
    report : Failure
    """
    error, _ = reported_error(process, report)
    process.explain(error)  # in the output, CUDA says which assertion failed
    reason = USELESS.get(report.code, "The worker has failed")
    error.hint = f"{reason}; the worker was stopped. The next call starts a new one."
    return error
