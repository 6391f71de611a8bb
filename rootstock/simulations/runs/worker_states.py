"""What the workers of a process do that computes a run, for whoever asks from elsewhere."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rootstock.errors import RootError
from rootstock.root.holder import Holder
from rootstock.root.record_files import Record, read_record

if TYPE_CHECKING:
    from rootstock.simulations.runs.elements import Element


@dataclass(frozen=True)
class _States(Record):
    """What each worker does, by its place; and the process that says so."""

    host: str
    pid: int
    start: str
    workers: dict[str, str]


@contextlib.contextmanager
def telling_states(folder: Path, element: Element) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Yield what tells others what each worker of this process does, while the block runs.

    Parameters
    ----------
    folder : Path
    element : Element
        The share that this process computes.
    """
    file, me = _file(folder, element), Holder.of_this_process("")
    fresh = file.with_name(f".{file.name}")

    def tell(states: Mapping[str, str]) -> None:
        text = _States(me.host, me.pid, me.start, dict(states)).to_json()
        # A disk that is full or slow to come back costs those who ask a line, and nobody a result.
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)  # whatever it is, nothing is written into what was there
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w", encoding="utf-8") as opened:
                opened.write(text)
            fresh.replace(file)

    try:
        yield tell
    finally:
        for each in (fresh, file):
            with contextlib.suppress(OSError):
                each.unlink(missing_ok=True)


def read_states(folder: Path, element: Element, process: Holder) -> dict[str, str]:
    """Return what each worker of a process does, by its place; nothing if it does not say.

    Parameters
    ----------
    folder : Path
    element : Element
        The share that it computes.
    process : Holder
    """
    try:
        said = read_record(_States, _file(folder, element), "")
    except RootError:  # damaged, or of somebody who lets nobody read it
        return {}
    if said is None or (said.host, said.pid, said.start) != (process.host, process.pid, process.start):
        return {}
    return {place: state for place, state in said.workers.items() if isinstance(state, str)}


def _file(folder: Path, element: Element) -> Path:
    return folder / f"workers-{element.number}-of-{element.of}.json"
