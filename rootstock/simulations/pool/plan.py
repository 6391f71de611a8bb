"""How a pool computes, and whom it tells what happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rootstock.client.evaluated import FailureClass
from rootstock.errors import RootstockError
from rootstock.simulations.pool.work import Work

if TYPE_CHECKING:
    from rootstock.simulations.pool.slots import Slot

GRACE_S = 30.0


@dataclass(frozen=True)
class Plan:
    """How a pool computes.

    Attributes
    ----------
    slots : sequence of Slot
    begin : callable
        Returns what the driver of a slot is told first; see `rootstock.simulations.pool.driver`.
    work : callable
        Returns what is to be computed, given the kind of GPU.
    workers_per_gpu : int
    stop_on_error : bool
        Whether the first structure that fails ends it.
    grace : float [s]
        How long drivers may take to end once somebody asks for that.
    deadline : float or None
        When the job ends, as `time.time` counts.
    """

    slots: Sequence[Slot]
    begin: Callable[[Slot], Mapping[str, Any]]
    work: Callable[[str], Work]
    workers_per_gpu: int = 1
    stop_on_error: bool = False
    grace: float = GRACE_S
    deadline: float | None = None


@dataclass
class Told:
    """Whom a pool tells what happens, and asks.

    Attributes
    ----------
    recorded : callable
        Is given indices that are on the disk.
    missing : callable
        Returns those of some indices that are not on the disk.
    fail : callable
        Records the failure of a structure that ends drivers.
    states : callable
        Is given what each driver does, as text by the name of its slot, when that changes.
    closed : callable
        Is given the name of a slot that gets no driver any more, and what was said of the last one.
    warn : callable
        Is given text for people.
    signals : callable
        Returns how many signals to end have come.
    """

    recorded: Callable[[Sequence[int]], object]
    missing: Callable[[Sequence[int]], list[int]]
    fail: Callable[[int, FailureClass, RootstockError], object]
    states: Callable[[Mapping[str, str]], object] = lambda _: None
    closed: Callable[[str, str], object] = lambda _, __: None
    warn: Callable[[str], object] = lambda _: None
    signals: Callable[[], int] = lambda: 0
