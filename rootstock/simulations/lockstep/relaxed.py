"""What became of one relaxation of many."""

from __future__ import annotations

from dataclasses import dataclass

from rootstock.client.evaluated import Evaluated


@dataclass(frozen=True, slots=True)
class Relaxed(Evaluated):
    """One of many structures that were relaxed.

    Attributes
    ----------
    index : int
        Its place among the structures, counted from 0.
    results : dict or None
        Energy, forces, and stress where the cell was relaxed, by ASE's names and in ASE's units; None if there are
        none.
    error : RootstockError or None
        Why there are none.
    structure : ase.Atoms
        The last step, without results; ``info['converged']`` says whether `fmax` was reached. Of a relaxation that
        failed, the last step that was computed.
    failure : FailureClass or None
        Whose fault `error` is.
    converged : bool or None
        Whether `fmax` was reached; None if it failed.
    steps : int
        How many were taken.
    extra_results : dict
        Of the last step; files of structures hold them as `structure` does, in its info and its arrays.
    """

    converged: bool | None = None
    steps: int = 0


Relaxed.__module__ = "rootstock"  # where it is imported from; dataclasses need the true one before
