"""Apply a request to an Atoms object, compute, and put the results into the shared memory."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from rootstock.errors import WorkerProtocolError
from rootstock.worker.channel.frames import Frame
from rootstock.worker.channel.info import decode_info
from rootstock.worker.channel.memory import ALL_BITS, INFO_BIT, INPUT_BITS, PROPERTIES, PROPERTY_BITS, SharedMemory

_OPTIONAL = ("initial_charges", "initial_magmoms", "initial_magmom_vectors", "tags")
_ARRAY_NAME = {"initial_magmom_vectors": "initial_magmoms"}
# What ASE's own change detection does not know of; a calculator is told that everything changed.
_UNTRACKED = INPUT_BITS["tags"] | INFO_BIT
_POSITIONS = INPUT_BITS["positions"]
_ENERGY, _FREE_ENERGY = PROPERTY_BITS["energy"], PROPERTY_BITS["free_energy"]
_STRESS = PROPERTY_BITS["stress"] | PROPERTY_BITS["stresses"]
_SCALARS = {section.name for section in PROPERTIES if not section.shape and not section.per_atom}
_FLOAT = np.dtype(float)
_VECTORS = INPUT_BITS["initial_magmom_vectors"]


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
        self._count = -1  # of the atoms that the client has shown
        self._info: dict[str, Any] = {}  # each call is given a copy
        self._views: dict[str, NDArray[Any]] = {}
        self._attributes: dict[str, Any] = {}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._copies: list[tuple[NDArray[Any], NDArray[Any]]] = []  # what the atoms have, and where it is in the memory
        self._has_stress = False
        self._offered = sum(PROPERTY_BITS[name] for name in offered_properties(calculator))
        self._requested_names: dict[int, list[str]] = {}

    def evaluate(self, frame: Frame, info: str) -> int:
        """Compute what a frame asks for.

        Parameters
        ----------
        frame : Frame
        info : str
            ``atoms.info``, as `encode_info` writes it.

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
        self._views = views = self.memory.views(frame.atoms)
        changed = frame.changes
        if changed == ALL_BITS:
            self.atoms, self._count = None, frame.atoms
        elif frame.atoms != self._count:
            raise WorkerProtocolError("Received a change of atoms that this worker was never shown.")
        if changed & _UNTRACKED:
            # Parts, as of a sum, are asked through ASE, and look themselves for the changes that ASE knows of.
            for each in _with_parts(self.calculator):
                self._reset(each)
        elif changed:
            self._reset(self.calculator)
        if changed == _POSITIONS and self.atoms is not None:  # as in nearly every step
            changes = ["positions"]
        else:
            changes = self._update(frame, views, info)
        if frame.properties & _STRESS and not self._has_stress:
            raise PropertyNotImplementedError("Stress needs a cell of three vectors and a periodic direction.")
        self.calculator.calculate(self.atoms, self._names(frame.properties), changes)
        bits = self._store(views, frame.properties)
        if missing := frame.properties & ~bits:
            raise PropertyNotImplementedError(f"The model returned no {self._names(missing)[0]}.")
        return bits

    def _reset(self, calculator: Any) -> None:
        """Have a calculator forget the last atoms."""
        reset = getattr(calculator, "reset", None)
        if getattr(reset, "__func__", None) is Calculator.reset:
            calculator.reset()
        elif reset is not None:
            # One of the model's own may know the last atoms, whose positions lie where the new ones are now.
            positions = self._views["positions"].tobytes()
            calculator.reset()
            self.memory.write("positions", positions)
            self.restore()
        elif isinstance(calculator, BaseCalculator):  # as its get_property does
            calculator.atoms, calculator.results = None, {}

    def restore(self) -> None:
        """Undo what the model has done to its atoms: they are what the client believes they are.

        The positions are not looked at: the client writes them before each evaluation. To be called when an answer
        is on its way, and the client is busy with it.
        """
        if self.atoms is not None:
            try:
                self._undo(self.atoms)
            except Exception:  # noqa: BLE001  # such as arrays that the model made read-only
                self.atoms = None  # others are made of what is in the memory

    def _undo(self, atoms: Atoms) -> None:
        vars(atoms).update(self._attributes)
        atoms.arrays.clear()
        atoms.arrays.update(self._arrays, positions=self._views["positions"].view())
        atoms.set_constraint()
        atoms.info = copy.deepcopy(self._info) if self._info else {}
        # If the client has already written new values, these are taken, and the next frame says that they are new.
        for array, view in self._copies:
            array[...] = view

    def _names(self, properties: int) -> list[str]:
        """Return what is asked for, by the names that the calculator knows: not all know of a free energy."""
        if properties not in self._requested_names:
            names = [name for name, bit in PROPERTY_BITS.items() if properties & bit]
            implemented = self.calculator.implemented_properties
            names = ["energy" if name == "free_energy" and name not in implemented else name for name in names]
            self._requested_names[properties] = list(dict.fromkeys(names))
        return list(self._requested_names[properties])

    def _update(self, frame: Frame, views: dict[str, NDArray[Any]], info: str) -> list[str]:
        """Bring the Atoms object up to date and return what ASE calls the system changes."""
        changed, atoms = frame.changes, self.atoms
        if changed & INFO_BIT:
            self._info = decode_info(info)
        stale = changed
        if atoms is None:
            stale = ALL_BITS
            # The positions stay where they are: the client writes new ones only after this evaluation is answered.
            self.atoms = atoms = Atoms(
                numbers=views["numbers"].copy(),
                cell=views["cell"].copy(),
                pbc=views["pbc"] != 0,
            )
            atoms.arrays["positions"] = views["positions"].view()
        else:
            if changed & INPUT_BITS["numbers"]:
                atoms.arrays["numbers"] = views["numbers"].copy()
            if changed & INPUT_BITS["cell"]:
                atoms.cell[...] = views["cell"]
            if changed & INPUT_BITS["pbc"]:
                atoms.pbc = views["pbc"] != 0
        for name in _OPTIONAL:
            if stale & INPUT_BITS[name]:
                array_name = _ARRAY_NAME.get(name, name)
                # Vectors that are absent leave the scalars alone, which are of the same array.
                if array_name == name or not frame.present & INPUT_BITS[array_name]:
                    atoms.set_array(array_name, None)
                if frame.present & INPUT_BITS[name]:
                    atoms.set_array(array_name, views[name].copy())
        if stale & INFO_BIT:
            atoms.info = copy.deepcopy(self._info)
        if stale == ALL_BITS:
            atoms.calc = self.calculator  # ASE then calls the hook set_atoms, where there is one
        if stale & (INPUT_BITS["cell"] | INPUT_BITS["pbc"]):
            self._has_stress = bool(atoms.cell.rank == 3 and atoms.pbc.any())
        self._attributes, self._arrays = vars(atoms).copy(), atoms.arrays.copy()
        self._copies = [(atoms.cell.array, views["cell"]), (atoms.pbc, views["pbc"].view(bool))]
        for name in ("numbers", *_OPTIONAL):
            if frame.present & INPUT_BITS[name]:
                self._copies.append((atoms.arrays[_ARRAY_NAME.get(name, name)], views[name]))
        if changed & _UNTRACKED:
            return list(all_changes)
        if changed & _VECTORS:
            changed |= INPUT_BITS["initial_magmoms"]
        return [name for name in all_changes if changed & INPUT_BITS[name]]

    def _store(self, views: dict[str, NDArray[Any]], required: int) -> int:
        results, bits = self.calculator.results, 0
        has_free_energy = results.get("free_energy") is not None
        if required & _FREE_ENERGY and not has_free_energy:
            required |= _ENERGY  # which stands for it
        for name, value in results.items():
            bit = PROPERTY_BITS.get(name, 0) & self._offered  # in process, ASE refuses what is not declared
            # Some models return a stress of atoms that have none: it means nothing.
            if not bit or value is None or (bit & _STRESS and not self._has_stress):
                continue
            view = views[name]
            try:
                view[...] = value if _fits(value, view) else _as_section(name, value, view.shape)
            except Exception:
                if bit & required:
                    raise
            else:  # numbers of lower precision became float64, which changes none
                bits |= bit
        if bits & _ENERGY and not has_free_energy:
            views["free_energy"][...] = views["energy"]
            bits |= _FREE_ENERGY
        return bits


def _with_parts(calculator: Any) -> list[Any]:
    """Return a calculator and those that it holds; the mixer of a sum holds its."""
    found = [calculator]
    for each in found:
        held = getattr(each, "__dict__", {}).values()
        single = [one for value in held for one in (value if isinstance(value, list | tuple) else [value])]
        known = {*map(id, found)}
        found += [one for one in single if hasattr(one, "implemented_properties") and id(one) not in known]
    return found


def _fits(value: Any, view: NDArray[Any]) -> bool:
    """Tell at once that a result is what is carried, as nearly every one is."""
    if view.shape:
        return type(value) is np.ndarray and value.dtype is _FLOAT and value.shape == view.shape
    return isinstance(value, float)


def _as_section(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a result in the shape that is carried."""
    array = _real_numbers(name, value)
    if name == "stress" and array.shape == (3, 3):
        array = full_3x3_to_voigt_6_stress(array)  # in the model's precision, as ASE does it
    if array.ndim and array.size == 1 and name in _SCALARS:
        array = array.reshape(())
    if array.shape != shape:
        raise ValueError(f"The model returned {name} of shape {array.shape}, not {shape}.")
    return array


def _real_numbers(name: str, value: Any) -> NDArray[Any]:
    """Return a result as an array of real numbers; anything else that numpy would make numbers of is refused."""
    if isinstance(value, list | tuple):  # numpy drops the masks of its items, and makes truth values numbers
        value = [each if type(each) in (float, int) else _real_numbers(name, each) for each in value]
    array = np.asanyarray(value)
    masked = isinstance(array, np.ma.MaskedArray)
    if masked or array.dtype.kind == "b" or not np.can_cast(array.dtype, _FLOAT, "same_kind"):
        mask = " with a mask" if masked else ""
        raise ValueError(f"The model returned {name} of dtype {array.dtype}{mask}, not real numbers.")
    return np.asarray(array) if array.dtype.kind == "f" else array.astype(_FLOAT)
