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
_RESET = Calculator.reset
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
        # What the atoms are as long as the model leaves them alone: their attributes, and the bytes of their arrays.
        self._attributes: dict[str, Any] = {}
        self._buffers: dict[str, tuple[bytearray, bytes]] = {}
        self._bytes: list[tuple[bytearray, bytes]] = []
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
        if getattr(reset, "__func__", None) is _RESET:
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
        if (atoms := self.atoms) is None:
            return
        self.atoms = None  # others are made of what is in the memory, unless these are as they were
        try:
            if self._info or atoms.info:
                self._attributes["info"] = atoms.info = copy.deepcopy(self._info)
            same = vars(atoms) == self._attributes and atoms.cell.array is self._cell
            if not (same and self._pbc.tobytes() == self._pbc_bytes and self._positions.flags.writeable):
                return
        except Exception:  # noqa: BLE001  # where another array stands in place of one, these two do not compare
            return
        for own, data in self._bytes:
            if own != data:
                return
        self.atoms = atoms

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
            stale, self._buffers = ALL_BITS, {}
            self.atoms = atoms = Atoms(numbers=views["numbers"])
            # The positions stay where they are: the client writes new ones only after this evaluation is answered.
            atoms.arrays["positions"] = self._positions = views["positions"].view()
        if stale & INPUT_BITS["numbers"]:
            atoms.arrays["numbers"] = self._take("numbers")
        if stale & INPUT_BITS["cell"]:
            atoms.cell.array = self._cell = self._take("cell")
        if stale & INPUT_BITS["pbc"]:
            atoms.pbc = views["pbc"] != 0
            self._pbc = atoms.pbc
            self._pbc_bytes = self._pbc.tobytes()
        for name in _OPTIONAL:
            if stale & INPUT_BITS[name]:
                array_name = _ARRAY_NAME.get(name, name)
                self._buffers.pop(name, None)
                # Vectors that are absent leave the scalars alone, which are of the same array.
                if array_name == name or not frame.present & INPUT_BITS[array_name]:
                    atoms.arrays.pop(array_name, None)
                if frame.present & INPUT_BITS[name]:
                    atoms.arrays[array_name] = self._take(name)
        if stale & INFO_BIT:
            atoms.info = copy.deepcopy(self._info)
        if stale == ALL_BITS:
            atoms.calc = self.calculator  # ASE then calls the hook set_atoms, where there is one
        if stale & (INPUT_BITS["cell"] | INPUT_BITS["pbc"]):
            self._has_stress = bool(atoms.cell.rank == 3 and atoms.pbc.any())
        # Its lists and dicts are copied: what the model puts into them is none of theirs.
        self._attributes = {
            name: value.copy() if isinstance(value, list | dict) else value for name, value in vars(atoms).items()
        }
        self._bytes = list(self._buffers.values())
        if changed & _UNTRACKED:
            return list(all_changes)
        if changed & _VECTORS:
            changed |= INPUT_BITS["initial_magmoms"]
        return [name for name in all_changes if changed & INPUT_BITS[name]]

    def _take(self, name: str) -> NDArray[Any]:
        """Return a copy of a section of the memory, at which `restore` looks."""
        view = self._views[name]
        data = view.tobytes()
        own = bytearray(data)
        self._buffers[name] = own, data
        return np.frombuffer(own, view.dtype).reshape(view.shape)

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
            if (type(value) is np.ndarray and value.dtype is _FLOAT and value.shape == view.shape) or (
                type(value) is float and not view.shape
            ):  # as nearly every one is
                view[...] = value
            else:
                try:
                    view[...] = _as_section(name, value, view.shape)  # lower precision becomes float64: no change
                except Exception:
                    if bit & required:
                        raise
                    continue
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


def _as_section(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a result in the shape that is carried."""
    array = real_numbers(name, value)
    if name == "stress" and array.shape == (3, 3):
        array = full_3x3_to_voigt_6_stress(array)  # in the model's precision, as ASE does it
    if array.ndim and array.size == 1 and name in _SCALARS:
        array = array.reshape(())
    if array.shape != shape:
        raise ValueError(f"The model returned {name} of shape {array.shape}, not {shape}.")
    return array


def real_numbers(name: str, value: Any) -> NDArray[Any]:
    """Return a result as an array of real numbers.

    Parameters
    ----------
    name : str
        Of the property, for the error.
    value : object
        What a calculator left: a number, an array, a list of them, or what gives an array (of torch, of jax).

    Raises
    ------
    ValueError
        If it is anything else that numpy would make numbers of: truth values, text, dates, masked or complex numbers.
    """
    if isinstance(value, list | tuple):  # numpy drops the masks of its items, and makes truth values numbers
        value = [each if type(each) in (float, int) else real_numbers(name, each) for each in value]
    array = np.asanyarray(value)
    masked = isinstance(array, np.ma.MaskedArray)
    if masked or array.dtype.kind == "b" or not np.can_cast(array.dtype, _FLOAT, "same_kind"):
        mask = " with a mask" if masked else ""
        raise ValueError(f"The model returned {name} of dtype {array.dtype}{mask}, not real numbers.")
    return np.asarray(array) if array.dtype.kind == "f" else array.astype(_FLOAT)
