"""What a worker reports of an exception, as the error that the caller sees."""

from __future__ import annotations

from rootstock.client.evaluated import FailureClass
from rootstock.client.process import WorkerProcess
from rootstock.errors import ModelError, OutOfMemoryError, UnsupportedPropertyError, WorkerError
from rootstock.worker.channel.failures import Failure, FailureCode

_KINDS: dict[FailureCode, tuple[type[WorkerError], FailureClass]] = {
    FailureCode.UNSUPPORTED_PROPERTY: (UnsupportedPropertyError, FailureClass.STRUCTURE),
    FailureCode.OUT_OF_MEMORY: (OutOfMemoryError, FailureClass.RESOURCE),
    FailureCode.INPUT_OUTPUT: (ModelError, FailureClass.INFRASTRUCTURE),
    FailureCode.LOST_GPU: (ModelError, FailureClass.INFRASTRUCTURE),
    FailureCode.CANNOT_SERVE: (WorkerError, FailureClass.INFRASTRUCTURE),
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
    return process.failure(kind, f"The {who} {process.title} failed", report), failure


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
