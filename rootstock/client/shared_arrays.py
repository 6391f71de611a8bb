"""What a client puts into the shared memory for its worker, and what it takes out."""

from __future__ import annotations

import functools
import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rootstock.client.inputs import Inputs, Rest, State, all_finite, first_bad
from rootstock.errors import NonFiniteError
from rootstock.worker.channel.memory import (
    ALL_BITS,
    INFO_BIT,
    INPUT_BITS,
    INPUTS,
    PROPERTIES,
    PROPERTY_BITS,
    Section,
    SharedMemory,
)

Result = dict[str, Any]

_POSITIONS = INPUT_BITS["positions"]


class Arrays:
    """The client's side of the memory.

    Parameters
    ----------
    memory : SharedMemory
    title : str
        What the worker is of, for messages.

    Attributes
    ----------
    atoms : int
        How many the memory holds.
    present : int
        Bit set over `INPUTS`: the sections that these atoms have.
    shown : State or None
        What the worker is known to have seen.
    """

    def __init__(self, memory: SharedMemory, title: str) -> None:
        self._memory, self._title = memory, title
        self.atoms, self.present = -1, 0  # there may be no atoms: room is made for them, too
        self.shown: State | None = None
        self._handed_out: dict[str, NDArray[np.float64]] = {}

    def put(self, inputs: Inputs) -> int:
        """Put what is new into the memory, and return the sections that changed, as bits.

        Raises
        ------
        WorkerError
            If there is no memory for so many atoms. What the worker has seen is then unknown.
        """
        memory, shown, rest = self._memory, self.shown, inputs.rest
        self.shown = None  # until the worker has answered, it is not known to have seen this
        atoms = len(inputs.positions)
        if atoms != self.atoms:
            memory.grow(atoms)
            self.atoms, shown = atoms, None
        # Also those that the worker has seen: its model computes with them in place, and may have changed them.
        memory.views(atoms)["positions"][...] = inputs.positions
        changes = _POSITIONS if shown is None or shown[0] is not inputs.stamp else 0
        if shown is None:
            self._put_rest(rest, None)
            changes = ALL_BITS
        elif rest is not shown[1]:
            changes |= self._put_rest(rest, shown[1])
        return changes

    def _put_rest(self, new: Rest, old: Rest | None) -> int:
        """Put what is new beside the positions into the memory, and return the sections that changed."""
        changes, self.present = 0, _POSITIONS
        for i, (section, data) in enumerate(zip(INPUTS[1:], new, strict=False), start=1):
            if data is not None:
                self.present |= 1 << i
            if old is not None and data == old[i - 1]:
                continue
            changes |= 1 << i
            if isinstance(data, bytes):
                self._memory.write(section.name, data)
        if old is not None and new.info != old.info:
            changes |= INFO_BIT
        return changes

    def results(self, properties: int, asked: int) -> Result:
        """Take results out.

        Parameters
        ----------
        properties : int
            Which, as bits of `PROPERTY_BITS`.
        asked : int
            Those that were asked for. Another one that is not finite is left out.

        Raises
        ------
        NonFiniteError
            If one that was asked for is NaN or infinite.
        """
        views = self._memory.views(self.atoms)
        results: Result = {}
        for section in sections(properties):
            name = section.name
            view = views[name]
            value: Any
            if view.ndim:
                value = self._copy(name, view)
                finite = all_finite(value)
            else:
                value = view.item()
                finite = math.isfinite(value)
            if finite:
                results[name] = value
            elif PROPERTY_BITS[name] & asked:
                raise NonFiniteError(
                    f"The model {self._title} returned NaN or infinity in {name}{first_bad(view)}.",
                    "Overlapping atoms and structures far from its training data do this.",
                )
        return results

    def _copy(self, name: str, view: NDArray[np.float64]) -> NDArray[np.float64]:
        """Copy a result out of the shared memory, into the array of the last one if nobody holds that any more.

        New pages from the kernel cost more than the copy itself, and an array that is freed in every step gives its
        pages back every time.
        """
        array = self._handed_out.pop(name, None)
        if array is None or array.shape != view.shape or sys.getrefcount(array) > _ALONE or not array.flags.writeable:
            array = np.empty(view.shape)
        array[...] = view
        self._handed_out[name] = array
        return array


@functools.cache
def sections(properties: int) -> tuple[Section, ...]:
    """Return the sections of some properties, given as bits."""
    return tuple(section for section in PROPERTIES if properties & PROPERTY_BITS[section.name])


def _references_to_a_local() -> int:
    array = np.empty(0)
    return sys.getrefcount(array)


_ALONE = _references_to_a_local()
