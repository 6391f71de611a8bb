"""How often Parsl tries a task again."""

from __future__ import annotations

from ase.calculators.calculator import PropertyNotImplementedError
from parsl.dataflow.taskrecord import TaskRecord
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

from rootstock.errors import RootstockError, WorkerError
from rootstock.simulations.parsl_engine.shard import compute_shard

LOST = (WorkerLost, ManagerLost)
_LITTLE, _TOO_MUCH = 0.01, 10.0**6
_LOSSES = 6  # of workers and jobs that a task may be in


def cost_of_retry(exception: Exception, record: TaskRecord) -> float:
    """Return what a failure costs of the retries of a task, for Parsl.

    A job that comes to the end of its time, or a node that is lost, is no fault of the task. A task that ends its
    worker again and again is.

    Parameters
    ----------
    exception : Exception
    record : TaskRecord
        Parsl's.
    """
    if record["func"] is compute_shard:  # its head knows what is recorded, and tries that again which is not
        return _TOO_MUCH
    final = isinstance(exception, RootstockError) and not isinstance(exception, WorkerError)
    if final or isinstance(exception, PropertyNotImplementedError):
        return _TOO_MUCH
    if isinstance(exception, LOST) and record["fail_count"] <= _LOSSES:
        return _LITTLE
    return 1.0
