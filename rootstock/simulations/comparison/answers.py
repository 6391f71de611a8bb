"""What a model says of all structures, or what these were read with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import full_3x3_to_voigt_6_stress

from rootstock.client.evaluated import Evaluated, FailureClass
from rootstock.errors import ConfigurationError, ModelError, NonFiniteError, RootstockError
from rootstock.simulations.provenance import SOURCE, without_notes
from rootstock.simulations.relax import singlepoint

DATA = "data"  # names what the structures were read with
PROPERTIES = ("energy", "forces", "stress")
_REFERENCES = ("ref_", "REF_")  # begin the names of entries for data: ours, and those of training sets


@dataclass
class Answers:
    """What is known of each structure from one source.

    Attributes
    ----------
    name : str
        Of the model.
    results : list of dict or None
        Of each structure, by ASE's names; None if there are none.
    failures : dict of int to Evaluated
        Those of structures that failed, by their places.
    error : RootstockError or None
        Why the model could compute nothing.
    start_s : float or None [s]
        From the start of the worker until the model was loaded.
    computing_s : float [s]
        What followed, up to the last result.
    build, device : str or None
        What computed.
    """

    name: str
    results: list[dict[str, Any] | None]
    failures: dict[int, Evaluated] = field(default_factory=dict)
    error: RootstockError | None = None
    start_s: float | None = None
    computing_s: float = 0.0
    build: str | None = None
    device: str | None = None

    def get(self, index: int, name: str) -> Any:
        """Return a property of a structure; None if it is not known.

        Parameters
        ----------
        index : int
        name : str
        """
        return (self.results[index] or {}).get(name)

    @property
    def computed(self) -> int:
        """How many structures have results."""
        return sum(each is not None for each in self.results)

    def ask(
        self,
        calculator: Any,
        images: Sequence[Atoms],
        properties: Sequence[str] = (),
        on_done: Callable[[int], object] = lambda count: None,  # noqa: ARG005
    ) -> None:
        """Compute all structures. What is known when this is interrupted stays.

        Parameters
        ----------
        calculator : ase.calculators.calculator.Calculator
        images : sequence of ase.Atoms
        properties : sequence of str
            By default energy, forces, and the stress of structures that have one, as far as the model knows them.
        on_done : callable
            Is given the number of structures that are done, after each.
        """
        given = [_for_models(atoms) for atoms in images]
        done = 0

        def take(each: Evaluated) -> None:
            nonlocal done
            done += 1
            if each.results is None:
                self.failures[each.index] = each
            else:
                self.results[each.index] = {name: each.results[name] for name in PROPERTIES if name in each.results}
            on_done(done)

        begun = time.perf_counter()
        try:
            if calculator.name == "rootstock":
                calculator.start()
                self.start_s = calculator.info()["start_s"]
                self.build, self.device = calculator.parameters["build"], calculator.device
                begun = time.perf_counter()
                calculator.evaluate_many(given, tuple(properties) or None, on_done=take)
            else:
                for each in _one_by_one(calculator, given, properties):
                    take(each)
        except PropertyNotImplementedError as error:
            self.error = ConfigurationError(f"{self.name}: {error}")
        except RootstockError as error:
            if self.name not in error.message:
                error.message = f"{self.name}: {error.message}"
            self.error = error
        finally:
            self.computing_s = time.perf_counter() - begun if done else 0.0


def data_of(structures: Sequence[Atoms]) -> Answers:
    """Return what structures were read with.

    If an entry of any is named ``ref_energy`` or ``ref_forces``, as in results of run folders, or ``REF_energy`` or
    ``REF_forces``, as in training sets, those entries count; otherwise the results that ASE read.

    Parameters
    ----------
    structures : sequence of ase.Atoms

    Raises
    ------
    ConfigurationError
        If there is neither, or one has another shape.
    """
    for prefix in (*_REFERENCES, ""):
        found = [_carried(atoms, prefix) for atoms in structures]
        if any("energy" in each or "forces" in each for each in found):
            return Answers(DATA, [each or None for each in found])
    raise ConfigurationError(
        "The structures carry no data to compare with: neither energies nor forces.",
        "Name a model with --against; or name the data energy and forces, ref_energy and ref_forces, or REF_energy "
        "and REF_forces, in extended XYZ.",
    )


def _carried(atoms: Atoms, prefix: str) -> dict[str, Any]:
    if prefix:
        entries = {name.removeprefix(prefix): value for name, value in {**atoms.info, **atoms.arrays}.items()
                   if str(name).startswith(prefix)}  # fmt: skip
    else:
        entries = {} if atoms.calc is None or atoms.calc.check_state(atoms) else atoms.calc.results
    found = {}
    for name, shape in (("energy", ()), ("forces", (len(atoms), 3)), ("stress", (6,))):
        if entries.get(name) is None:
            continue
        try:
            value = np.asarray(entries[name], float)
            if name == "stress" and value.size == 9:
                value = full_3x3_to_voigt_6_stress(value.reshape(3, 3))
            value = value.reshape(shape)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{name_of(atoms)} carries {prefix}{name} of a shape that no {name} of {len(atoms)} atoms has.",
                "Correct it, or take it out.",
            ) from error
        if np.isfinite(value).all():  # NaN stands for what is not known
            found[name] = value if shape else float(value)
    return found


def name_of(atoms: Atoms, index: int | None = None) -> str:
    """Return what a structure is called: its file and frame, or its place.

    Parameters
    ----------
    atoms : ase.Atoms
    index : int, optional
    """
    return str(atoms.info.get(SOURCE, atoms.get_chemical_formula() if index is None else f"structure {index}"))


def _for_models(atoms: Atoms) -> Atoms:
    """Return a copy without anything that a model must not see."""
    copy = without_notes(atoms)
    for entries in (copy.info, copy.arrays):
        for name in [name for name in entries if str(name).startswith(_REFERENCES)]:
            del entries[name]
    return copy


def _one_by_one(calculator: Any, images: Sequence[Atoms], properties: Sequence[str]) -> Iterator[Evaluated]:
    """Compute with any calculator of ASE's kind."""
    for index, atoms in enumerate(images):
        try:
            results = singlepoint(atoms, calculator, properties).calc.results
            if not all(np.isfinite(value).all() for value in results.values()):
                raise NonFiniteError("NaN or infinity in the results.")
        except Exception as error:  # noqa: BLE001  # every calculator has errors of its own
            known = error if isinstance(error, RootstockError) else ModelError(f"{type(error).__name__}: {error}")
            yield Evaluated(index, None, known, atoms, FailureClass.STRUCTURE)
        else:
            yield Evaluated(index, results, None, atoms)
