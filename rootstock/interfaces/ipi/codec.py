"""Messages to bytes and back, eV and Angstrom to atomic units and back.

The units are exactly `ase.units`, which ASE's own socket calculator uses: other values of the constants shift an
energy of 1e5 eV by a meV.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from ase.units import Bohr, Hartree
from numpy.typing import NDArray

from rootstock.errors import WorkerProtocolError
from rootstock.interfaces.ipi.messages import (
    EXIT,
    FORCEREADY,
    GETFORCE,
    HAVEDATA,
    INIT,
    NEEDINIT,
    POSDATA,
    READY,
    STATUS,
    ForceReady,
    PosData,
    Reply,
    Request,
)

HEADER_SIZE = 12
# Bounds on what the other end may announce. Memory is taken only as bytes arrive.
MAX_ATOMS = 2**27
MAX_TEXT = 2**20

_REQUESTS = {word.encode(): word for word in (STATUS, GETFORCE, EXIT)}  # those that are nothing but a word
_STATES = {state.encode(): state for state in (NEEDINIT, READY, HAVEDATA)}
_INT = struct.Struct("<i")
_DOUBLE = struct.Struct("<d")
_NINE = struct.Struct("<9d")
_MATRIX = _NINE.size
_FIRST_ROOM = 4096

Array = NDArray[np.float64]


def header(text: str) -> bytes:
    """Return a header: a word, padded with blanks.

    >>> header("READY")
    b'READY       '
    """
    return text.ljust(HEADER_SIZE).encode()


def encode(reply: ForceReady) -> bytes:
    """Return the bytes of a driver's results, header included."""
    forces = reply.forces / (Hartree / Bohr)
    return b"".join(
        [
            header(FORCEREADY),
            _DOUBLE.pack(reply.energy / Hartree),
            _INT.pack(len(forces)),
            forces.astype("<f8", copy=False).tobytes(),
            (reply.virial.T / Hartree).astype("<f8").tobytes(),
            _INT.pack(len(reply.extra)),
            reply.extra,
        ]
    )


def encode_cell(cell: Array, atoms: int) -> bytes:
    """Return what stands before the positions in `PosData`, header included.

    Parameters
    ----------
    cell : ndarray, shape (3, 3) [Å]
        Cell vectors as rows; they span a volume.
    atoms : int
        Number of atoms.
    """
    columns = (cell.T / Bohr, np.linalg.inv(cell).T * Bohr)
    return header(POSDATA) + b"".join(matrix.astype("<f8").tobytes() for matrix in columns) + _INT.pack(atoms)


def encode_positions(positions: Array) -> memoryview:
    """Return the bytes of positions [Å], shape (n_atoms, 3), which end a `PosData`."""
    return np.divide(positions, Bohr, order="C").astype("<f8", copy=False).data.cast("B")


class _Buffer:
    """Collects the bytes that arrive, in whatever pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray(_FIRST_ROOM)
        self._start = self._end = 0

    def room(self) -> memoryview:
        """Return where the next bytes belong. It grows with what has arrived, never with what is announced."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            rest = self._buffer[self._start : self._end]
            if 2 * len(rest) > len(self._buffer):
                self._buffer = bytearray(2 * len(self._buffer))
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return memoryview(self._buffer)[self._end :]

    def received(self, count: int) -> None:
        """Say how many bytes were put into `room`."""
        self._end += count

    def __len__(self) -> int:
        return self._end - self._start

    def beginning(self) -> bytes:
        """Return the first bytes of what has not been given out."""
        return bytes(self._buffer[self._start : min(self._start + HEADER_SIZE, self._end)])

    def _word(self) -> bytes:
        return bytes(self._buffer[self._start : self._start + HEADER_SIZE]).rstrip(b" \0")

    def _int(self, offset: int) -> int:
        return int(_INT.unpack_from(self._buffer, self._start + offset)[0])

    def _floats(self, offset: int, rows: int) -> Array:
        """Return a view of rows of three numbers; it is valid until `room` is asked for again."""
        return np.frombuffer(self._buffer, "<f8", 3 * rows, self._start + offset).reshape(rows, 3)


class Decoder(_Buffer):
    """Gives out the whole requests among the bytes that a server sent."""

    def next_request(self) -> Request | None:
        """Return the next request; None if it has not arrived as a whole.

        Raises
        ------
        WorkerProtocolError
            If these bytes are no request.
        """
        if len(self) < HEADER_SIZE:
            return None
        word = self._word()
        if word in _REQUESTS:
            self._start += HEADER_SIZE
            return _REQUESTS[word]
        if word == b"INIT":
            return self._init()
        if word == b"POSDATA":
            with np.errstate(all="ignore"):  # whoever uses numbers that are not finite refuses them
                return self._posdata()
        raise WorkerProtocolError(f"The i-PI server sent {word!r}, which this driver does not know.")

    def _init(self) -> Request | None:
        start = HEADER_SIZE + 2 * _INT.size
        if len(self) < start:
            return None
        length = self._int(HEADER_SIZE + _INT.size)
        if not 0 <= length <= MAX_TEXT:
            raise WorkerProtocolError(f"The i-PI server announced a text of {length} bytes.")
        if len(self) < start + length:
            return None
        self._start += start + length
        return INIT

    def _posdata(self) -> PosData | None:
        start = HEADER_SIZE + 2 * _MATRIX + _INT.size
        if len(self) < start:
            return None
        count = self._int(start - _INT.size)
        if not 0 < count <= MAX_ATOMS:
            raise WorkerProtocolError(f"The i-PI server announced {count} atoms.")
        end = start + 3 * count * _DOUBLE.size
        if len(self) < end:
            return None
        # The matrix is sent column by column; the inverse of the cell, which follows it, says nothing new.
        message = PosData(self._floats(HEADER_SIZE, 3).T * Bohr, self._floats(start, count) * Bohr)
        self._start += end
        return message


class ReplyDecoder(_Buffer):
    """Gives out the whole replies among the bytes that a driver sent."""

    def next_reply(self, atoms: int) -> Reply | None:
        """Return the next reply; None if it has not arrived as a whole.

        Parameters
        ----------
        atoms : int
            How many atoms the driver was asked about.

        Raises
        ------
        WorkerProtocolError
            If these bytes are no reply, or one about another number of atoms.
        """
        if len(self) < HEADER_SIZE:
            return None
        word = self._word()
        if word in _STATES:
            self._start += HEADER_SIZE
            return _STATES[word]
        if word != b"FORCEREADY":
            raise WorkerProtocolError(f"The i-PI client sent {word!r}, which is no answer.")
        with np.errstate(all="ignore"):  # whoever uses numbers that are not finite refuses them
            return self._results(atoms)

    def _results(self, atoms: int) -> ForceReady | None:
        start = HEADER_SIZE + _DOUBLE.size + _INT.size
        if len(self) < start:
            return None
        count = self._int(start - _INT.size)
        if count != atoms:
            raise WorkerProtocolError(f"The i-PI client answered for {count} atoms; it was asked about {atoms}.")
        virial_at = start + 3 * count * _DOUBLE.size
        end = virial_at + _MATRIX + _INT.size
        if len(self) < end:
            return None
        length = self._int(end - _INT.size)
        if not 0 <= length <= MAX_TEXT:
            raise WorkerProtocolError(f"The i-PI client announced a text of {length} bytes.")
        if len(self) < end + length:
            return None
        energy = float(_DOUBLE.unpack_from(self._buffer, self._start + HEADER_SIZE)[0])
        message = ForceReady(
            energy * Hartree,
            self._floats(start, count) * (Hartree / Bohr),
            whole_virial(_NINE.unpack_from(self._buffer, self._start + virial_at)) * Hartree,
            bytes(self._buffer[self._start + end : self._start + end + length]),
        )
        self._start += end + length
        return message


def whole_virial(columns: Sequence[float]) -> Array:
    """Return a symmetric virial from its nine numbers as they are sent, column by column.

    LAMMPS fills one triangle and leaves the other zero. Averaging both, as for a matrix that is symmetric but for
    rounding, would halve the shear.

    >>> whole_virial([1, 0, 0, 2, 3, 0, 4, 5, 6]).tolist()
    [[1.0, 2.0, 4.0], [2.0, 3.0, 5.0], [4.0, 5.0, 6.0]]
    """
    xx, yx, zx, xy, yy, zy, xz, yz, zz = columns
    share = 0.5 if (yx or zx or zy) and (xy or xz or yz) else 1.0
    xy, xz, yz = (xy + yx) * share, (xz + zx) * share, (yz + zy) * share
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], dtype=float)
