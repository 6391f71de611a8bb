"""Apply a request to an Atoms object, compute, and put the results into the shared memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, PropertyNotImplementedError, all_changes
from numpy.typing import NDArray

from rootstock.errors import WorkerProtocolError
from rootstock.worker.channel.frames import Frame
from rootstock.worker.channel.info import decode_info
from rootstock.worker.channel.memory import ALL_BITS, INFO_BIT, INPUT_BITS, PROPERTY_BITS, SharedMemory
from rootstock.worker.extra_results import ExtraResults
from rootstock.worker.results import STRESS, Views, offered_properties, store_results

_OPTIONAL = ("initial_charges", "initial_magmoms", "initial_magmom_vectors", "tags")
_ARRAY_NAME = {"initial_magmom_vectors": "initial_magmoms"}
# What ASE's own change detection does not know of; a calculator is told that everything changed.
_UNTRACKED = INPUT_BITS["tags"] | INFO_BIT
_POSITIONS = INPUT_BITS["positions"]
_RESET = Calculator.reset
_VECTORS = INPUT_BITS["initial_magmom_vectors"]


class Evaluator:
    """Keeps one Atoms object and updates it in place, so that a calculator sees what a simulation would show it.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
    memory : SharedMemory
    offered : list of str, optional
        What it offers; by default all that the calculator implements.
    extras : ExtraResults, optional
        What travels beside ASE's properties.
    """

    def __init__(
        self, calculator: Any, memory: SharedMemory, offered: list[str] | None = None,
        extras: ExtraResults | None = None,
    ) -> None:  # fmt: skip
        self.calculator = calculator
        self.extras = extras
        self.memory = memory
        self.atoms: Atoms | None = None
        self._count = -1  # of the atoms that the client has shown
        self._info: dict[str, Any] = {}  # each call is given a copy
        self._views: Views = {}
        # What the atoms are as long as the model leaves them alone: their attributes, and the bytes of their arrays.
        self._attributes: dict[str, Any] = {}
        self._buffers: dict[str, tuple[bytearray, bytes]] = {}
        self._bytes: list[tuple[bytearray, bytes]] = []
        self._has_stress = False
        names = offered_properties(calculator) if offered is None else offered
        self._offered = sum(PROPERTY_BITS[name] for name in names)
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
        return self.compute(frame, self.memory.views(frame.atoms), info)

    def compute(self, frame: Frame, views: Views, info: str) -> int:
        """Compute what a frame asks for, with arrays that lie anywhere; see `evaluate`.

        Parameters
        ----------
        frame : Frame
        views : Mapping of str to ndarray
            Every section, by name.
        info : str

        Raises
        ------
        PropertyNotImplementedError
            As `evaluate`.
        WorkerProtocolError
            If these are changes of atoms that this worker was never shown.
        """
        self._views = views
        changed = frame.changes
        if changed == ALL_BITS:
            self.atoms, self._count = None, frame.atoms
        elif frame.atoms != self._count:
            raise WorkerProtocolError("Received a change of atoms that this worker was never shown.")
        if changed & _UNTRACKED:
            self.reset()
        elif changed:
            self._reset(self.calculator)
        if changed == _POSITIONS and self.atoms is not None:  # as in nearly every step
            changes = ["positions"]
        else:
            changes = self._update(frame, views, info)
        if frame.properties & STRESS and not self._has_stress:
            raise PropertyNotImplementedError("Stress needs a cell of three vectors and a periodic direction.")
        self.calculator.calculate(self.atoms, self.names(frame.properties), changes)
        return self.store(self.calculator.results, views, frame.properties, has_stress=self._has_stress)

    def forget(self) -> None:
        """Have the client show the next atoms anew: what lay in the memory is gone."""
        self.atoms, self._count = None, -1

    def detached(self, frame: Frame, views: Views, info: str) -> tuple[Atoms, bool]:
        """Return atoms that share no array with the memory, and whether they have a stress.

        Parameters
        ----------
        frame, views, info
            As of `compute`.
        """
        self.forget()
        self._views = views
        self._update(frame, views, info)
        atoms, self.atoms = cast(Atoms, self.atoms), None
        atoms.calc, atoms.arrays["positions"] = None, views["positions"].copy()
        return atoms, self._has_stress

    def reset(self) -> None:
        """Have the calculator forget the last atoms, and its parts.

        Those, as of a sum, are asked through ASE, and look themselves for the changes that ASE knows of.
        """
        for each in _with_parts(self.calculator):
            self._reset(each)

    def _reset(self, calculator: Any) -> None:
        """Have a calculator forget the last atoms."""
        reset = getattr(calculator, "reset", None)
        if getattr(reset, "__func__", None) is _RESET or (reset is not None and not self._views):
            calculator.reset()
        elif reset is not None:
            # One of the model's own may know the last atoms, whose positions lie where the new ones are now.
            positions = self._views["positions"].copy()
            calculator.reset()
            self._views["positions"][...] = positions
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

    def names(self, properties: int) -> list[str]:
        """Return what is asked for, by the names that the calculator knows: not all know of a free energy.

        Parameters
        ----------
        properties : int
            As bits.
        """
        if properties not in self._requested_names:
            names = [name for name, bit in PROPERTY_BITS.items() if properties & bit]
            implemented = self.calculator.implemented_properties
            names = ["energy" if name == "free_energy" and name not in implemented else name for name in names]
            self._requested_names[properties] = list(dict.fromkeys(names))
        return list(self._requested_names[properties])

    def _update(self, frame: Frame, views: Views, info: str) -> list[str]:
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

    def store(self, results: Mapping[str, Any], views: Views, required: int, *, has_stress: bool) -> int:
        """Put results into the memory, and return which, as bits.

        Parameters
        ----------
        results : Mapping[str, Any]
            By ASE's names.
        views : Mapping of str to ndarray
        required : int
            What must be among them, as bits.
        has_stress : bool
            Whether these atoms have one.

        Raises
        ------
        PropertyNotImplementedError
            If one that is required is not there.
        """
        bits = store_results(results, views, self._offered, required, has_stress=has_stress)
        if missing := required & ~bits:
            raise PropertyNotImplementedError(f"The model returned no {self.names(missing)[0]}.")
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
