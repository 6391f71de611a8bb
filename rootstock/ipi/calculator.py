"""An ASE calculator that lets a program of somebody else's compute, over the i-PI protocol."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from rootstock.errors import ConfigurationError, ModelError, NonFiniteError
from rootstock.inputs import Inputs, all_finite, first_bad
from rootstock.ipi.cells import Frame, frame_of
from rootstock.ipi.clients import Clients, ClientSpec, Prepare
from rootstock.ipi.codec import encode_cell
from rootstock.ipi.listener import check_place
from rootstock.ipi.messages import ForceReady

_VOIGT = np.array([0, 1, 2, 1, 0, 0]), np.array([0, 1, 2, 2, 2, 1])  # xx, yy, zz, yz, xz, xy

_CAUSES = "Overlapping atoms, and structures that its potential was not made for, do this."


class IPICalculator(Calculator):
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
        Seconds until the client has connected.
    timeout : float
        Seconds for one evaluation.
    log : path, optional
        File for what a client that was started prints. By default it is kept in a private temporary folder, and only
        if the client fails.

    Attributes
    ----------
    extra : bytes
        What the client sent beside the results of the last evaluation.

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

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  # ASE's declaration
    nolabel = True

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
        start_timeout: float = 600.0,
        timeout: float = 3600.0,
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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
        self.extra = b""
        self._rotate = rotate
        self._inputs = Inputs()
        self._results_for = self._inputs.state
        self._frame: tuple[Any, Frame, bytes] = (None, Frame(np.eye(3), None), b"")
        spec = ClientSpec(
            None if command is None else tuple(os.fspath(each) for each in command), prepare, address, host, port,
            _path(directory), _path(log), start_timeout, timeout,
        )  # fmt: skip
        self._clients = Clients(spec)
        self._clients.users.add(self)

    # -- ASE's interface

    def _get_name(self) -> str:
        return "i-pi"

    @property
    def atoms(self) -> Atoms | None:
        """The atoms that `results` are for."""
        return self._inputs.atoms() if self._inputs else None

    @atoms.setter
    def atoms(self, atoms: Atoms | None) -> None:
        self._inputs = Inputs()
        if atoms is not None:
            self._inputs.update(atoms)
        self._results_for = self._inputs.state

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:  # noqa: ARG002  # ASE's signature
        """Return what differs between `atoms` and those that `results` are for; exact, `tol` is not used."""
        return self._inputs.changes_to(atoms) if self._inputs else list(all_changes)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property, computing it if it is not known for these atoms.

        Parameters
        ----------
        name : str
            ``energy``, ``free_energy``, ``forces`` or ``stress``.
        atoms : ase.Atoms, optional
            By default those of the last call.
        allow_calculation : bool
            Whether to compute what is not known. If not, None is returned for it.

        Raises
        ------
        PropertyNotImplementedError
            If these atoms have no such property, or the client did not send it: a virial of zero is how the protocol
            says that there is none.
        WorkerError
            If the client failed or was lost; the next call starts or awaits another.
        """
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(f"{name} is not a property that the i-PI protocol carries.")
        if atoms is not None:
            self._inputs.update(atoms)
            if self._inputs.state != self._results_for:
                self.results, self._results_for = {}, self._inputs.state
        if "energy" not in self.results:
            if not allow_calculation:
                return None
            self._compute()
        if name not in self.results:
            raise PropertyNotImplementedError(
                "The client sent a virial of zero, which is how it says that it computes none: no stress."
                if self._has_volume()
                else "Stress needs a cell of three vectors and a periodic direction."
            )
        value = self.results[name]
        return value.copy() if isinstance(value, np.ndarray) else value

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),  # noqa: ARG002  # the protocol always carries all
        system_changes: Sequence[str] = all_changes,  # noqa: ARG002
    ) -> None:
        """Compute energy, forces and stress into `results`."""
        if atoms is not None:
            self._inputs.update(atoms)
        self.results, self._results_for = {}, self._inputs.state
        self._compute()

    def _compute(self) -> None:
        inputs = self._inputs
        if not inputs:
            raise ConfigurationError("This calculator has no atoms yet.", "Set atoms.calc = calc, and ask the atoms.")
        key = (inputs.rest.cell, len(inputs))
        if self._frame[0] != key:
            frame = frame_of(np.frombuffer(inputs.rest.cell).reshape(3, 3), inputs.positions, self._rotate)
            self._frame = (key, frame, encode_cell(frame.cell, len(inputs)))
        _, frame, cell = self._frame
        answer = self._clients.evaluate(inputs, cell, frame.out(inputs.positions))
        self.extra = answer.extra
        _check(answer)
        results = {"energy": answer.energy, "free_energy": answer.energy, "forces": frame.back(answer.forces)}
        if self._has_volume() and answer.virial.any():
            results["stress"] = (frame.tensor_back(answer.virial) / -frame.volume)[_VOIGT]
        self.results = results

    def _has_volume(self) -> bool:
        sections = self._inputs.rest
        return bool(any(sections.pbc) and np.frombuffer(sections.cell).reshape(3, 3).any(axis=1).all())

    # -- the client

    def close(self) -> None:
        """Tell the client that it is done, unless copies of this calculator still use it. `results` stay."""
        self._clients.release(self)

    def __enter__(self) -> Self:
        self._clients.users.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- copies: they share the client, not the results

    def __copy__(self) -> Self:
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.parameters = type(self.parameters)(self.parameters)
        copy.results, copy._inputs = dict(self.results), self._inputs.copy()
        if self in self._clients.users:
            self._clients.users.add(copy)
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copy = memo[id(self)] = self.__copy__()
        copy.results = {
            name: value.copy() if isinstance(value, np.ndarray) else value for name, value in self.results.items()
        }
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._arguments), {
            "results": self.results, "_inputs": self._inputs, "_results_for": self._results_for,
        }  # fmt: skip


def _rebuild(kind: type[IPICalculator], arguments: dict[str, Any]) -> IPICalculator:
    return kind(**arguments)


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path).expanduser().absolute()


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
