"""The structures of a batch, as the client has laid them into the shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from rootstock.errors import WorkerProtocolError
from rootstock.worker.channel.batch_memory import BATCH_SECTIONS, BatchMemory
from rootstock.worker.channel.frames import MAX_STRUCTURES, Frame, Kind
from rootstock.worker.channel.memory import ALL_BITS, PROPERTY_BITS
from rootstock.worker.evaluate import Evaluator
from rootstock.worker.results import STRESS

_SECTIONS = {section.name: section for section in BATCH_SECTIONS}
_DENSITY = 0.05  # atoms in a cubic Angstrom of a common solid: of denser ones, an atom has more neighbours
_ALL_PROPERTIES = sum(PROPERTY_BITS.values())


class Structures:
    """Many structures, of which each is seen as if it lay in the memory alone.

    Parameters
    ----------
    memory : BatchMemory
    frame : Frame
    content : dict
        Of the frame.

    Attributes
    ----------
    atoms, asked : list of int
        For each structure the number of its atoms, and what is asked, as bits.
    suits : list of bool
        Whether a hook may be given a structure: it has atoms, and a stress if that is asked.
    views : dict of str to ndarray
        All sections, of all structures.

    Raises
    ------
    WorkerProtocolError
        If the numbers do not fit together. Nothing is allocated by them before that is known.
    """

    def __init__(self, memory: BatchMemory, frame: Frame, content: dict[str, Any]) -> None:
        count, info = content.get("structures"), content.get("info", {})
        memory.attach(content.get("room"))
        if type(count) is not int or not 0 < count <= min(memory.room[1], MAX_STRUCTURES):
            raise WorkerProtocolError(f"Received a batch of {count!r} structures; there is room for {memory.room[1]}.")
        if frame.atoms > memory.room[0]:
            raise WorkerProtocolError(f"Received a batch of {frame.atoms} atoms; there is room for {memory.room[0]}.")
        self.views = memory.views(frame.atoms, count)
        sizes = self.views["counts"].copy()
        if sizes.min() < 0 or sizes.max() > frame.atoms or int(sizes.sum()) != frame.atoms:
            raise WorkerProtocolError("The numbers of atoms of a batch's structures are not those that it announces.")
        if not isinstance(info, dict) or not all(isinstance(text, str) for text in info.values()):
            raise WorkerProtocolError("Received a batch whose info is no text for each structure.")
        self._info = info
        self.atoms: list[int] = sizes.tolist()
        self._ends: list[int] = np.cumsum(sizes).tolist()
        self.asked: list[int] = (self.views["asked"] & _ALL_PROPERTIES).tolist()
        has_cell = (self.views["cell"] != 0).any(axis=2).all(axis=1) & (self.views["pbc"] != 0).any(axis=1)
        asks_stress = (self.views["asked"] & STRESS) != 0
        self.suits: list[bool] = ((sizes > 0) & (has_cell | ~asks_stress)).tolist()
        self._present: list[int] = (self.views["present"] & ALL_BITS).tolist()

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def stopped(self) -> bool:
        """Whether the client wants the answer soon."""
        return bool(self.views["stop"][0])

    def row(self, k: int) -> _Row:
        """Return the sections of one structure."""
        return _Row(self.views, k, self._ends[k] - self.atoms[k], self._ends[k])

    def question(self, k: int) -> tuple[Frame, _Row, str]:
        """Return what an `Evaluator` is asked of one structure."""
        atoms = self.atoms[k]
        frame = Frame(Kind.EVALUATE, self.asked[k], ALL_BITS, self._present[k], 0, 0, atoms, atoms)
        return frame, self.row(k), self._info.get(str(k), "")

    def image(self, k: int, evaluator: Evaluator) -> tuple[Atoms, bool]:
        """Return one structure as an Atoms object of its own, and whether it has a stress.

        Parameters
        ----------
        k : int
            Its place.
        evaluator : Evaluator
        """
        return evaluator.detached(*self.question(k))

    def costs(self) -> list[float]:
        """Return for each structure its atoms; more where they are densely packed, since memory follows neighbours."""
        atoms = self.views["counts"].astype(float)
        volumes = np.abs(np.linalg.det(self.views["cell"]))
        periodic = self.views["pbc"].any(axis=1) & (volumes > 0)
        density = np.divide(atoms, volumes, out=np.zeros(len(atoms)), where=periodic)
        costs: list[float] = (atoms * np.clip(density / _DENSITY, 1.0, 100.0)).tolist()
        return costs


class _Row(dict[str, NDArray[Any]]):
    """The sections of one structure: each is made when it is looked at, since most are not."""

    def __init__(self, views: dict[str, NDArray[Any]], k: int, begin: int, end: int) -> None:
        super().__init__()
        self._views, self._k, self._begin, self._end = views, k, begin, end

    def __missing__(self, name: str) -> NDArray[Any]:
        section, array = _SECTIONS[name], self._views[name]
        if section.per_atom:
            row = array[self._begin : self._end]
        else:
            row = array[self._k] if section.shape else array[self._k : self._k + 1].reshape(())
        self[name] = row
        return row
