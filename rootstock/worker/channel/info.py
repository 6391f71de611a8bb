"""``atoms.info`` as text, and back: JSON, with numpy's arrays and numbers and with tuples kept as what they are."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

_ARRAY, _TUPLE = "__array__", "__tuple__"  # each the only key of a JSON object
_KINDS = "biufcU"  # of arrays: truth values, numbers, text


def encode_info(info: dict[str, Any]) -> dict[str, str]:
    """Return each entry as text.

    Entries that are something else than numbers, text, truth values, None, and lists, tuples, dicts and arrays of them
    are left out, such as a space group: no model reads it.
    """
    texts = {}
    for key, value in info.items():
        try:
            texts[key] = f"{json.dumps(_text_key(key))}: {json.dumps(_portable(value))}"
        except (TypeError, ValueError, RecursionError):
            continue
    return texts


def decode_info(text: str) -> dict[str, Any]:
    """Read what `encode_info` made, joined by commas in braces; an empty text is no entries.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    try:
        info = json.loads(text, object_hook=_restore) if text else {}
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not isinstance(info, dict):
        raise ValueError("it is no object")
    return info


def _text_key(key: Any) -> str:
    if not isinstance(key, str) or key in (_ARRAY, _TUPLE):
        raise TypeError
    return key


def _portable(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in _KINDS or isinstance(value, np.ma.MaskedArray):
            raise TypeError
        data = base64.b64encode(array.tobytes()).decode()
        return {_ARRAY: [array.dtype.str, None if isinstance(value, np.generic) else array.shape, data]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {_TUPLE: [_portable(item) for item in value]}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if isinstance(value, dict):
        return {_text_key(key): _portable(item) for key, item in value.items()}
    raise TypeError


def _restore(value: dict[str, Any]) -> Any:
    if _TUPLE in value:
        return tuple(value[_TUPLE])
    if _ARRAY in value:
        dtype, shape, data = value[_ARRAY]
        array = np.frombuffer(base64.b64decode(data), dtype)
        return array[0] if shape is None else array.reshape(shape).copy()
    return value
