"""Asks several models for the same structures, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ase import Atoms

from rootstock.errors import ConfigurationError, RootstockError
from rootstock.simulations.comparison.answers import DATA, PROPERTIES, Answers, data_of
from rootstock.simulations.comparison.comparison import Comparison


def compare(
    structures: Sequence[Atoms],
    calculators: Mapping[str, Any],
    against: str | None = None,
    *,
    properties: Sequence[str] = (),
) -> Comparison:
    """Compute structures with several models, one after the other, and compare what they say.

    Total energies of different models differ by an offset for each element. It is fitted by least squares and reported,
    and what is left is compared. A structure that a model fails for is left out of what that model is compared in, and
    recorded with its error. A model that cannot compute at all has an `error`; the others go on.

    Parameters
    ----------
    structures : sequence of ase.Atoms
    calculators : Mapping[str, ase.calculators.calculator.Calculator]
        By names of your choice. `RootstockCalculator` computes many structures together where its model can; its
        worker is not closed.
    against : str, optional
        The reference for energies: one of these names, or ``data`` for the energies, forces and stresses that
        structures were read with. By default the first calculator.
    properties : sequence of str, optional
        Some of ``energy``, ``forces`` and ``stress``. By default energy, forces, and the stress of structures that have
        one, as far as each model knows them.

    Returns
    -------
    Comparison

    Raises
    ------
    ConfigurationError
        If there are no structures, nothing to compare with, or no such reference.
    RootstockError
        If no model can compute at all: the error of the first.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> found = compare([bulk("Cu", a=3.5), bulk("Cu", a=3.7)], {"EMT": EMT(), "again": EMT()})
    >>> found.energies["again"].offsets.elements
    {'Cu': 0.0}
    """
    structures = list(structures)
    if not structures:
        raise ConfigurationError("There are no structures to compare.")
    comparison = begin(structures, list(calculators), against, properties)
    for name, calculator in calculators.items():
        comparison.models[name].ask(calculator, structures, properties)
    require_some(comparison)
    return comparison


def begin(
    structures: list[Atoms], models: Sequence[str], against: str | None, properties: Sequence[str] = ()
) -> Comparison:
    """Return a comparison that nothing is known of yet.

    Parameters
    ----------
    structures, against, properties
        As for `compare`.
    models : sequence of str
        Their names.

    Raises
    ------
    ConfigurationError
        As `compare` does.
    """
    reference = against or next(iter(models), "")
    if len(models) + (reference == DATA) < 2:
        raise ConfigurationError(
            "There is nothing to compare with: one model alone was named." if models else "No model was named.",
            f"Name several models, or compare one with the data that structures carry: against {DATA}.",
        )
    if reference != DATA and reference not in models:
        raise ConfigurationError(f"{reference} is none of the models: {', '.join(models)}.")
    if unknown := [name for name in properties if name not in PROPERTIES]:
        raise ConfigurationError(f"{unknown[0]} cannot be compared; {', '.join(PROPERTIES)} can.")
    data = data_of(structures) if reference == DATA else None
    return Comparison(
        structures, {name: Answers(name, [None] * len(structures)) for name in models}, reference, data
    )  # fmt: skip


def require_some(comparison: Comparison) -> None:
    """Raise the error of the first model if none could compute anything at all.

    Parameters
    ----------
    comparison : Comparison

    Raises
    ------
    RootstockError
    """
    errors: list[RootstockError | None] = [answers.error for answers in comparison.models.values()]
    if None not in errors:
        raise errors[0]  # type: ignore[misc]
