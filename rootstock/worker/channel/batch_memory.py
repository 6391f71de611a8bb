"""Many structures in the shared memory at once: what is per atom end to end, what is per structure in rows.

It is a second layout of the same file. A worker is asked one thing at a time, so a batch and a single evaluation never
use it together; what one of them has left there means nothing to the other.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rootstock.errors import WorkerError, WorkerProtocolError
from rootstock.worker.channel.frames import MAX_ATOMS, MAX_STRUCTURES
from rootstock.worker.channel.memory import INPUTS, PROPERTIES, Section, SharedMemory, no_room, place

FAILED = -1  # in `found`: there is no result, and a failure says why

# Of each structure: how many atoms it has; which inputs it has, and what is asked of it, as bits; and what was found,
# as bits, which the worker writes when all else of the structure is in its place. 0: nothing yet. And where its extra
# results lie, behind this layout; 0: there are none.
_OF_STRUCTURES = tuple(Section(name, (), False, "i8") for name in ("counts", "present", "asked", "found", "extras"))
# Whether the client wants the answer when the part that is being computed is done. Only its first number is used.
STOP = Section("stop", (), False, "i8")
BATCH_SECTIONS = (STOP, *_OF_STRUCTURES, *INPUTS, *PROPERTIES)


class BatchMemory:
    """The batch's view of the memory.

    Parameters
    ----------
    memory : SharedMemory
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._map: mmap.mmap | None = None
        self._offsets: dict[str, int] = {}
        self.room = (0, 0)

    def grow(self, atoms: int, structures: int) -> None:
        """Make room; for the end that owns the file. What was in it is then undefined.

        Parameters
        ----------
        atoms, structures : int

        Raises
        ------
        WorkerError
            If there is no memory, no descriptor, or no permission for it.
        """
        have_atoms, have_structures = self.room
        if atoms <= have_atoms and structures <= have_structures:
            return
        wanted = max(have_atoms, atoms + atoms // 4, 1024), max(have_structures, structures + structures // 4, 64)
        room = min(wanted[0], MAX_ATOMS), min(wanted[1], MAX_STRUCTURES)
        if atoms > MAX_ATOMS or structures > MAX_STRUCTURES:
            raise WorkerError(f"{atoms} atoms in {structures} structures are more than a worker can be given at once.")
        size = place(BATCH_SECTIONS, *room)[1]
        try:
            self._memory.extend(size)
            self.attach(room)
        except OSError as error:
            raise no_room(size, atoms, error) from error

    def attach(self, room: Any) -> None:
        """Map the file as laid out for so many atoms and structures.

        Raises
        ------
        WorkerProtocolError
            If these are no two numbers within bounds, or the file is smaller than that.
        """
        if room == self.room:
            return
        sizes = list(room) if isinstance(room, list | tuple) else []
        if [type(size) for size in sizes] != [int, int] or not (
            0 < sizes[0] <= MAX_ATOMS and 0 < sizes[1] <= MAX_STRUCTURES
        ):
            raise WorkerProtocolError(f"Received {room!r} in place of a number of atoms and one of structures.")
        offsets, size = place(BATCH_SECTIONS, *sizes)
        mapped = self._memory.mapped(size)
        self._offsets = offsets  # first: another thread may ask for a stop
        self.room, self._map = (sizes[0], sizes[1]), mapped

    @property
    def end(self) -> int:
        """Where this layout ends in the file, and extra results may begin."""
        return place(BATCH_SECTIONS, *self.room)[1]

    @property
    def fd(self) -> int:
        """Descriptor of the file."""
        return self._memory.fd

    def views(self, atoms: int, structures: int) -> dict[str, NDArray[Any]]:
        """Return every section as an array that points into the memory.

        Parameters
        ----------
        atoms, structures : int
            How many there are; room was made for them.
        """
        assert self._map is not None
        return {
            section.name: np.ndarray(
                (atoms if section.per_atom else structures, *section.shape),
                section.dtype,
                self._map,
                self._offsets[section.name],
            )
            for section in BATCH_SECTIONS
        }

    def stop(self) -> None:
        """Ask the worker to answer when the part that it computes is done; any thread of the client may."""
        if (mapped := self._map) is not None:
            offset = self._offsets[STOP.name]
            mapped[offset : offset + 1] = b"\1"
