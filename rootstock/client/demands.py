"""Whether a model can be asked about some atoms: it knows their elements, and they have what it reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from rootstock.client.inputs import Inputs, Rest
from rootstock.client.launch import ResolvedModel
from rootstock.config.capabilities import SYMBOLS
from rootstock.config.demands import ARRAYS, INFO, demands_of
from rootstock.worker.channel.info import decode_info


class StructureCheck:
    """Looks at atoms before a model is asked; those that it has just seen, and that have only moved, cost nothing.

    Parameters
    ----------
    model : ResolvedModel

    Raises
    ------
    ConfigurationError
        If the environment file lists something that is no element.
    """

    def __init__(self, model: ResolvedModel) -> None:
        self._demands = demands_of(model.source, model.argument)
        known = [0 < number <= len(SYMBOLS) and SYMBOLS[number - 1] in self._demands.elements
                 for number in range(len(SYMBOLS) + 2)]  # fmt: skip
        self._known = np.array(known)  # numbers that are none of an element are at both ends
        self._last: Rest | None = None

    def refuse(self, inputs: Inputs) -> None:
        """Refuse what the model cannot compute.

        Parameters
        ----------
        inputs : Inputs
            What it would be given.

        Raises
        ------
        ConfigurationError
            If it does not know an element, lacks an entry of ``atoms.info`` or an array, or has an entry that is no
            number.
        """
        rest, last = inputs.rest, self._last
        if rest is last:
            return
        if self._demands.elements and (last is None or rest.numbers != last.numbers):
            numbers = np.frombuffer(rest.numbers, np.int64)
            if not self._known.take(numbers, mode="clip").all():
                self._demands.refuse_elements({*numbers.tolist()})
        if self._demands.needs:
            info = decode_info(rest.info)
            self._demands.refuse_lack(_given(rest, info))
            self._demands.refuse_info(info)
        self._last = rest


def _given(rest: Rest, info: dict[str, Any]) -> set[str]:
    """Return what atoms have of all that a model may need."""
    given = {name for name in ARRAYS if getattr(rest, name) is not None}
    if rest.initial_magmom_vectors is not None:
        given.add("initial_magmoms")
    return given | (INFO.keys() & info.keys())
