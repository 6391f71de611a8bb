"""The server's side of the protocol: what is sent and expected for one evaluation. No input or output."""

from __future__ import annotations

import struct
from collections.abc import Generator
from dataclasses import dataclass

from rootstock.errors import WorkerProtocolError
from rootstock.interfaces.ipi.codec import HEADER_SIZE, header
from rootstock.interfaces.ipi.messages import (
    EXIT,
    FORCEREADY,
    GETFORCE,
    HAVEDATA,
    INIT,
    NEEDINIT,
    READY,
    STATUS,
    ForceReady,
    Reply,
)

# What is sent in one call each. A header never ends a call that began with positions: drivers that read a header with
# a single recv() find it cut in two for some numbers of atoms.
Writes = list[list[bytes | memoryview]]

GREETING, _GETFORCE, GOODBYE = header(STATUS), header(GETFORCE), header(EXIT)  # every driver can always tell its state
_INIT = header(INIT) + struct.pack("<ii", 0, 1) + b"\0"  # the first replica, and a text of one byte for drivers


def is_driver(said: bytes) -> bool | None:
    """Tell whether a first answer is that of a driver at its beginning, and nothing more; None: it may become one.

    >>> is_driver(b"NEED"), is_driver(b"READY       "), is_driver(b"GET / HTTP/1.1")
    (None, True, False)
    """
    word, states = said.rstrip(b" \0"), (NEEDINIT.encode(), READY.encode())
    if len(said) < HEADER_SIZE:
        return None if any(state.startswith(word) for state in states) else False
    return len(said) == HEADER_SIZE and word in states


@dataclass
class Peer:
    """What is known of a driver.

    Attributes
    ----------
    evaluations : int
        How many it has computed.
    pipelined : bool
        Whether it is asked everything at once. The first two evaluations go step by step: they tell a driver that
        wants an INIT before each of them, which must not be sent to any other.
    """

    evaluations: int = 0
    pipelined: bool = False

    def evaluation(self, cell: bytes, positions: memoryview) -> Generator[Writes, Reply, ForceReady]:
        """Yield what to send before the next reply is read, and return the results.

        Parameters
        ----------
        cell, positions : bytes, memoryview
            Both parts of an encoded `PosData`.

        Raises
        ------
        WorkerProtocolError
            If a reply has no place there.
        """
        if self.pipelined:
            _expect((yield [[GREETING + cell, positions], [GREETING + _GETFORCE]]), READY)
            _expect((yield []), HAVEDATA)
            result = yield []
        else:
            state = yield [[GREETING]]
            anew = state == NEEDINIT
            if anew:
                state = yield [[_INIT], [GREETING]]
            _expect(state, READY)
            _expect((yield [[cell, positions], [GREETING]]), HAVEDATA)
            result = yield [[_GETFORCE]]
            self.pipelined = self.evaluations > 0 and not anew
        if not isinstance(result, ForceReady):
            raise WorkerProtocolError(f"The i-PI client answered {result} where its results were due.")
        self.evaluations += 1
        return result


def _expect(reply: Reply, state: str) -> None:
    if reply != state:
        answer = reply if isinstance(reply, str) else FORCEREADY
        raise WorkerProtocolError(f"The i-PI client answered {answer} where {state} was due.")
