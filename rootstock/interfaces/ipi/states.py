"""What a driver may be asked in which state, and which state follows."""

from __future__ import annotations

from rootstock.errors import WorkerProtocolError
from rootstock.interfaces.ipi.messages import EXIT, GETFORCE, HAVEDATA, INIT, NEEDINIT, POSDATA, READY, STATUS

_NEXT = {
    NEEDINIT: {STATUS: NEEDINIT, INIT: READY, EXIT: NEEDINIT},
    # A server may tell another replica, or send other positions, before it asks for forces.
    READY: {STATUS: READY, INIT: READY, POSDATA: HAVEDATA, EXIT: READY},
    HAVEDATA: {STATUS: HAVEDATA, GETFORCE: READY, POSDATA: HAVEDATA, EXIT: HAVEDATA},
}


def next_state(state: str, word: str) -> str:
    """Return the state after a request.

    Parameters
    ----------
    state : str
    word : str
        What the server asks: the request's header.

    Raises
    ------
    WorkerProtocolError
        If the request has no place in this state.
    """
    if word not in _NEXT[state]:
        raise WorkerProtocolError(f"The i-PI server sent {word} to a driver in state {state}.")
    return _NEXT[state][word]
