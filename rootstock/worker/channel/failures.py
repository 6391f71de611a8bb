"""What a worker reports of an exception: a code that says what kind it is, and the text for people.

Both ends use these fields; the client decides by the code alone, never by the name of a class.
"""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

from rootstock.errors import RootstockError, WorkerProtocolError

_MAX_MESSAGE, _MAX_TRACEBACK = 10_000, 100_000  # characters


class FailureCode(str, Enum):  # noqa: UP042  # a worker runs on Python 3.10 too
    """What kind of failure it is."""

    NO_DEVICE = "no-device"
    MISSING_WEIGHTS = "missing-weights"
    SETUP = "setup"
    UNSUPPORTED_PROPERTY = "unsupported-property"
    MODEL = "model"
    LOST_GPU = "lost-gpu"
    CANNOT_SERVE = "cannot-serve"
    OUT_OF_MEMORY = "out-of-memory"
    INPUT_OUTPUT = "input-output"


@dataclass(frozen=True)
class Failure:
    """An exception in a worker.

    Attributes
    ----------
    code : FailureCode
    type, message : str
        Class and text of the exception.
    hint : str
        What to do about it; only errors of our own have one.
    traceback : str
    """

    code: FailureCode
    type: str
    message: str
    hint: str
    traceback: str


def encode_failure(error: BaseException, code: FailureCode) -> dict[str, Any]:
    """Return the payload of a FAILURE frame.

    Parameters
    ----------
    error : BaseException
    code : FailureCode
    """
    try:
        message = error.message if isinstance(error, RootstockError) else str(error)
    except BaseException as worse:  # noqa: BLE001  # also an exit: what a model raises is reported to the client
        message = f"(its message cannot be shown: {type(worse).__name__})"
    hint = error.hint if isinstance(error, RootstockError) else ""
    trace = "".join(traceback.format_exception(error))[-_MAX_TRACEBACK:]
    return asdict(Failure(code, type(error).__name__, message[:_MAX_MESSAGE], hint, trace))


def decode_failure(content: dict[str, Any]) -> Failure:
    """Read the payload of a FAILURE frame.

    Raises
    ------
    WorkerProtocolError
        If a field is missing or not a string, or the code is unknown.
    """
    try:
        texts = {field.name: content[field.name] for field in fields(Failure)}
        if not all(isinstance(text, str) for text in texts.values()):
            raise TypeError("a field is not a string")
        return Failure(**texts | {"code": FailureCode(texts["code"])})
    except (KeyError, TypeError, ValueError) as error:
        raise WorkerProtocolError(f"Received a FAILURE that is not one: {error}.") from error
