"""Computes a run with several drivers: hands out structures, replaces what is lost, and ends in time."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rootstock.client.evaluated import FailureClass
from rootstock.client.reported import failure_class
from rootstock.errors import (
    DeviceError,
    MissingWeightsError,
    RootstockError,
    WorkerError,
    WorkerProtocolError,
    WorkerStartError,
)
from rootstock.simulations.pool.member import Member, as_error
from rootstock.simulations.pool.plan import Plan, Told
from rootstock.simulations.pool.slots import check_devices
from rootstock.simulations.pool.work import Work

_LOOK_S = 0.2
_DEATHS = 3  # of one slot, without a result between them: then it gets no driver any more
_PARTING_S = 30.0  # drivers that have nothing to do any more may take so long to end
_BEFORE_S = 10.0  # the end of a job, by which all must have ended


class Pool:
    """Drivers that compute together.

    Parameters
    ----------
    plan : Plan
    told : Told
    """

    def __init__(self, plan: Plan, told: Told) -> None:
        self._plan, self._told, self._work = plan, told, Work()
        self._members: dict[int, Member] = {}  # by the number of their slot
        self._deaths: dict[int, int] = {}
        self._closed: dict[str, str] = {}  # slots, and what is said of them
        self._fatal: RootstockError | None = None  # ends all
        self._error: RootstockError | None = None  # the last one of a driver that was replaced, or not any more
        self._ends_at: float | None = None  # as `time.monotonic` counts; all are ended then
        self._stopped = self._all_there = False
        self._shown: Mapping[str, str] = {}
        self._warned: set[str] = set()

    def run(self) -> bool:
        """Compute until nothing is left, or somebody asks to end.

        Returns
        -------
        bool
            Whether everything was computed; False if somebody has ended it before.

        Raises
        ------
        ConfigurationError, OutputError
            If the run cannot go on. What was recorded stays.
        WorkerError
            If no driver can compute, or structures could not be computed, by no fault of their own.
        """
        with selectors.DefaultSelector() as self._selector:
            try:
                for number in range(len(self._plan.slots)):
                    self._start(number)
                while self._members and not (self._ends_at is not None and time.monotonic() >= self._ends_at):
                    for key, _ in self._selector.select(_LOOK_S):
                        if key.data in self._members:  # what another one has said may have ended it
                            self._hear(key.data)
                    self._look_at_the_time()
                    self._hand_out()
                    self._show()
            finally:
                open_ones = [index for member in self._members.values() for index in member.has]
                for member in self._members.values():
                    member.end()
        if self._fatal is not None:
            raise self._fatal
        left = not self._all_there or len(self._work) + len(open_ones) + self._work.given_up > 0
        if left and not self._stopped and self._error is not None:
            raise self._error
        return not left

    # -- drivers

    def _start(self, number: int) -> None:
        slot = self._plan.slots[number]
        self._members[number] = member = Member(slot, self._plan.begin(slot))
        self._selector.register(member.wire, selectors.EVENT_READ, number)

    def _hear(self, number: int) -> None:
        member, told = self._members[number], []
        try:
            messages = member.wire.receive()
            for message in messages or ():
                [(what, value)] = message.items()
                if (tell := self._take(number, member, what, value)) is not None:
                    told.append(tell)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            member.error = WorkerProtocolError(f"The driver of {member.slot.name} says what none says: {error!r}.")
            messages = None
        for tell in told:  # what goes wrong there is no fault of the driver
            tell()
        if messages is None:
            self._gone(number)

    def _take(self, number: int, member: Member, what: str, value: Any) -> Callable[[], object] | None:
        """Take over what a driver says, and return what tells others of it."""
        if what == "recorded":
            for index in value:
                del member.has[index]
            if value:  # not only failures that are not final
                self._deaths.pop(number, None)
                member.state = "computing"
                return partial(self._told.recorded, value)
        elif what == "want":
            member.wants = int(value)
        elif what == "back":
            del member.has[value]
            self._work.back([value])
        elif what == "ready":
            member.ready, member.state = dict(value), "computing"
        elif what == "say":
            member.state = " ".join(str(value).split())  # a line for people
        elif what == "warn":
            if value not in self._warned:  # all of them may say the same
                self._warned.add(value)
                return partial(self._told.warn, f"{member.slot.name}: {value}")
        elif what == "error":
            member.error = as_error(value)
        elif what == "end":
            member.over = True
        else:
            raise ValueError(what)
        return None

    def _remove(self, number: int) -> Member:
        member = self._members.pop(number)
        self._selector.unregister(member.wire)
        member.end()
        return member

    def _gone(self, number: int) -> None:
        """See to what a driver had that has ended, and to another one in its slot."""
        member = self._remove(number)
        left = self._told.missing([*member.has]) if member.has else []
        died = member.error is None and (bool(left) or not member.over)
        error = member.died() if died else member.error
        if recorded := [*(member.has.keys() - left)]:
            self._told.recorded(recorded)
        if error is None or self._stopped:
            self._fatal = self._fatal or (None if isinstance(error, WorkerError) else error)
            self._work.put_back(left)
        elif self._is_for_all(error):
            self._fatal = error
            self._work.put_back(left)
            self._stop(self._plan.grace)
        else:
            self._error = error
            if not died:
                self._work.back(left)
            elif (reason := self._work.lost(left, with_nothing_else=member.with_nothing_else)) is not None:
                self._told.fail(reason, kind := failure_class(error), error)
                self._work.given_up += kind is FailureClass.INFRASTRUCTURE
            self._replace(number, error)

    def _is_for_all(self, error: RootstockError) -> bool:
        """Tell whether an error ends all drivers: it is none of a structure, a node or a GPU, or it is to."""
        if self._plan.stop_on_error or not isinstance(error, WorkerError):
            return True
        return not self._all_there and isinstance(error, DeviceError | MissingWeightsError)

    def _replace(self, number: int, error: RootstockError) -> None:
        said, name = error.message.partition("\n")[0], self._plan.slots[number].name
        self._deaths[number] = self._deaths.get(number, 0) + 1
        if self._deaths[number] >= _DEATHS:
            details = getattr(error, "details", "")  # they lie on this node, which others may not see
            self._told.warn("\n".join(filter(None, (f"{name}: {said} It gets no driver any more.", details))))
            self._closed[name] = "gets no driver any more"
            self._told.closed(name, said)
        elif len(self._work) or not self._all_there:
            self._told.warn(f"{name}: {said} Another driver is started.")
            try:
                self._start(number)
            except WorkerStartError as cannot:  # the node has no room for another process
                self._error = cannot
                self._replace(number, cannot)

    # -- work

    def _hand_out(self) -> None:
        members = self._members.values()
        if self._stopped or not members:
            return
        if not self._all_there:
            said = [member.ready for member in members if member.ready is not None]
            if len(said) < len(members) or not self._begin(said):
                return
        for member in members:
            if not member.wants or (member.has and member.with_nothing_else):
                continue
            if member.has and len(self._work) <= sum(not other.has for other in members):
                continue  # it asks ahead, and what is left is for those that have nothing
            if not member.has and (suspects := self._work.suspects()):
                member.hand(suspects, with_nothing_else=True)
            elif indices := self._work.take(member.wants):
                member.hand(indices)
        if not len(self._work) and not any(member.has for member in members) and self._ends_at is None:
            self._ends_at = time.monotonic() + _PARTING_S
            self._part(none=True)

    def _begin(self, said: Sequence[Mapping[str, Any]]) -> bool:
        """Find out what there is to do, once all drivers are there, and tell whether they may do it."""
        self._all_there = True
        try:
            check_devices(
                [member.slot for member in self._members.values()], [each.get("gpu_uuid") for each in said],
                self._plan.workers_per_gpu,
            )  # fmt: skip
            self._work = self._plan.work(str(said[0].get("gpu") or ""))
        except RootstockError as error:
            self._fatal = error
            self._stop(0.0)
            return False
        return True

    # -- the end

    def _look_at_the_time(self) -> None:
        signals, deadline = self._told.signals(), self._plan.deadline
        if signals > 1:
            self._stop(0.0)
        elif signals:
            if not self._stopped:
                self._told.warn("Ending: what is unfinished is recorded. Once more, to end at once.")
            self._stop(self._plan.grace)
        elif deadline is not None and time.time() >= deadline - self._plan.grace - _BEFORE_S:
            if not self._stopped:
                self._told.warn("The job is about to end: what is unfinished is recorded.")
            self._stop(self._plan.grace)

    def _stop(self, grace: float) -> None:
        """Hand out no more, and end all drivers after some seconds; what they have reached by then is recorded."""
        if not self._stopped:
            self._stopped = True
            self._ends_at = time.monotonic() + grace
            self._part(stop=grace)
        self._ends_at = min(self._ends_at or 0.0, time.monotonic() + grace)

    def _part(self, **message: Any) -> None:
        """Tell all drivers to end, and why; those that have not begun are ended at once."""
        for number, member in [*self._members.items()]:
            if member.ready is None:
                self._remove(number)
            else:
                member.wire.send(**message)

    def _show(self) -> None:
        states = {member.slot.name: member.doing for member in self._members.values()} | self._closed
        if states != self._shown:
            self._shown = states
            self._told.states(states)
