"""A method of the calculator that its environment file lists, called for a client."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from numpy.typing import NDArray

from rootstock.errors import WorkerProtocolError
from rootstock.worker.channel.blocks import write_arrays
from rootstock.worker.channel.frames import MAX_PAYLOAD, Frame
from rootstock.worker.channel.memory import ALL_BITS
from rootstock.worker.channel.values import pack
from rootstock.worker.evaluate import Evaluator

_ROOM = 2**16  # for what is told beside a value


def call_method(
    evaluator: Evaluator, methods: Collection[str], frame: Frame, content: dict[str, Any]
) -> dict[str, Any]:
    """Call a method, and return the content of the RESULT frame; what was returned travels beside it.

    The calculator knows no atoms then but those that are given, and is told everything anew afterwards.

    Parameters
    ----------
    evaluator : Evaluator
    methods : collection of str
        Those that may be called.
    frame : Frame
    content : dict
        Of the frame.

    Raises
    ------
    WorkerProtocolError
        If the frame makes no sense, or names another method.
    AttributeError
        If the calculator has no such method.
    TypeError, ValueError
        If what it returned does not travel.
    """
    name: Any = content.get("method")
    arguments: Any = content.get("arguments")
    keywords: Any = content.get("keywords")
    sound = isinstance(name, str) and isinstance(arguments, list) and isinstance(keywords, dict)
    if not sound or name not in methods:
        raise WorkerProtocolError(f"Received a call of {name!r:.100}, which is none of the listed methods.")
    calculator, place = evaluator.calculator, content.get("structure")
    if frame.capacity:
        evaluator.memory.attach(frame.capacity)
    if place is not None:
        views = evaluator.memory.views(frame.atoms)
        atoms, _ = evaluator.detached(frame._replace(changes=ALL_BITS), views, str(content.get("info", "")))
        if isinstance(place, str):
            keywords = {**keywords, place: atoms}
        else:
            arguments = [*arguments[:place], atoms, *arguments[place:]]
    evaluator.reset()
    if place is not None:
        atoms.calc = calculator
    method = getattr(calculator, name, None)
    if not callable(method):
        raise AttributeError(f"{type(calculator).__name__} has no method {name}(), which its environment file lists.")
    arrays: list[NDArray[Any]] = []
    value = pack(method(*arguments, **keywords), arrays, f"What {name}() returned")
    if len(json.dumps(value)) > MAX_PAYLOAD - _ROOM:
        raise ValueError(f"What {name}() returned is too long: numbers by the million are to be arrays.")
    return {"value": value, **write_arrays(evaluator.memory.fd, evaluator.memory.end, arrays)}
