"""The messages of the i-PI protocol, in ASE's units: eV and Angstrom.

A server asks, which are the requests; a driver answers with its state or its results, which are the replies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PosData:
    """The server sends atoms.

    Attributes
    ----------
    cell : ndarray, shape (3, 3) [Å]
        Cell vectors as rows.
    positions : ndarray, shape (n_atoms, 3) [Å]
    """

    cell: Array
    positions: Array


@dataclass(frozen=True)
class ForceReady:
    """The driver's results.

    Attributes
    ----------
    energy : float [eV]
    forces : ndarray, shape (n_atoms, 3) [eV/Å]
    virial : ndarray, shape (3, 3) [eV]
        Minus stress times volume.
    extra : bytes
        Anything else.
    """

    energy: float
    forces: Array
    virial: Array
    extra: bytes = b""


# Those that carry nothing are words. Of INIT, which tells a driver which replica it computes, nothing is needed.
STATUS, INIT, POSDATA, GETFORCE, EXIT = "STATUS", "INIT", "POSDATA", "GETFORCE", "EXIT"
NEEDINIT, READY, HAVEDATA, FORCEREADY = "NEEDINIT", "READY", "HAVEDATA", "FORCEREADY"

Request = str | PosData
Reply = str | ForceReady  # a driver answers STATUS with one of its states
