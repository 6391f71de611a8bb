"""An ASE calculator that lets a program of somebody else's compute, over the i-PI protocol."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError

from rootstock.client.inputs import Inputs, all_finite, first_bad
from rootstock.client.timeouts import EVALUATION_S, START_S
from rootstock.errors import ConfigurationError, ModelError, NonFiniteError
from rootstock.interfaces.base import ProxyCalculator
from rootstock.interfaces.ipi.cells import Frame, frame_of
from rootstock.interfaces.ipi.clients import ClientSpec, IPIClientSession, Prepare
from rootstock.interfaces.ipi.codec import encode_cell
from rootstock.interfaces.ipi.listener import check_place
from rootstock.interfaces.ipi.messages import ForceReady
from rootstock.interfaces.thread_state import ThreadState
from rootstock.root.user_folders import expanded

# Pickles of before ADR 16 name these modules by their places of then.
sys.modules.setdefault("rootstock.ipi.calculator", sys.modules[__name__])
sys.modules.setdefault("rootstock.ipi.cells", sys.modules[Frame.__module__])

_VOIGT = np.array([0, 1, 2, 1, 0, 0]), np.array([0, 1, 2, 2, 2, 1])  # xx, yy, zz, yz, xz, xy

_CAUSES = "Overlapping atoms, and structures that its potential was not made for, do this."


class IPICalculator(ProxyCalculator):
    """Energies, forces and stress from a client of the i-PI protocol: LAMMPS, ASE's SocketClient, i-PI's drivers.

    The protocol calls this end the server. It starts a client with `command`, or waits for one that somebody else
    starts; a client that is lost is replaced by the next call. The protocol carries positions and the cell only, so
    the client must have been given the same atoms, in the same order.

    Parameters
    ----------
    command : sequence of str, optional
        Program and arguments of a client. ``{address}`` and ``{socket}`` are replaced by the Unix socket, the first
        as i-PI's clients want it (without ``/tmp/ipi_``), the second as a path; ``{host}`` and ``{port}`` by those
        of TCP.
    address : str, optional
        Listen at this Unix socket: a path, or a name for ``/tmp/ipi_NAME``. With `command` and neither `address` nor
        `port`, it is a new socket in a folder that only this user can enter.
    port : int, optional
        Listen at this TCP port; 0: any free one. Every user of the machine can connect to it.
    host : str
        The local address to listen at, with `port`.
    prepare : callable, optional
        Called with the atoms before each start of a client, to write its input files. With it, atoms may change in
        number, species and periodicity: the client is started again.
    directory : path, optional
        Where `command` runs; by default, here.
    rotate : bool
        i-PI sends cells with the first vector along x and the second in the xy plane, and its clients rely on that
        (LAMMPS ignores the other components). Other cells are rotated before they are sent, and results rotated
        back. If False they are sent as they are, for clients that take any cell.
    start_timeout : float
        Seconds until a client has connected and answers. Other programs that connect are dropped.
    timeout : float
        Seconds for one evaluation.
    log : path, optional
        File for what a client that was started prints; it is appended to, and never shortened. By default it is a file
        in a private temporary folder, which is kept only if the client fails; when it has become longer than 2 MB, the
        next evaluation takes its middle out.

    Raises
    ------
    ConfigurationError
        If an argument is wrong.

    Examples
    --------
    >>> calc = IPICalculator(command=["lmp", "-in", "in.lammps", "-var", "address", "{address}"])
    >>> calc.implemented_properties
    ['energy', 'free_energy', 'forces', 'stress']
    """

    __module__ = "rootstock.ipi"  # where it is imported from; pickles record it

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  # ASE's declaration
    _not_pickled = (*ProxyCalculator._not_pickled, "_frame")
    _copies_share = False  # a client has the atoms that it was given, and each task may have others
    _session: IPIClientSession

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        address: str | None = None,
        port: int | None = None,
        host: str = "127.0.0.1",
        prepare: Prepare | None = None,
        directory: str | os.PathLike[str] | None = None,
        rotate: bool = True,
        start_timeout: float = START_S,
        timeout: float = EVALUATION_S,
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(command, str) or (command is not None and not command):
            raise ConfigurationError(f"command must be a list of a program and its arguments, not {command!r}.")
        check_place(address, host, port, command is not None)
        self._arguments = {
            "command": command, "address": address, "port": port, "host": host, "prepare": prepare,
            "directory": directory, "rotate": rotate, "start_timeout": start_timeout, "timeout": timeout, "log": log,
        }  # fmt: skip
        self.parameters.update(
            {key: self._arguments[key] for key in ("command", "address", "port") if self._arguments[key] is not None}
        )
        self._rotate = rotate
        self._restore()
        self._use(self._new_session())

    def _restore(self) -> None:
        self._frame: tuple[Any, Frame, bytes] = (None, Frame(np.eye(3), None), b"")

    def _new_session(self) -> IPIClientSession:
        arguments = self._arguments
        command = arguments["command"]
        spec = ClientSpec(
            None if command is None else tuple(map(os.fspath, command)), arguments["prepare"],
            arguments["address"], arguments["host"], arguments["port"], _path(arguments["directory"]),
            _path(arguments["log"]), arguments["start_timeout"], arguments["timeout"],
        )  # fmt: skip
        return IPIClientSession(spec)

    @property
    def extra(self) -> bytes:
        """What the client sent beside the results of this thread's last evaluation."""
        return self._states.seen().extra

    def _get_name(self) -> str:
        return "i-pi"

    def _compute(self, state: ThreadState, properties: Sequence[str]) -> None:
        """Compute all that the protocol carries, unless that is known.

        Raises
        ------
        PropertyNotImplementedError
            If it does not carry one of `properties`, or the client sent none: a virial of zero is how the protocol
            says so.
        """
        if foreign := [name for name in properties if name not in self.implemented_properties]:
            raise PropertyNotImplementedError(f"{foreign[0]} is not a property that the i-PI protocol carries.")
        if not state.results:
            self._ask(state)
        if "stress" in properties and "stress" not in state.results:
            raise PropertyNotImplementedError(
                "The client sent a virial of zero, which is how it says that it computes none: no stress."
                if _has_volume(state.inputs)
                else "Stress needs a cell of three vectors and a periodic direction."
            )

    def _ask(self, state: ThreadState) -> None:
        inputs = state.inputs
        key = (inputs.rest.cell, len(inputs))
        last_key, frame, cell = self._frame
        if last_key != key:
            frame = frame_of(np.frombuffer(inputs.rest.cell).reshape(3, 3), inputs.positions, self._rotate)
            cell = encode_cell(frame.cell, len(inputs))
            self._frame = (key, frame, cell)  # all at once: other threads read it
        answer = self._session.evaluate(inputs, cell, frame.out(inputs.positions))
        state.extra = answer.extra
        _check(answer)
        results = {"energy": answer.energy, "free_energy": answer.energy, "forces": frame.back(answer.forces)}
        if _has_volume(inputs) and answer.virial.any():
            results["stress"] = (frame.tensor_back(answer.virial) / -frame.volume)[_VOIGT]
        state.results = results


def _has_volume(inputs: Inputs) -> bool:
    return bool(any(inputs.rest.pbc) and np.frombuffer(inputs.rest.cell).reshape(3, 3).any(axis=1).all())


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else expanded(Path(path)).absolute()


def _check(answer: ForceReady) -> None:
    """Refuse what is not a result.

    Raises
    ------
    ModelError
        If the client reports an error beside its numbers, as some drivers of machine-learned models do.
    NonFiniteError
        If a result is NaN or infinite.
    """
    if answer.extra.startswith(b'{"error"'):
        raise ModelError(f"The i-PI client failed: {answer.extra.decode(errors='replace')}")
    for name, value in (("forces", answer.forces), ("virial", answer.virial)):
        if not all_finite(value):
            raise NonFiniteError(f"The i-PI client returned NaN or infinity in the {name}{first_bad(value)}.", _CAUSES)
    if not math.isfinite(answer.energy):
        raise NonFiniteError("The i-PI client returned NaN or infinity as the energy.", _CAUSES)
