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
from rootstock.errors import ConfigurationError

# Pickles of before ADR 16 name the class of `_inputs` by the module that it lay in then.
sys.modules.setdefault("rootstock.inputs", sys.modules[Inputs.__module__])


class ProxyCalculator(Calculator):
    """The part of a calculator that does not depend on who computes.

    A class of this kind computes in `_compute`, and sets `_session`, which keeps the process, in `_open`. Copies share
    the process, not the results (NEB makes one for each image). A pickle holds arguments, atoms and results; the
    process is started again when it is needed.
    """

    nolabel = True  # `ase run` passes a label to every calculator that does not say this

    _session: PeerSession

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inputs = Inputs()
        self._results_for = self._inputs.state

    def _open(self) -> None:
        """Set `_session` to one that this calculator uses, by its arguments."""
        raise NotImplementedError

    def _use(self, session: PeerSession) -> None:
        self._session = session
        session.users.add(self)

    def _compute(self, properties: Sequence[str]) -> None:
        """Add these properties of `_inputs` to `results`, or raise."""
        raise NotImplementedError

    def get_spin_polarized(self) -> bool:
        """Return False: there are no electrons."""
        return False  # without this method, ASE gives each object one of its own, which keeps the object alive

    # -- the atoms, and what is known of them

    @property
    def atoms(self) -> Atoms | None:
        """The atoms that `results` are for."""
        return self._inputs.atoms() if self._inputs else None

    @atoms.setter
    def atoms(self, atoms: Atoms | None) -> None:
        self._inputs = Inputs()
        if atoms is not None:
            self._inputs.update(atoms)
        self._results_for = self._inputs.state

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
        return self._inputs.changes_to(atoms) if self._is_current() else list(all_changes)

    def _is_current(self) -> bool:
        """Tell whether `results` are for the last atoms seen; an interruption can come in between."""
        return bool(self._inputs) and self._inputs.state == self._results_for

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
            stale = self.check_state(atoms) if atoms is not None else not self._is_current()
            value = None if stale else self.results.get(name)
            return value.copy() if isinstance(value, np.ndarray) else value
        before = self._results_for
        if atoms is not None:
            self._inputs.update(atoms)
            if self._inputs.state != before:
                # In this order: after an interruption in between, no result is taken for one of these atoms.
                self._invalidate()
                self._results_for = self._inputs.state
        if name not in self.results:
            if atoms is None:
                self._need_atoms()
            if getattr(self.calculate, "__func__", None) is ProxyCalculator.calculate:
                self._compute((name,))
            else:  # somebody's own: a correction on top, perhaps
                try:
                    self.calculate(self.atoms if atoms is None else atoms, [name], changes(before, self._results_for))
                except BaseException:
                    self.results = {}  # some may lack the correction
                    raise
                if name not in self.results:
                    raise PropertyNotImplementedError(f"calculate() of {type(self).__name__} left no {name}.")
        self._note_request(name)
        value = self.results[name]
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
        if atoms is None:
            self._need_atoms()
        else:
            self._inputs.update(atoms)
        self._invalidate()
        self._results_for = self._inputs.state
        self._compute(properties)

    def _sync_parameters(self) -> None:
        """Take over what was changed in `parameters`."""

    def _note_request(self, name: str) -> None:
        """Take note that a property of these atoms was asked for."""

    def _invalidate(self) -> None:
        self.results = {}

    def _need_atoms(self) -> None:
        if not self._inputs:
            raise ConfigurationError("This calculator has no atoms yet.", "Set atoms.calc = calc, and ask the atoms.")

    # -- the process

    def close(self) -> None:
        """End what computes, unless copies of this calculator still use it. `results` stay."""
        self._session.release(self)

    def __enter__(self) -> Self:
        self._session.users.add(self)
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
        twin.results, twin._inputs = dict(self.results), self._inputs.copy()
        if self in self._session.users:
            self._session.users.add(twin)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = twin = self.__copy__()
        twin.results = deepcopy(self.results)
        return twin

    # Pickles are kept and read by later versions, so they name no module of ours that may move: atoms, no inputs.
    _not_pickled: tuple[str, ...] = ("_session", "_inputs", "_results_for")

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in self._not_pickled}
        if self._inputs.state != self._results_for:  # an interruption came in between
            state["results"] = {}
        return state | {"atoms": self.atoms}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update((name, value) for name, value in state.items() if name != "atoms")
        if "atoms" in state:  # pickles of before ADR 16 hold `_inputs`
            self.atoms = state["atoms"]
        self._open()
