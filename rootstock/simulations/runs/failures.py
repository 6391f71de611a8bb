"""Failures of a run, as people read them: lines of JSON beside each part."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rootstock.client.evaluated import FailureClass
from rootstock.root.plain_files import open_regular, parse_json
from rootstock.simulations.runs.files import Files
from rootstock.simulations.runs.index import Status, unreadable
from rootstock.simulations.runs.progress import parts_of

_LONGEST = 2**16  # bytes of a line that we write
_TEXTS = ("class", "error", "message", "structure", "gpu", "host", "time")
_CLASSES = {
    int(Status.MISSING): FailureClass.INFRASTRUCTURE, int(Status.FAILED_STRUCTURE): FailureClass.STRUCTURE,
    int(Status.FAILED_RESOURCE): FailureClass.RESOURCE,
}  # fmt: skip


def read_failures(folder: Path, statuses: NDArray[np.uint8]) -> Iterator[dict[str, Any]]:
    """Yield the last failure of each structure without a result, in the order of their indices.

    Parameters
    ----------
    folder : Path
    statuses : numpy.ndarray
        A `Status` for each structure.

    Yields
    ------
    dict
        One whose line is damaged has a class, and a message that says so.

    Raises
    ------
    ConfigurationError
        If a file cannot be read.
    """
    last: dict[int, tuple[str, str, int, int]] = {}  # of each index: the time, and where the line is
    for part in parts_of(folder):
        name = f"{part}.failed.jsonl"
        for offset, length, said in _lines(folder / name, len(statuses)):
            # A failure is final by its record in the index; without one, it may be one of those that never are.
            if said["class"] == _CLASSES.get(int(statuses[said["index"]])):
                found = (said["time"], name, offset, length)
                last[said["index"]] = max(found, last.get(said["index"], found))
    failed = np.flatnonzero(statuses >= Status.FAILED_STRUCTURE).tolist()
    with Files(folder) as files:
        for index in sorted({*failed, *last}):
            again = _parsed(files.read(*last[index][1:]), len(statuses)) if index in last else None
            yield again or {
                **dict.fromkeys(_TEXTS, ""), "index": index, "class": str(_CLASSES[int(statuses[index])]),
                "message": "The line that described this failure is damaged.",
            }  # fmt: skip


def _lines(path: Path, structures: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield offset, length and content of the lines of a file that are whole."""
    try:
        with open_regular(path) as raw:
            file, offset = io.BufferedReader(raw), 0
            while line := file.readline(_LONGEST):
                if (said := _parsed(line, structures)) is not None:
                    yield offset, len(line), said
                offset += len(line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unreadable(path, error) from error


def _parsed(line: bytes, structures: int) -> dict[str, Any] | None:
    try:
        said = parse_json(line.strip(b"\0 \n"))  # a hole of NULs before it costs only itself
    except ValueError:
        return None
    if not isinstance(said, dict) or not all(isinstance(said.get(name), str) for name in _TEXTS):
        return None
    index = said.get("index")
    return said if type(index) is int and 0 <= index < structures else None
