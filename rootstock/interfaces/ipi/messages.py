"""The messages of the i-PI protocol, in ASE's units: eV and Angstrom.

A server asks, which are the requests; a driver answers with its state or its results, which are the replies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Status:
    """The server asks for the driver's state."""


@dataclass(frozen=True)
class Init:
    """The server tells which replica this is.

    Attributes
    ----------
    bead : int
        Number of the replica.
    text : bytes
        Whatever the server's user wrote for drivers.
    """

    bead: int
    text: bytes


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
class GetForce:
    """The server asks for the results."""


@dataclass(frozen=True)
class Exit:
    """The server is done."""


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


Reply = str | ForceReady  # the answer to `Status` is one of the states in `rootstock.interfaces.ipi.states`
Request = Status | Init | PosData | GetForce | Exit
