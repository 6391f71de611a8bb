"""Messages to bytes and back, eV and Angstrom to atomic units and back.

The units are exactly `ase.units`, which ASE's own socket calculator uses: other values of the constants shift an
energy of 1e5 eV by a meV.
"""

from __future__ import annotations

import struct

import numpy as np
from ase.units import Bohr, Hartree

from rootstock.errors import WorkerProtocolError
from rootstock.ipi.messages import Exit, ForceReady, GetForce, Init, PosData, Request, Status

HEADER_SIZE = 12
# Bounds on what a server may announce, checked before anything is allocated.
MAX_ATOMS = 2**27
MAX_TEXT = 2**20

_WORDS: dict[bytes, Request] = {b"STATUS": Status(), b"GETFORCE": GetForce(), b"EXIT": Exit()}
_INT = struct.Struct("<i")
_DOUBLE = struct.Struct("<d")
_MATRIX = 9 * _DOUBLE.size


def header(text: str) -> bytes:
    """Return a header: a word, padded with blanks.

    >>> header("READY")
    b'READY       '
    """
    return text.ljust(HEADER_SIZE).encode()


def encode(reply: ForceReady) -> bytes:
    """Return the bytes of our results, header included."""
    forces = reply.forces / (Hartree / Bohr)
    return b"".join(
        [
            header("FORCEREADY"),
            _DOUBLE.pack(reply.energy / Hartree),
            _INT.pack(len(forces)),
            forces.astype("<f8").tobytes(),
            (reply.virial.T / Hartree).astype("<f8").tobytes(),
            _INT.pack(len(reply.extra)),
            reply.extra,
        ]
    )


class Decoder:
    """Collects the bytes that arrive, in whatever pieces, and gives out whole requests."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what arrived."""
        self._buffer += data

    def next_request(self) -> Request | None:
        """Return the next request; None if it has not arrived as a whole.

        Raises
        ------
        WorkerProtocolError
            If these bytes are no request.
        """
        if len(self._buffer) < HEADER_SIZE:
            return None
        word = bytes(self._buffer[:HEADER_SIZE]).rstrip(b" \0")
        if word in _WORDS:
            del self._buffer[:HEADER_SIZE]
            return _WORDS[word]
        if word == b"INIT":
            return self._init()
        if word == b"POSDATA":
            return self._posdata()
        raise WorkerProtocolError(f"The i-PI server sent {word!r}, which this driver does not know.")

    def _init(self) -> Init | None:
        start = HEADER_SIZE + 2 * _INT.size
        if len(self._buffer) < start:
            return None
        bead, length = struct.unpack_from("<ii", self._buffer, HEADER_SIZE)
        if not 0 <= length <= MAX_TEXT:
            raise WorkerProtocolError(f"The i-PI server announced a text of {length} bytes.")
        if len(self._buffer) < start + length:
            return None
        text = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        return Init(bead, text)

    def _posdata(self) -> PosData | None:
        start = HEADER_SIZE + 2 * _MATRIX + _INT.size
        if len(self._buffer) < start:
            return None
        (count,) = _INT.unpack_from(self._buffer, start - _INT.size)
        if not 0 < count <= MAX_ATOMS:
            raise WorkerProtocolError(f"The i-PI server announced {count} atoms.")
        end = start + 3 * count * _DOUBLE.size
        if len(self._buffer) < end:
            return None
        # The matrix is sent column by column; the inverse of the cell, which follows it, says nothing new.
        cell = np.frombuffer(bytes(self._buffer[HEADER_SIZE : HEADER_SIZE + _MATRIX]), "<f8").reshape(3, 3).T * Bohr
        positions = np.frombuffer(bytes(self._buffer[start:end]), "<f8").reshape(count, 3) * Bohr
        del self._buffer[:end]
        return PosData(cell, positions)
