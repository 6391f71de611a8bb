"""Results that ASE has no name for, which an environment file declares: taken from the calculator, and handed over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rootstock.errors import WorkerProtocolError
from rootstock.worker.channel.blocks import MAX_BYTES, size_of, write_arrays, write_block
from rootstock.worker.channel.shapes import Shape, parse_shape
from rootstock.worker.results import real_numbers

_ENOUGH = 2**28  # bytes of a batch's: the client then takes what is done


class ExtraResults:
    """What a calculator leaves in its `results` under the names that its environment file declares.

    Parameters
    ----------
    declared : Mapping of str to str
        Names, each with its shape.
    offered : collection of str
        The properties that are ASE's: none of them is an extra result, whatever is declared.

    Raises
    ------
    WorkerProtocolError
        If a shape is none.
    """

    def __init__(self, declared: Mapping[str, str], offered: Collection[str]) -> None:
        try:
            self._shapes = {name: parse_shape(text) for name, text in declared.items() if name not in offered}
        except (AttributeError, ValueError) as error:
            raise WorkerProtocolError(f"Received extra results without shapes: {error}.") from error
        self._texts = declared
        self._next = self._begin = 0  # where the next block of a batch lies in the file, and the first one

    def __len__(self) -> int:
        return len(self._shapes)

    def collect(self, results: Mapping[str, Any], atoms: int) -> dict[str, NDArray[np.float64]]:
        """Return those that a calculation has left, as float64.

        Parameters
        ----------
        results : Mapping of str to Any
            Of the calculator.
        atoms : int
            How many there are.

        Raises
        ------
        ValueError
            If one holds something else than real numbers, or has another shape than its environment file says.
        """
        found = {}
        for name, shape in self._shapes.items():
            if (value := results.get(name)) is not None:
                found[name] = self._checked(name, value, shape, atoms)
        return found

    def _checked(self, name: str, value: Any, shape: Shape, atoms: int) -> NDArray[np.float64]:
        try:
            array = np.asarray(real_numbers(name, value), float, order="C")
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(
                f"The model returned {name} as {type(value).__name__}, of which no array can be made: {error}"
            ) from error
        if not shape and array.size == 1:
            array = array.reshape(())
        if not shape.fits(array.shape, atoms):
            raise ValueError(
                f"The model returned {name} of shape {array.shape}; its environment file declares {name} = "
                f"{self._texts[name]!r}: {shape.words(atoms)}."
            )
        return array

    def put(self, results: Mapping[str, Any], atoms: int, fd: int, at: int) -> dict[str, Any] | None:
        """Write them to the shared memory, and return what the client is told; None if there are none.

        Parameters
        ----------
        results, atoms
            As of `collect`.
        fd : int
            Of the memory.
        at : int
            Where its fixed layout ends.
        """
        if not (found := self.collect(results, atoms)):
            return None
        return {"names": [*found], **write_arrays(fd, at, [*found.values()])}

    def begin_batch(self, at: int) -> None:
        """Begin with the structures of a batch, whose layout ends at `at`."""
        self._next = self._begin = at

    @property
    def enough(self) -> bool:
        """Whether so much has come together that the client should take it."""
        return self._next - self._begin > _ENOUGH

    def put_block(self, results: Mapping[str, Any], atoms: int, fd: int) -> int:
        """Write those of one structure of a batch, and return where; 0 if there are none.

        Parameters
        ----------
        results, atoms, fd
            As of `put`.

        Raises
        ------
        ValueError
            As `put`; also if those of all structures of a batch are too large.
        """
        if not (found := self.collect(results, atoms)):
            return 0
        arrays = [*found.values()]
        at = self._next
        if at - self._begin + size_of(arrays) > MAX_BYTES:
            raise ValueError("The extra results of the structures that are computed together are too large.")
        self._next = write_block(fd, at, {"names": [*found]}, arrays)
        return at
