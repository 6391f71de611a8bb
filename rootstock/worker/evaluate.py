"""Apply a request to an Atoms object, compute, and put the results into the shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from rootstock.channel.frames import Frame
from rootstock.channel.memory import ALL_BITS, INFO_BIT, INPUTS, PROPERTIES, PROPERTY_BITS, Section, SharedMemory
from rootstock.errors import WorkerProtocolError

_BIT = {section.name: 1 << i for i, section in enumerate(INPUTS)}
_OPTIONAL = ("initial_charges", "initial_magmoms", "initial_magmom_vectors", "tags")
_ARRAY_NAME = {"initial_magmom_vectors": "initial_magmoms"}
# What ASE's own change detection does not know of; a calculator is told that everything changed.
_UNTRACKED = _BIT["tags"] | INFO_BIT
_VECTORS = _BIT["initial_magmom_vectors"]


def offered_properties(calculator: Any) -> list[str]:
    """Return the properties that a calculator implements and this protocol carries.

    ``free_energy`` is among them wherever ``energy`` is: optimizers ask for it, and a model without electrons has
    no other.
    """
    names = set(calculator.implemented_properties)
    if "energy" in names:
        names.add("free_energy")
    return [section.name for section in PROPERTIES if section.name in names]


class Evaluator:
    """Keeps one Atoms object and updates it in place, so that a calculator sees what a simulation would show it.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
    memory : SharedMemory
    """

    def __init__(self, calculator: Any, memory: SharedMemory) -> None:
        self.calculator = calculator
        self.memory = memory
        self.atoms: Atoms | None = None
        self._has_stress = False

    def evaluate(self, frame: Frame, info: dict[str, Any]) -> int:
        """Compute what `frame` asks for.

        Returns
        -------
        int
            The properties that are now in the memory, as bits: those asked for and whatever else the calculator
            computed on the way.

        Raises
        ------
        PropertyNotImplementedError
            If one that was asked for is not among the results, or is a stress of atoms that have none.
        """
        self.memory.attach(frame.capacity)
        views = self.memory.views(frame.atoms)
        changes = self._update(frame, views, info)
        wanted = [section.name for section in PROPERTIES if frame.properties & PROPERTY_BITS[section.name]]
        if not self._has_stress and ("stress" in wanted or "stresses" in wanted):
            raise PropertyNotImplementedError("Stress needs a cell of three vectors and a periodic direction.")
        if changes:
            self.calculator.reset()
        self.calculator.calculate(self.atoms, self._as_asked(wanted), changes)
        return self._store(views, wanted)

    def _as_asked(self, wanted: list[str]) -> list[str]:
        """Return the names as the calculator knows them: not all know of a free energy."""
        implemented = self.calculator.implemented_properties
        names = ["energy" if name == "free_energy" and name not in implemented else name for name in wanted]
        return list(dict.fromkeys(names))

    def _update(self, frame: Frame, views: dict[str, NDArray[Any]], info: dict[str, Any]) -> list[str]:
        """Bring the Atoms object up to date and return what ASE calls the system changes."""
        changed = frame.changes
        atoms = self.atoms
        if changed == ALL_BITS:
            self.atoms = atoms = Atoms(
                numbers=views["numbers"].copy(),
                positions=views["positions"].copy(),
                cell=views["cell"].copy(),
                pbc=views["pbc"] != 0,
            )
        elif atoms is None or len(atoms) != frame.atoms:
            raise WorkerProtocolError("Received a change of atoms that this worker was never shown.")
        else:
            if changed & _BIT["positions"]:
                atoms.arrays["positions"][...] = views["positions"]
            if changed & _BIT["numbers"]:
                atoms.arrays["numbers"][...] = views["numbers"]
            if changed & _BIT["cell"]:
                atoms.cell[...] = views["cell"]
            if changed & _BIT["pbc"]:
                atoms.pbc = views["pbc"] != 0
        for name in _OPTIONAL:
            if changed & _BIT[name]:
                self._set_array(atoms, name, views[name] if frame.present & _BIT[name] else None)
        if changed & INFO_BIT:
            atoms.info = info
        if changed & (_BIT["cell"] | _BIT["pbc"]):
            self._has_stress = bool(atoms.cell.rank == 3 and atoms.pbc.any())
        if changed & _UNTRACKED:
            return list(all_changes)
        if changed & _VECTORS:
            changed |= _BIT["initial_magmoms"]
        return [name for name in all_changes if changed & _BIT[name]]

    @staticmethod
    def _set_array(atoms: Atoms, name: str, value: NDArray[Any] | None) -> None:
        array_name = _ARRAY_NAME.get(name, name)
        if value is not None:
            atoms.set_array(array_name, None)
            atoms.set_array(array_name, value.copy())
        elif array_name == name:  # vectors that are absent leave the scalars alone
            atoms.set_array(array_name, None)

    def _store(self, views: dict[str, NDArray[Any]], wanted: list[str]) -> int:
        results = dict(self.calculator.results)
        if "energy" in results and results.get("free_energy") is None:
            results["free_energy"] = results["energy"]
        if not self._has_stress:
            # Some models return a number all the same: it means nothing.
            results.pop("stress", None)
            results.pop("stresses", None)
        bits = 0
        for section in PROPERTIES:
            value = results.get(section.name)
            if value is None:
                continue
            array = _as_section(section, value)
            if array.shape == views[section.name].shape:
                views[section.name][...] = array
                bits |= PROPERTY_BITS[section.name]
            elif section.name in wanted:
                raise ValueError(
                    f"The model returned {section.name} of shape {array.shape}, not {views[section.name].shape}."
                )
        for name in wanted:
            if not bits & PROPERTY_BITS[name]:
                raise PropertyNotImplementedError(f"The model returned no {name}.")
        return bits


def _as_section(section: Section, value: Any) -> NDArray[Any]:
    """Return a result in the shape of its section. Numbers of lower precision become float64, which changes none."""
    array = np.asarray(value, dtype=float)
    if section.name == "stress" and array.shape == (3, 3):
        array = full_3x3_to_voigt_6_stress(array)
    return array.reshape(()) if section.shape == () and array.size == 1 and not section.per_atom else array
