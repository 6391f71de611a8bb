"""Elements that a model does not know, by name."""

from __future__ import annotations

import contextlib

import numpy as np

from rootstock.client.inputs import Inputs
from rootstock.client.launch import ResolvedModel
from rootstock.config.capabilities import SYMBOLS, compress
from rootstock.errors import ConfigurationError, ModelError

_OF_ELEMENTS = ("AssertionError", "IndexError", "KeyError", "NotImplementedError", "ValueError")


def name_strange_elements(error: ModelError, model: ResolvedModel, inputs: Inputs) -> None:
    """Say of an error that such a model raises that it lacks an element, if its file says which it has.

    What a library raises of an element that it does not know needs no traceback. Anything else may have another cause.

    Parameters
    ----------
    error : ModelError
        It is changed.
    model : ResolvedModel
    inputs : Inputs
        What the model was given.
    """
    known: tuple[str, ...] = ()
    with contextlib.suppress(ConfigurationError):  # it was no hindrance so far
        known = model.source.capabilities(model.argument).elements
    numbers = sorted(set(np.frombuffer(inputs.rest.numbers, np.int64).tolist()))
    strange = [SYMBOLS[number - 1] for number in numbers if 0 < number <= len(SYMBOLS)]
    if known and (strange := [symbol for symbol in strange if symbol not in known]):
        if error.remote_type.rpartition(".")[2] in _OF_ELEMENTS and not error.hint:
            error.remote_traceback = ""
        lack = f"The model has no {', '.join(strange)}. Its elements: {compress(known)}."
        error.hint = f"{error.hint}\n{lack}" if error.hint else f"{lack} 'rootstock list' shows other models."
