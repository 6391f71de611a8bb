"""Structures that several models have computed, and all that is said of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from rootstock import __version__
from rootstock.simulations.comparison.agreement import (
    EnergyAgreement,
    PairAgreement,
    all_pairs,
    committee,
    spread_of_forces,
    statistics,
)
from rootstock.simulations.comparison.answers import PROPERTIES, Answers, name_of
from rootstock.simulations.runs.references import keep_as_references

SPREAD, SPREAD_OF_ATOMS = "forces_spread", "forces_spread_atoms"


@dataclass(frozen=True)
class Disagreement:
    """A structure that models do not agree on.

    Attributes
    ----------
    index : int
    energy : float or None [eV/atom]
        The largest of what offsets leave of differences to the reference, with its sign.
    energy_of : str
        The model that differs so much.
    force : float or None [eV/Å]
        The largest difference between two forces on an atom.
    force_of : tuple of str
        The two models.
    """

    index: int
    energy: float | None
    energy_of: str
    force: float | None
    force_of: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What several models say of the same structures.

    Attributes
    ----------
    structures : list of ase.Atoms
    models : dict of str to Answers
        What each model computed, by its name: `results` of each structure (None where it failed), `failures` by their
        indices, `error` where it could not compute at all, `computing_s` and `start_s`.
    reference : str
        Whose energies the others are compared with: a model, or ``data`` for those that structures were read with.
    data : Answers or None
        Those, if they are the reference.
    complete : bool
        Whether every model was asked for every structure.
    """

    structures: list[Atoms]
    models: dict[str, Answers]
    reference: str
    data: Answers | None = None
    complete: bool = field(default=True, kw_only=True)

    @property
    def sources(self) -> list[Answers]:
        """The models, and the data if they are the reference."""
        return [*self.models.values(), *([self.data] if self.data else [])]

    @property
    def reference_answers(self) -> Answers:
        """What the reference says."""
        return self.data or self.models[self.reference]

    @property
    def carried(self) -> dict[str, int] | None:
        """Of how many structures `data` has energy, forces and stress; None if it is not the reference."""
        if self.data is None:
            return None
        return {name: sum(name in (each or {}) for each in self.data.results) for name in PROPERTIES}

    @cached_property
    def energies(self) -> dict[str, EnergyAgreement]:
        """By model: how far energies agree with those of the reference."""
        reference = self.reference_answers
        return {
            name: EnergyAgreement.between(answers, reference, self.structures)
            for name, answers in self.models.items() if answers is not reference
        }  # fmt: skip

    @cached_property
    def pairs(self) -> list[PairAgreement]:
        """How far forces and stresses of each two sources agree."""
        return all_pairs(self.sources)

    @cached_property
    def committee(self) -> list[str]:
        """The models whose forces `forces_spread` is of: all that have computed any."""
        return [model.name for model in committee(list(self.models.values()))]

    @cached_property
    def forces_spread(self) -> list[NDArray[np.float64] | None]:
        """Of each structure, how far forces on each atom lie apart [eV/Å]: the root of the mean square deviation.

        None if one model of the committee lacks them. The largest entry is the spread of the structure.
        """
        models = [self.models[name] for name in self.committee]
        return [spread_of_forces(models, index) for index in range(len(self.structures))]

    @property
    def failed(self) -> int:
        """How many structures failed, each counted for each model."""
        return sum(len(answers.failures) for answers in self.models.values())

    def disagreements(self) -> list[Disagreement]:
        """Return structures, those first that models agree on least.

        The place of each is the better one of those that it has by energies and by forces.
        """
        found = [self._disagreement(index) for index in range(len(self.structures))]
        by_force = sorted((each for each in found if each.force is not None), key=lambda each: -(each.force or 0))
        by_energy = sorted((each for each in found if each.energy is not None), key=lambda each: -abs(each.energy or 0))
        places: dict[int, tuple[int, int]] = {}
        for kind, order in enumerate((by_force, by_energy)):
            for place, each in enumerate(order):
                places[each.index] = min((place, kind), places.get(each.index, (place, kind)))
        return [found[index] for index in sorted(places, key=lambda index: places[index])]

    def _disagreement(self, index: int) -> Disagreement:
        rests = {name: each.rest[index] for name, each in self.energies.items() if not np.isnan(each.rest[index])}
        forces = {each.models: each.largest[index] for each in self.pairs if not np.isnan(each.largest[index])}
        model = max(rests, key=lambda name: abs(rests[name]), default="")
        pair = max(forces, key=lambda models: forces[models], default=())
        return Disagreement(
            index, float(rests[model]) if model else None, model, float(forces[pair]) if pair else None, pair
        )  # fmt: skip

    def with_spread(self) -> list[Atoms]:
        """Return copies of the structures with how far the forces of the models lie apart.

        ``info["forces_spread"]`` is the largest of ``arrays["forces_spread_atoms"]`` [eV/Å]. A structure that a model
        failed for has neither. Energies and forces that structures were read with are kept as ``ref_energy`` ...
        """
        copies = []
        for atoms, spread in zip(self.structures, self.forces_spread, strict=True):
            copy = atoms.copy()
            copy.calc = atoms.calc
            keep_as_references(copy)
            copy.info.pop(SPREAD, None)
            copy.arrays.pop(SPREAD_OF_ATOMS, None)
            if spread is not None:
                copy.info[SPREAD] = float(spread.max())
                copy.set_array(SPREAD_OF_ATOMS, spread)
            copies.append(copy)
        return copies

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what is known of each structure from each model, as one row of a table; None where it is not."""
        to_reference = {
            name: each for each in self.pairs for name in each.models
            if self.reference in each.models and name != self.reference
        }  # fmt: skip
        for index, atoms in enumerate(self.structures):
            spread = self.forces_spread[index]
            for name, answers in self.models.items():
                energies, forces, failure = self.energies.get(name), to_reference.get(name), answers.failures.get(index)
                yield {
                    "index": index, "structure": name_of(atoms, index), "formula": atoms.get_chemical_formula(),
                    "atoms": len(atoms), "model": name, "reference": self.reference,
                    "energy_eV": answers.get(index, "energy"),
                    "reference_energy_eV": self.reference_answers.get(index, "energy"),
                    "energy_difference_eV_per_atom": _number(energies.difference[index]) if energies else None,
                    "energy_rest_eV_per_atom": _number(energies.rest[index]) if energies else None,
                    "largest_force_difference_eV_per_A": _number(forces.largest[index]) if forces else None,
                    "forces_spread_eV_per_A": None if spread is None else float(spread.max()),
                    "failure": str(failure.failure) if failure else None,
                    "error": type(failure.error).__name__ if failure else None,
                    "message": failure.error.message if failure and failure.error else None,
                }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; energies in eV, lengths in Å, stresses in GPa, times in seconds."""
        return {
            "schema": 1, "rootstock": __version__, "complete": self.complete, "structures": len(self.structures),
            "reference": self.reference, "models": [_of_model(each) for each in self.models.values()],
            "data": self.carried,
            "energies": [_of_energies(each) for each in self.energies.values()],
            "pairs": [{name: value for name, value in vars(each).items() if name != "largest"} for each in self.pairs],
            "forces_spread_of": self.committee,
            "rows": list(self.rows()),
        }  # fmt: skip


def _of_model(answers: Answers) -> dict[str, Any]:
    error = answers.error
    return {
        "model": answers.name, "build": answers.build, "device": answers.device, "computed": answers.computed,
        "failed": len(answers.failures), "start_s": answers.start_s, "computing_s": answers.computing_s,
        "error": None if error is None else {"error": type(error).__name__, "message": error.message},
    }  # fmt: skip


def _of_energies(each: EnergyAgreement) -> dict[str, Any]:
    fit = each.offsets
    return {
        "model": each.model,
        "offsets": None if fit is None else {
            "fitted": fit.fitted, "elements_eV": fit.elements, "together_eV": fit.together,
            "undetermined": list(fit.undetermined),
        },
        "difference_eV_per_atom": statistics(each.difference), "rest_eV_per_atom": statistics(each.rest),
    }  # fmt: skip


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


Comparison.__module__ = "rootstock"  # where it is imported from; dataclasses need the true one before
