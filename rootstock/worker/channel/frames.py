"""Frames: what goes over the socket. Bytes to values and back; no input or output here.

Every frame is a header of fixed size and a payload, which is JSON or empty::

    client                              worker
    SETUP    {environment, model, ...}
                                        PROGRESS {stage}           any number of times
                                        READY    {what it offers}  or FAILURE
    EVALUATE {info} or nothing          RESULT   or FAILURE        same sequence number
    BATCH    {structures, ...}          PROGRESS {begin, end, ...} before each part, same sequence number
                                        RESULT   or FAILURE        same sequence number
    CALL     {method, arguments, ...}   RESULT   {value, ...} or FAILURE
    CLOSE                               the process ends
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any, NamedTuple

from rootstock.errors import WorkerProtocolError

MAGIC = b"RSK1"
HEADER = struct.Struct("<4sIIIIIQQQ")  # the magic number, then the fields of Frame

# Bounds on what the other end may announce, checked before anything is allocated.
MAX_PAYLOAD = 16 * 2**20
MAX_ATOMS = 2**27
MAX_STRUCTURES = 2**20


class Kind(IntEnum):
    """What a frame says."""

    SETUP = 1
    PROGRESS = 2
    READY = 3
    EVALUATE = 4
    RESULT = 5
    FAILURE = 6
    CLOSE = 7
    BATCH = 8
    CALL = 9


_KINDS = frozenset(map(int, Kind))


class Frame(NamedTuple):
    """Header of a frame.

    Attributes
    ----------
    kind : Kind
    properties : int
        Bit set over `memory.PROPERTIES`: those asked for, or those returned.
    changes : int
        Bit set over `memory.INPUTS`: the sections of the memory that are new since the last evaluation.
    present : int
        Bit set over `memory.INPUTS`: the sections that the atoms have at all.
    payload : int
        Length of the payload in bytes.
    sequence : int
        Number of the evaluation. An answer carries that of its question.
    atoms : int
        Number of atoms, of all structures of a batch.
    capacity : int
        Number of atoms that the memory is laid out for.
    """

    kind: int
    properties: int = 0
    changes: int = 0
    present: int = 0
    payload: int = 0
    sequence: int = 0
    atoms: int = 0
    capacity: int = 0


def encode(frame: Frame, content: Any = None) -> bytes:
    """Return the bytes of a frame.

    Parameters
    ----------
    frame : Frame
        Its ``payload`` is set here.
    content : Any
        The payload, anything that JSON can hold; None: no payload.

    Raises
    ------
    WorkerProtocolError
        If the payload is larger than `MAX_PAYLOAD`.
    """
    if content is None:
        return HEADER.pack(MAGIC, *frame)
    payload = json.dumps(content).encode()
    if len(payload) > MAX_PAYLOAD:
        raise WorkerProtocolError(f"A payload of {len(payload)} bytes is beyond the limit of {MAX_PAYLOAD}.")
    return HEADER.pack(MAGIC, *frame._replace(payload=len(payload))) + payload


def decode(data: bytes | bytearray) -> Frame:
    """Read the header at the beginning of `data`, which is `HEADER.size` bytes or more.

    Raises
    ------
    WorkerProtocolError
        If these bytes are no header, or announce more than the bounds allow.
    """
    magic, kind, properties, changes, present, payload, sequence, atoms, capacity = HEADER.unpack_from(data)
    if magic != MAGIC or kind not in _KINDS:
        raise WorkerProtocolError(f"Received {bytes(data[:8])!r}, which does not begin a frame.")
    if payload > MAX_PAYLOAD or not atoms <= capacity <= MAX_ATOMS:
        raise WorkerProtocolError(f"Received a frame that announces {payload} bytes and {atoms} of {capacity} atoms.")
    return Frame(kind, properties, changes, present, payload, sequence, atoms, capacity)


def decode_payload(payload: bytes) -> dict[str, Any]:
    """Read a payload that must be a JSON object.

    Raises
    ------
    WorkerProtocolError
        If it is anything else.
    """
    try:
        content = json.loads(payload or b"{}")
    except (ValueError, RecursionError) as error:
        raise WorkerProtocolError(f"Received a payload that is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise WorkerProtocolError("Received a payload that is not a JSON object.")
    return content
