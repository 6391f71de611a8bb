"""Which GPU of its job, or which processors, a worker of Parsl's uses.

Parsl's own way counts what ``nvidia-smi -L`` lists, which may be the GPUs of other jobs, and sets the variables of all
makers. Here it is the pool's way: a name out of the job's own variable, by the rank of the worker, and no other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from rootstock.errors import ConfigurationError
from rootstock.interfaces.calculator import RootstockCalculator
from rootstock.simulations.pool.run import Workers, find_places
from rootstock.simulations.pool.slots import Slot

_GIVEN = dict(os.environ)  # by the job, and by Parsl's manager
_BOUND = os.sched_getaffinity(0) if sys.platform == "linux" else set()
_changed: set[str] = set()


def pin(calculator: RootstockCalculator, given: Mapping[str, str] = _GIVEN) -> Slot | None:
    """Let this process see only what is its own, and so all workers that it starts from now on.

    Parameters
    ----------
    calculator : RootstockCalculator
        It has started no worker.
    given : Mapping[str, str]
        The environment that this process was started in.

    Returns
    -------
    Slot or None
        None if this process is none of several of Parsl's.

    Raises
    ------
    ConfigurationError
        If the job has fewer GPUs than workers.
    DeviceError
        If it has none.
    """
    if "PARSL_WORKER_RANK" not in given:
        return None
    for name in _changed:
        _set(name, given.get(name))
    if _BOUND:
        os.sched_setaffinity(0, _BOUND)
    rank, workers = int(given["PARSL_WORKER_RANK"]), int(given.get("PARSL_WORKER_COUNT", 1))
    slots = find_places(calculator, Workers(workers))
    if rank >= len(slots):
        raise ConfigurationError(f"Parsl's worker {rank} has no place: there are {len(slots)}.", "Ask for fewer.")
    slot = slots[rank]
    for name, value in slot.variables.items():
        _changed.add(name)
        _set(name, value)
    if slot.processors:
        os.sched_setaffinity(0, slot.processors)
    return slot


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
