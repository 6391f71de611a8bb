"""What becomes of one structure of many: its results, or why there are none."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ase import Atoms

from rootstock.errors import RootstockError


class FailureClass(StrEnum):
    """Whose fault it is that a structure has no results.

    Attributes
    ----------
    STRUCTURE
        The structure's, or the model's with this structure: the model raised, NaN went in or came out, an element is
        unknown, or a fresh worker that was given this structure alone crashed or did not answer. Final.
    RESOURCE
        It does not fit into the memory of the device, also alone. Final for devices of this kind.
    INFRASTRUCTURE
        Neither's: no worker could be started, the GPU was lost, a file could not be read, or somebody ended the worker.
        Never final: it is computed again another time.
    """

    __module__ = "rootstock.calculator"  # where it is imported from

    STRUCTURE = "structure"
    RESOURCE = "resource"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One of many structures that were evaluated.

    Attributes
    ----------
    index : int
        Its place among the structures, counted from 0.
    results : dict or None
        By ASE's names for properties, in ASE's units; None if there are none.
    error : RootstockError or None
        Why there are none.
    structure : ase.Atoms
        What was computed: the caller's own object, or a copy of one that came out of an iterator.
    failure : FailureClass or None
        Whose fault `error` is.
    extra_results : dict
        Results that are none of ASE's properties, as the environment file of the model declares them; empty without.
    """

    index: int
    results: dict[str, Any] | None
    error: RootstockError | None
    structure: Atoms
    failure: FailureClass | None = None
    extra_results: dict[str, Any] = field(default_factory=dict, kw_only=True)

    @classmethod
    def lost(cls, index: int, error: RootstockError, structure: Atoms) -> Evaluated:
        """Return what is said of a structure that nothing could be computed of any more.

        Parameters
        ----------
        index : int
        error : RootstockError
        structure : ase.Atoms
        """
        return cls(index, None, error, structure, FailureClass.INFRASTRUCTURE)

    @property
    def atoms(self) -> Atoms:
        """A copy of the structure that carries its results, as ``ase.io.write`` takes it.

        Raises
        ------
        RootstockError
            `error`, if there are no results.
        """
        from ase.calculators.singlepoint import SinglePointCalculator

        if self.error is not None:
            raise self.error
        copy: Atoms = self.structure.copy()
        copy.calc = SinglePointCalculator(copy, **self.results or {})
        return copy


Evaluated.__module__ = "rootstock.calculator"  # where it is imported from; dataclasses need the true one before
