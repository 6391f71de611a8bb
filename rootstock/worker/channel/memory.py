"""The memory that both ends share: where each array lies in it.

It is an anonymous file. Its layout follows from one number, the capacity in atoms: after the bell's flags the sections
of fixed size, then the ones per atom, each aligned to a cache line. Pages that nobody touches cost nothing, so every
section has its place whether it is used or not.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import tempfile
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rootstock.errors import WorkerError, WorkerProtocolError
from rootstock.worker.channel.descriptors import above_standard_streams
from rootstock.worker.channel.endpoint import PeerGoneError
from rootstock.worker.channel.frames import MAX_ATOMS
from rootstock.worker.channel.wakeup import ROOM

_ALIGN = 64


class Section(NamedTuple):
    """One array: `shape` numbers for each atom, or in all."""

    name: str
    shape: tuple[int, ...]
    per_atom: bool
    dtype: str = "f8"

    def bytes(self, atoms: int, structures: int = 1) -> int:
        """Return room enough.

        Parameters
        ----------
        atoms, structures : int
            How many there are.
        """
        return 8 * int(np.prod(self.shape)) * (atoms if self.per_atom else structures)


# What a model is given. The order of the first six is that of ase.calculators.calculator.all_changes.
# Magnetic moments are one number for each atom, or three (noncollinear); an Atoms object has either.
INPUTS = (
    Section("positions", (3,), True),
    Section("numbers", (), True, "i8"),
    Section("cell", (3, 3), False),
    Section("pbc", (3,), False, "u1"),
    Section("initial_charges", (), True),
    Section("initial_magmoms", (), True),
    Section("initial_magmom_vectors", (3,), True),
    Section("tags", (), True, "i8"),
)
INFO_BIT = 1 << len(INPUTS)  # atoms.info travels as the payload of the frame
ALL_BITS = 2 * INFO_BIT - 1

# What a model returns: ASE's standard properties, in ASE's units, stress and stresses in Voigt order.
PROPERTIES = (
    Section("energy", (), False),
    Section("free_energy", (), False),
    Section("forces", (3,), True),
    Section("stress", (6,), False),
    Section("energies", (), True),
    Section("stresses", (6,), True),
    Section("charges", (), True),
    Section("magmom", (), False),
    Section("magmoms", (), True),
    Section("dipole", (3,), False),
    Section("polarization", (3,), False),
    Section("dielectric_tensor", (3, 3), False),
    Section("born_effective_charges", (3, 3), True),
)
INPUT_BITS = {section.name: 1 << i for i, section in enumerate(INPUTS)}
PROPERTY_BITS = {section.name: 1 << i for i, section in enumerate(PROPERTIES)}


def place(sections: Iterable[Section], atoms: int, structures: int = 1) -> tuple[dict[str, int], int]:
    """Return where each section begins, and where the last one ends.

    Parameters
    ----------
    sections : iterable of Section
        One after the other, behind the bell's flags.
    atoms, structures : int
        How many there is to be room for.
    """
    offsets, end = {}, ROOM
    for section in sections:
        offsets[section.name] = end
        end += -(-section.bytes(atoms, structures) // _ALIGN) * _ALIGN
    return offsets, end


def no_room(size: int, atoms: int, error: OSError) -> WorkerError:
    """Return the error for memory that this process may not have.

    Parameters
    ----------
    size : int
        In bytes.
    atoms : int
        What it was for.
    error : OSError
    """
    return WorkerError(
        f"Cannot share {size / 2**20:.0f} MB with the worker, for {atoms} atoms: {error.strerror}.",
        "ulimit -a shows this process's limits: -v is memory, -f the size of a file, -n the open files.",
    )


class SharedMemory:
    """Arrays in an anonymous file that two processes map.

    Parameters
    ----------
    fd : int
        Descriptor of the file. It stays the caller's to close.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.capacity = 0
        self.offsets: dict[str, int] = {}
        self.map: mmap.mmap | None = None
        self._views: dict[str, NDArray[np.float64]] = {}
        self._atoms = -1
        self.closed = False  # its descriptor may be that of another file then

    @classmethod
    def create(cls) -> SharedMemory:
        """Make the file. It has no name, and is gone with the last process that holds it."""
        try:
            fd = os.memfd_create("rootstock", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
                raise
            with tempfile.TemporaryFile() as file:  # macOS, or a sandbox without memfd
                fd = os.dup(file.fileno())
        else:
            # Nobody can cut it short: reading what is no longer there would kill the client.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        os.ftruncate(fd, ROOM)
        return cls(fd)

    def close(self) -> None:
        """Let go of the file and of what is mapped of it."""
        self.map, self._views, self._atoms, self.capacity, self.closed = None, {}, -1, 0, True
        os.close(self.fd)

    def grow(self, atoms: int) -> None:
        """Make room for `atoms`; for the end that owns the file. What was in it is then undefined.

        Raises
        ------
        WorkerError
            If there is no memory, no descriptor, or no permission for it. The old room is still there.
        """
        if self.capacity and atoms <= self.capacity:
            return
        capacity = min(max(64, atoms + atoms // 4), MAX_ATOMS)
        size = place((*INPUTS, *PROPERTIES), capacity)[1]
        if atoms > MAX_ATOMS:
            raise WorkerError(f"{atoms} atoms are more than the {MAX_ATOMS} that a worker can be given.")
        try:
            self.extend(size)
            self.attach(capacity)
        except OSError as error:
            raise no_room(size, atoms, error) from error

    def extend(self, size: int) -> None:
        """Make the file so long, unless it is: nobody can cut it short, and a batch may have needed more."""
        if os.fstat(self.fd).st_size < size:
            os.ftruncate(self.fd, size)

    @property
    def end(self) -> int:
        """Where the layout ends in the file, and arrays of any size may begin."""
        return place((*INPUTS, *PROPERTIES), self.capacity)[1]

    def mapped(self, size: int) -> mmap.mmap:
        """Map the beginning of the file.

        Raises
        ------
        WorkerProtocolError
            If the file is smaller than that.
        """
        if os.fstat(self.fd).st_size < size:
            raise WorkerProtocolError(f"The shared memory holds no room for {size} bytes.")
        with above_standard_streams():  # the map has a descriptor of its own
            return mmap.mmap(self.fd, size)

    def attach(self, capacity: int) -> None:
        """Map the file as laid out for `capacity` atoms.

        Raises
        ------
        WorkerProtocolError
            If the file is smaller than that.
        """
        if capacity == self.capacity:
            return
        offsets, size = place((*INPUTS, *PROPERTIES), capacity)
        # The old map is dropped, not closed: arrays that point into it may still be in use.
        self.map = self.mapped(size)
        self.capacity, self.offsets, self._atoms = capacity, offsets, -1

    def write(self, name: str, data: bytes) -> None:
        """Copy bytes to the beginning of a section.

        Parameters
        ----------
        name : str
            Name of the section.
        data : bytes
        """
        assert self.map is not None
        offset = self.offsets[name]
        self.map[offset : offset + len(data)] = data

    def views(self, atoms: int) -> dict[str, NDArray[np.float64]]:
        """Return every section as an array that points into the memory, for this number of atoms.

        Raises
        ------
        PeerGoneError
            If the memory was let go of, with the worker.
        """
        if atoms != self._atoms:
            if self.map is None:
                raise PeerGoneError  # who let go of the memory has ended the worker
            self._views = {
                section.name: np.ndarray(
                    (atoms, *section.shape) if section.per_atom else section.shape,
                    section.dtype,
                    self.map,
                    self.offsets[section.name],
                )
                for section in (*INPUTS, *PROPERTIES)
            }
            self._atoms = atoms
        return self._views
