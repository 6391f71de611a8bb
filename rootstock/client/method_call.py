"""Call a method of the calculator in the worker: what travels there, and what comes back."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ase import Atoms

from rootstock.client.extra_results import while_open
from rootstock.client.inputs import Inputs
from rootstock.client.peer import Phase
from rootstock.client.process import FRAME_S
from rootstock.client.reported import USELESS, reported_error, useless_error
from rootstock.errors import ConfigurationError, WorkerError, WorkerProtocolError
from rootstock.worker.channel.blocks import read_arrays
from rootstock.worker.channel.endpoint import PeerGoneError
from rootstock.worker.channel.failures import decode_failure
from rootstock.worker.channel.frames import MAX_PAYLOAD, Frame, Kind
from rootstock.worker.channel.values import MAX_DEPTH, unpack

if TYPE_CHECKING:
    from rootstock.client.connection import WorkerConnection

_MAX_ARGUMENTS = MAX_PAYLOAD // 4  # characters; atoms.info travels in the same frame


class MethodCall(NamedTuple):
    """A method and its arguments.

    Attributes
    ----------
    name : str
    arguments : list
    keywords : dict
        Both as JSON can hold them, and without the structure.
    structure : int, str or None
        Which argument the structure is, by its place or its name; None if there is none.
    inputs : Inputs
        The structure.
    """

    name: str
    arguments: list[Any]
    keywords: dict[str, Any]
    structure: int | str | None
    inputs: Inputs


def method_call(name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> MethodCall:
    """Return what a worker is to be told.

    Parameters
    ----------
    name : str
        Of the method.
    arguments : sequence
        One of all may be an `ase.Atoms`.
    keywords : Mapping of str to Any

    Raises
    ------
    TypeError
        If one is something that JSON cannot hold.
    ConfigurationError, NonFiniteError
        If the structure cannot be used, as `Inputs.update` says, or the arguments are too long.
    """
    plain, named = list(arguments), dict(keywords)
    places: list[Any] = [k for k, each in enumerate(plain) if isinstance(each, Atoms)]
    places += [key for key, each in named.items() if isinstance(each, Atoms)]
    if len(places) > 1:
        raise TypeError(f"{name}() was given {len(places)} structures: a worker can be told of one.")
    place, inputs = (places or [None])[0], Inputs()
    if place is not None:
        inputs.update(plain.pop(place) if isinstance(place, int) else named.pop(place))
    for k, each in enumerate(plain):
        number = k + (isinstance(place, int) and k >= place)
        _require_json(each, name, f"argument {number + 1}")
    for key, each in named.items():
        _require_json(each, name, key)
    if (size := len(json.dumps([plain, named]))) > _MAX_ARGUMENTS:
        raise ConfigurationError(
            f"The arguments of {name}() are {size / 2**20:.0f} MB: a worker can be told "
            f"{_MAX_ARGUMENTS / 2**20:.0f} MB.",
            "Write large data to a file, and give its path.",
        )
    return MethodCall(name, plain, named, place, inputs)


def call_method(connection: WorkerConnection, request: MethodCall, timeout: float) -> Any:
    """Call it, and return what it returned.

    Parameters
    ----------
    connection : WorkerConnection
    request : MethodCall
    timeout : float
        Seconds to wait for the answer.

    Raises
    ------
    ModelError
        If the method raised an exception; the worker lives on, unless the GPU refuses it anything else.
    WorkerDiedError, WorkerTimeoutError, WorkerProtocolError
        If the worker is lost; the connection is then of no more use.
    """
    process = connection.process
    connection.begin()
    try:
        content = request._asdict()
        content["method"] = content.pop("name")
        inputs = content.pop("inputs")
        if request.structure is not None:
            connection.arrays.put(inputs)
            connection.arrays.shown, content["info"] = None, inputs.rest.info
        connection.sequence += 1
        atoms, present, room = max(connection.arrays.atoms, 0), connection.arrays.present, process.memory.capacity
        frame = Frame(Kind.CALL, 0, 0, present, 0, connection.sequence, atoms, room)
        process.endpoint.send(frame, content, timeout=timeout)
        connection.phase = Phase.WAITING
        answer, said = connection.hear(timeout, FRAME_S)
        if answer.kind == Kind.RESULT:
            value = _value(connection, said)
            connection.phase = Phase.IDLE
            return value
        if answer.kind != Kind.FAILURE:
            raise connection.unexpected(answer)
        report = decode_failure(said)
    except PeerGoneError:
        raise connection.gone() from None
    except TimeoutError:
        raise connection.too_late(timeout) from None
    except WorkerProtocolError as error:
        connection.kill()
        process.explain(error)
        raise
    except WorkerError:
        connection.phase = Phase.IDLE  # no memory for so many atoms: the worker knows nothing of it
        raise
    connection.phase = Phase.IDLE
    if report.code in USELESS:
        connection.kill()
        raise useless_error(process, report)
    raise reported_error(process, report)[0]


def _value(connection: WorkerConnection, said: dict[str, Any]) -> Any:
    memory = connection.process.memory
    arrays = while_open(memory, lambda: read_arrays(memory.fd, said, memory.end))
    return unpack(said.get("value"), arrays)


def _require_json(value: Any, method: str, where: str, depth: int = 0) -> None:
    """Refuse what JSON cannot hold, or would change without a word; tuples become lists."""
    if value is None or isinstance(value, bool | int | float | str):
        return
    if depth > MAX_DEPTH:
        raise TypeError(f"{method}(): {where} is nested more than {MAX_DEPTH} levels deep, or holds itself.")
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _require_json(item, method, f"{where}[{number}]", depth + 1)
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for key, item in value.items():
            _require_json(item, method, f"{where}[{key!r}]", depth + 1)
    else:
        numpy = " Of numbers and arrays of numpy, give VALUE.tolist()." if hasattr(value, "tolist") else ""
        raise TypeError(
            f"{method}(): {where} is {reprlib.repr(value)}, of type {type(value).__name__}: "
            f"arguments travel as JSON, which holds numbers, strings, lists, and dicts with strings as keys.{numpy}"
        )
