"""What all our calculators are: ASE's bookkeeping for one whose results another process computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from types import TracebackType
from typing import Any, Protocol, Self
from weakref import WeakSet

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from rootstock.errors import ConfigurationError
from rootstock.inputs import Inputs


class Shared(Protocol):
    """Keeps the process that computes for several calculators, its users."""

    users: WeakSet[Any]

    def release(self, user: Any) -> None:
        """End the process if `user` was the last that needs it."""


class RemoteCalculator(Calculator):
    """The part of a calculator that does not depend on who computes.

    A class of this kind computes in `_compute`, and sets `_arguments`, by which it can be made anew, and `_session`,
    which keeps the process. Copies share the process, not the results (NEB makes one for each image). A pickle holds
    arguments, atoms and results; the process is started again when it is needed.
    """

    nolabel = True  # `ase run` passes a label to every calculator that does not say this

    _arguments: Mapping[str, Any]
    _session: Shared

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inputs = Inputs()
        self._results_for = self._inputs.state

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
        """Return what differs between `atoms` and those that `results` are for; exact, `tol` is not used."""
        return self._inputs.changes_to(atoms) if self._inputs else list(all_changes)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property, computing it if it is not known for these atoms.

        Parameters
        ----------
        name : str
            One of ASE's standard properties.
        atoms : ase.Atoms, optional
            By default those of the last call.
        allow_calculation : bool
            Whether to compute what is not known. If not, None is returned for it.

        Raises
        ------
        PropertyNotImplementedError
            If there is no such property, or these atoms have none (stress without a periodic cell).
        WorkerError
            If what computes failed or was lost; the next call starts anew.
        """
        if atoms is not None:
            self._inputs.update(atoms)
            state = self._inputs.state
            if state != self._results_for:
                self._results_for = state
                self._forget()
        if name not in self.results:
            if not allow_calculation:
                return None
            if atoms is None:
                self._need_atoms()
            self._compute((name,))
        value = self.results[name]
        return value.copy() if isinstance(value, np.ndarray) else value

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,  # noqa: ARG002  # ASE's signature
    ) -> None:
        """Compute properties into `results`. What changed is found by comparison, not taken from `system_changes`."""
        if atoms is None:
            self._need_atoms()
        else:
            self._inputs.update(atoms)
        self._results_for = self._inputs.state
        self._forget()
        self._compute(properties)

    def _forget(self) -> None:
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

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("results", "parameters", "_inputs", "_results_for")
        return _rebuild, (type(self), self._arguments), {name: getattr(self, name) for name in names}


def _rebuild(kind: type[RemoteCalculator], arguments: Mapping[str, Any]) -> RemoteCalculator:
    return kind(**arguments)
