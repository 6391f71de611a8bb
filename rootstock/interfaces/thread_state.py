"""What each thread knows of a calculator: its atoms, and what was computed for them."""

from __future__ import annotations

import threading
from typing import Any

from rootstock.client.inputs import Inputs, State
from rootstock.client.peer import asked_meanwhile


class ThreadState:
    """The atoms that a thread showed a calculator last, and what is known of them.

    Parameters
    ----------
    inputs, results, extra
        As the attributes; by default nothing is known.

    Attributes
    ----------
    inputs : Inputs
        The atoms.
    results : dict
        By ASE's names for properties.
    results_for : State
        State of the inputs that `results` are for. An interruption can come in between: then it is not that of
        `inputs`.
    extra : bytes
        What came beside the results.
    extra_results : dict
        Results that ASE has no name for, of the same atoms.
    requested, predicted : int
        Properties that were asked of these atoms, and of those before, as bits of
        `rootstock.worker.channel.memory.PROPERTY_BITS`.
    busy : bool
        Whether a call of the thread goes on; a signal handler that comes meanwhile must not touch anything.
    """

    __slots__ = ("busy", "extra", "extra_results", "inputs", "predicted", "requested", "results", "results_for")

    def __init__(self, inputs: Inputs | None = None, results: dict[str, Any] | None = None, extra: bytes = b"") -> None:
        self.inputs = Inputs() if inputs is None else inputs
        self.results = {} if results is None else results
        self.results_for: State = self.inputs.state
        self.extra = extra
        self.extra_results: dict[str, Any] = {}
        self.requested = self.predicted = 0
        self.busy = False

    @property
    def current(self) -> bool:
        """Whether `results` are for `inputs`, and there are any inputs."""
        return bool(self.inputs) and self.inputs.state == self.results_for

    def invalidate(self) -> None:
        """Drop the results: the inputs have changed, or all is to be computed anew."""
        self.results = {}
        if self.extra_results:
            self.extra_results = {}
        if self.requested:
            self.predicted, self.requested = self.requested, 0
        self.results_for = self.inputs.state  # last: after an interruption in between, no result is taken for theirs

    def copy(self) -> ThreadState:
        """Return a copy that lives on its own; an empty one while another thread changes this one.

        That shows, for inputs that change get another stamp first.
        """
        inputs, results, results_for = self.inputs, self.results, self.results_for
        if not inputs or inputs.state != results_for:
            return ThreadState()
        copy = ThreadState(inputs.copy(), dict(results), self.extra)
        copy.requested, copy.predicted = self.requested, self.predicted
        copy.extra_results = dict(self.extra_results)
        same = self.inputs is inputs and self.results is results and inputs.state == results_for == self.results_for
        return copy if same else ThreadState()


class ThreadStates:
    """The state of each thread that has used a calculator.

    A thread that has not used it sees what the last one that did knows, so results can be read by another thread than
    the one that computed them.

    Parameters
    ----------
    last : ThreadState, optional
        What is known at the beginning.
    """

    def __init__(self, last: ThreadState | None = None) -> None:
        self._last = last or ThreadState()
        self._local = threading.local()

    def own(self) -> ThreadState:
        """Return this thread's state, to be used.

        Raises
        ------
        WorkerError
            If a signal handler asks in the middle of a call.
        """
        try:
            state: ThreadState = self._local.state
        except AttributeError:
            state = self._local.state = self._last.copy()
        if state.busy:
            raise asked_meanwhile()
        self._last = state
        return state

    def seen(self) -> ThreadState:
        """Return what this thread knows, to be read."""
        state: ThreadState | None = getattr(self._local, "state", None)
        return self._last.copy() if state is None else state
