"""What a driver may be asked in which state, and which state follows."""

from __future__ import annotations

from rootstock.errors import WorkerProtocolError
from rootstock.interfaces.ipi.messages import Exit, GetForce, Init, PosData, Request, Status

NEEDINIT, READY, HAVEDATA = "NEEDINIT", "READY", "HAVEDATA"

_NEXT = {
    NEEDINIT: {Status: NEEDINIT, Init: READY, Exit: NEEDINIT},
    # A server may tell another replica, or send other positions, before it asks for forces.
    READY: {Status: READY, Init: READY, PosData: HAVEDATA, Exit: READY},
    HAVEDATA: {Status: HAVEDATA, GetForce: READY, PosData: HAVEDATA, Exit: HAVEDATA},
}


def next_state(state: str, request: Request) -> str:
    """Return the state after a request.

    Parameters
    ----------
    state : str
    request : Request

    Raises
    ------
    WorkerProtocolError
        If the request has no place in this state.
    """
    try:
        return _NEXT[state][type(request)]
    except KeyError:
        raise WorkerProtocolError(
            f"The i-PI server sent {type(request).__name__} to a driver in state {state}."
        ) from None
