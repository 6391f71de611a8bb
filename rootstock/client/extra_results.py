"""Extra results out of the shared memory, as a worker describes them; nothing that it says is believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from numpy.typing import NDArray

from rootstock.client.inputs import all_finite, first_bad
from rootstock.config.capabilities import Capabilities
from rootstock.errors import NonFiniteError, WorkerProtocolError
from rootstock.worker.channel.blocks import read_arrays, read_block
from rootstock.worker.channel.endpoint import PeerGoneError
from rootstock.worker.channel.memory import SharedMemory
from rootstock.worker.channel.shapes import Shape, parse_shape

T = TypeVar("T")


class WithExtras(dict[str, Any]):
    """Results by ASE's names, and beside them those that ASE has no name for.

    Attributes
    ----------
    extra : dict of str to float or ndarray
    """

    extra: dict[str, Any]


def with_extras(results: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Return results that carry extra ones, if there are some.

    Parameters
    ----------
    results, extra : dict
        By their names.
    """
    if not extra:
        return results
    carried = WithExtras(results)
    carried.extra = extra
    return carried


def extras_of(results: object) -> dict[str, Any]:
    """Return the extra results that results carry."""
    return results.extra if type(results) is WithExtras else {}


def told_of(capabilities: Capabilities | None) -> dict[str, Any]:
    """Return what a worker is told at its start of extra results and methods; empty if there are none."""
    if capabilities is None:
        return {}
    told: dict[str, Any] = {}
    if capabilities.extra_properties:
        told["extras"] = dict(capabilities.extra_properties)
    if capabilities.methods:
        told["methods"] = list(capabilities.methods)
    return told


def while_open(memory: SharedMemory, read: Callable[[], T]) -> T:
    """Return what is read from a memory.

    Parameters
    ----------
    memory : SharedMemory
    read : callable

    Raises
    ------
    PeerGoneError
        If another thread has closed it meanwhile: its descriptor may then be that of another file.
    """
    try:
        found = read()
    except OSError:
        if memory.closed:
            raise PeerGoneError from None
        raise
    if memory.closed:
        raise PeerGoneError
    return found


class ExtraReader:
    """Takes extra results out.

    Parameters
    ----------
    told : Mapping
        As of `told_of`.
    memory : SharedMemory
    title : str
        What the worker is of, for messages.
    """

    def __init__(self, told: Mapping[str, Any], memory: SharedMemory, title: str) -> None:
        self._shapes: dict[str, Shape] = {name: parse_shape(text) for name, text in told.get("extras", {}).items()}
        self._memory, self._title = memory, title

    def __len__(self) -> int:
        return len(self._shapes)

    def results(self, said: Any, atoms: int) -> dict[str, Any]:
        """Return the extra results of a single evaluation.

        Parameters
        ----------
        said : dict or None
            How the worker describes them; None: there are none.
        atoms : int

        Raises
        ------
        NonFiniteError
            If one holds NaN or infinity.
        WorkerProtocolError
            If that is no description of any.
        PeerGoneError
            If the memory was let go of meanwhile.
        """
        if said is None:
            return {}
        arrays = while_open(self._memory, lambda: read_arrays(self._memory.fd, said, self._memory.end))
        return self._named(said, arrays, atoms)

    def of_structure(self, at: int, begin: int, atoms: int) -> dict[str, Any]:
        """Return the extra results of one structure of a batch.

        Parameters
        ----------
        at : int
            Where they lie, as the worker says; 0: there are none.
        begin : int
            Where they may lie.
        atoms : int

        Raises
        ------
        NonFiniteError, WorkerProtocolError, PeerGoneError
            As `results`.
        """
        if not at:
            return {}
        said, arrays = while_open(self._memory, lambda: read_block(self._memory.fd, at, begin))
        return self._named(said, arrays, atoms)

    def _named(self, said: dict[str, Any], arrays: list[NDArray[Any]], atoms: int) -> dict[str, Any]:
        names = said.get("names")
        if not isinstance(names, list) or len(names) != len(arrays):
            raise WorkerProtocolError(f"The worker {self._title} sent extra results without names.")
        found: dict[str, Any] = {}
        for name, array in zip(names, arrays, strict=True):
            shape = self._shapes.get(name) if isinstance(name, str) else None
            if shape is None or name in found:
                raise WorkerProtocolError(f"The worker {self._title} sent {name!r:.100}, which is not declared.")
            if array.dtype != float or not shape.fits(array.shape, atoms):
                raise WorkerProtocolError(
                    f"The worker {self._title} sent {name} of shape {array.shape} and type {array.dtype}."
                )
            if not all_finite(array.reshape(-1)):
                raise NonFiniteError(
                    f"The model {self._title} returned NaN or infinity in {name}{first_bad(array)}.",
                    "Overlapping atoms and structures far from its training data do this.",
                )
            found[name] = array if array.ndim else float(array)
        return found
