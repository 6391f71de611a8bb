"""What all our calculators are: ASE's bookkeeping for one whose results another process computes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import deepcopy
from types import TracebackType
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from rootstock.client.inputs import Inputs, changes
from rootstock.client.peer import PeerSession
from rootstock.client.sharing import identify, share
from rootstock.errors import ConfigurationError
from rootstock.interfaces.thread_state import ThreadState, ThreadStates
from rootstock.worker.channel.memory import PROPERTY_BITS

# Pickles of before ADR 16 name the class of `_inputs` by the module that it lay in then.
sys.modules.setdefault("rootstock.inputs", sys.modules[Inputs.__module__])


class ProxyCalculator(Calculator):
    """The part of a calculator that does not depend on who computes.

    A class of this kind computes in `_compute`, and makes a session, which keeps the process, in `_new_session`. Copies
    share the process, not the results (NEB makes one for each image), and so do the threads that use one calculator. A
    pickle holds arguments, atoms and results; the copies that come out of it share one process in each process.
    """

    nolabel = True  # `ase run` passes a label to every calculator that does not say this

    _copies_share = True  # those that come out of pickles
    _arguments: dict[str, Any]
    _session: PeerSession

    def __init__(self) -> None:
        self._states = ThreadStates()
        super().__init__()  # type: ignore[no-untyped-call]
        self._states = ThreadStates()  # this thread has not used it yet

    def _restore(self) -> None:
        """Set what a pickle does not hold, but for the session."""

    def _new_session(self) -> PeerSession:
        """Return a session by the arguments of this calculator."""
        raise NotImplementedError

    def _use(self, session: PeerSession) -> None:
        self._session = session
        session.join(self)

    def _compute(self, state: ThreadState, properties: Sequence[str]) -> None:
        """Add these properties of a state's inputs to its results, or raise."""
        raise NotImplementedError

    def get_spin_polarized(self) -> bool:
        """Return False: there are no electrons."""
        return False  # without this method, ASE gives each object one of its own, which keeps the object alive

    # -- the atoms, and what is known of them

    @property
    def atoms(self) -> Atoms | None:
        """The atoms that `results` are for: those of this thread."""
        inputs = self._states.seen().inputs
        return inputs.atoms() if inputs else None

    @atoms.setter
    def atoms(self, atoms: Atoms | None) -> None:
        state = self._states.own()
        state.inputs = Inputs()
        if atoms is not None:
            state.inputs.update(atoms)
        state.results_for = state.inputs.state

    @property
    def results(self) -> dict[str, Any]:
        """What is known of `atoms`, by ASE's names: as this thread computed it.

        A thread that has computed nothing sees a copy of what the last one that did knows.
        """
        return self._states.seen().results

    @results.setter
    def results(self, results: dict[str, Any]) -> None:
        state = self._states.own()
        state.results, state.extra_results = results, {}

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:  # noqa: ARG002  # ASE's signature
        """Return what differs between `atoms` and those that `results` are for, by ASE's names.

        As with any ASE calculator, tags and ``atoms.info`` are not compared, so a step's number in ``atoms.info`` does
        not keep results from being written with the atoms. `get_property` does compare them.

        Parameters
        ----------
        atoms : ase.Atoms
        tol : float
            Not used: the comparison is exact.
        """
        return _changes(self._states.seen(), atoms)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property, computing it if it is not known for these atoms.

        Parameters
        ----------
        name : str
            One of ASE's standard properties.
        atoms : ase.Atoms, optional
            By default those of the last call.
        allow_calculation : bool
            Whether to compute what is not known. If not, None is returned for what `results` lack, or where
            `check_state` finds a change.

        Raises
        ------
        PropertyNotImplementedError
            If there is no such property, or these atoms have none (stress without a periodic cell).
        WorkerError
            If what computes failed or was lost; the next call starts anew.
        """
        self._sync_parameters()
        if not allow_calculation:
            state = self._states.seen()
            stale = _changes(state, atoms) if atoms is not None else not state.current
            value = None if stale else state.results.get(name)
            return value.copy() if isinstance(value, np.ndarray) else value
        state = self._states.own()
        try:
            state.busy = True
            before, inputs = state.results_for, state.inputs
            if atoms is not None:
                inputs.update(atoms)
                if inputs.stamp is not before[0] or inputs.rest is not before[1]:  # equal ones are the same
                    state.invalidate()
            if name not in state.results:
                if atoms is None:
                    _require_atoms(state)
                if getattr(self.calculate, "__func__", None) is ProxyCalculator.calculate:
                    self._compute(state, (name,))
                else:  # somebody's own: a correction on top, perhaps
                    state.busy = False
                    try:
                        changed = changes(before, state.results_for)
                        self.calculate(self.atoms if atoms is None else atoms, [name], changed)
                    except BaseException:
                        state.results, state.extra_results = {}, {}  # some may lack the correction
                        raise
                    if name not in state.results:
                        raise PropertyNotImplementedError(f"calculate() of {type(self).__name__} left no {name}.")
            state.requested |= PROPERTY_BITS.get(name, 0)
            value = state.results[name]
        finally:
            state.busy = False
        return value.copy() if isinstance(value, np.ndarray) else value

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,  # noqa: ARG002  # ASE's signature
    ) -> None:
        """Compute properties into `results`.

        Parameters
        ----------
        atoms : ase.Atoms, optional
            By default those of the last call.
        properties : sequence of str
            By ASE's names.
        system_changes : sequence of str
            Not used: the atoms are compared with those of the last call.
        """
        self._sync_parameters()
        state = self._states.own()
        try:
            state.busy = True
            if atoms is None:
                _require_atoms(state)
            else:
                state.inputs.update(atoms)
            state.invalidate()
            self._compute(state, properties)
        finally:
            state.busy = False

    def _sync_parameters(self) -> None:
        """Take over what was changed in `parameters`."""

    # -- the process

    def close(self) -> None:
        """End what computes, unless copies of this calculator still use it. `results` stay."""
        self._session.release(self)

    def __enter__(self) -> Self:
        self._session.join(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- copies

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.parameters = deepcopy(self.parameters)
        twin._states = ThreadStates(self._states.seen().copy())
        if self in self._session.users:
            self._session.join(twin)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = twin = self.__copy__()
        state = twin._states.seen()
        state.results, state.extra_results = deepcopy(state.results), deepcopy(state.extra_results)
        twin._states = ThreadStates(state)
        return twin

    # Pickles are kept and read by later versions, so they name no module of ours that may move: atoms, no inputs.
    _not_pickled: tuple[str, ...] = ("_session", "_states")

    def __getstate__(self) -> dict[str, Any]:
        attributes = {name: value for name, value in self.__dict__.items() if name not in self._not_pickled}
        state = self._states.seen().copy()
        atoms = state.inputs.atoms() if state.inputs else None
        identity = identify(self._session, self._arguments) if self._copies_share else None
        known = {"results": state.results, "extra": state.extra, "extra_results": state.extra_results}
        return attributes | known | {"atoms": atoms, "identity": identity}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        pickled = dict(pickled)
        atoms, old = pickled.pop("atoms", None), pickled.pop("_inputs", None)  # those of before ADR 16 hold `_inputs`
        results, extra, identity = pickled.pop("results"), pickled.pop("extra", b""), pickled.pop("identity", None)
        extra_results = pickled.pop("extra_results", {})
        self.__dict__.update(pickled)
        inputs = old or Inputs()
        if atoms is not None:
            inputs.update(atoms)
        state = ThreadState(inputs, results, extra)
        state.extra_results = extra_results
        self._states = ThreadStates(state)
        self._restore()
        self._session = share(identity, self._arguments, self._new_session, self)


def _changes(state: ThreadState, atoms: Atoms) -> list[str]:
    return state.inputs.changes_to(atoms) if state.current else list(all_changes)


def _require_atoms(state: ThreadState) -> None:
    if not state.inputs:
        raise ConfigurationError("This calculator has no atoms yet.", "Set atoms.calc = calc, and ask the atoms.")
