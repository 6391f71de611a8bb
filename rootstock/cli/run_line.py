"""What a command that computes in a run folder shows meanwhile: one line, from the first step on."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.progress_line import show_meanwhile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rootstock.root.lock import Report
    from rootstock.simulations.runs.elements import Element
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.progress import Progress

_START_S = 4.0  # a worker that is not ready by then is told of, also where lines stay
_COMPUTES = "rootstock.simulations"  # tells of steps of a structure; others of the worker
_LOOK_S = 10.0  # between two looks at how many failed
_BAR = 20  # characters
_WORKERS = 4  # whose state is shown


class Line:
    """What is shown meanwhile: how far a run is, and what its worker does.

    Parameters
    ----------
    show : callable
    """

    def __init__(self, show: Report) -> None:
        self._show, self._said = show, ""
        self._todo = self._failed = self._done = 0
        self._begun = self._looked = self._first = time.monotonic()
        self._folder: RunFolder | None = None
        self._reported = bytearray()  # 1 for each structure that this process has recorded
        self._atoms_of: Any = ()
        self._atoms, self._workers = 0, ""
        self._computes = False  # whether a worker of several has begun

    def tell(self, text: str, *, computes: bool = False) -> None:
        """Show what is being done before there are results, or between them.

        Parameters
        ----------
        text : str
        computes : bool
            Whether that is a part of the computation, whose time counts.
        """
        if not self._done and not computes:
            self._first = time.monotonic()
        self._show(f"{self._said}; {text}" if self._said else text)

    def begin(self, folder: RunFolder, todo: int) -> None:
        """Show how much there is to do.

        Parameters
        ----------
        folder : RunFolder
        todo : int
            How many structures this process is to compute.
        """
        from rootstock.simulations.runs.input_table import read_sizes

        self._folder, self._todo, self._reported = folder, todo, bytearray(folder.record.structures)
        self._atoms_of = read_sizes(folder.path, folder.record.structures)
        self._said = f"0 of {self._todo:,} computed, 0 failed"
        self.tell("computing")

    def add(self, indices: Sequence[int]) -> None:
        """Count structures that are recorded.

        Parameters
        ----------
        indices : sequence of int
        """
        for index in indices:
            self._reported[index] = 1
            self._atoms += int(self._atoms_of[index])
        from rootstock.simulations.runs.progress import can_foresee

        self._done += len(indices)
        now = time.monotonic()
        if now - self._looked > _LOOK_S:
            self._looked = now
            self._count_failed()
        if not self._done:  # only failures that are not final
            return
        seconds = max(now - self._first, 1e-3)
        rate = self._done / seconds
        self._todo = max(self._todo, self._done)  # what another kind of GPU had no memory for is known late
        known = self._folder is None or can_foresee(self._folder.record.kind, self._done, self._todo)
        left = (self._todo - self._done) / rate if known else 0.0
        pace = pace_words(rate, left, self._atoms / seconds)
        self._said = (
            f"{bar(self._done / self._todo)}{self._done:,} of {self._todo:,} computed, {self._failed:,} failed, {pace}"
        )
        self._show(self._said + self._workers)

    def states(self, states: Mapping[str, str]) -> None:
        """Show what each worker does, where that is not the same for all.

        Parameters
        ----------
        states : Mapping of str to str
            By the place of the worker.
        """
        if not self._computes:
            self._first, self._computes = time.monotonic(), "computing" in states.values()
        self._workers = f"; {states_words(states)}" if states else ""
        self._show(self._said + self._workers)

    def _count_failed(self) -> None:
        """Count the failures among what this process has computed."""
        import numpy as np

        if self._folder is not None:
            statuses = self._folder.progress().statuses[np.frombuffer(self._reported, bool)]
            self._failed = failed_of(statuses)

    def trial(self) -> tuple[int, float]:
        """Return how many structures were computed, and in how many seconds, without the start."""
        return self._done, time.monotonic() - self._first

    def took(self) -> str:
        """Say how much was computed in which time, and how much of that failed; nothing if that is nothing."""
        if not self._done:
            return ""
        self._count_failed()
        lost = f" ({self._failed:,} failed)" if self._failed else ""
        seconds = time.monotonic() - self._begun
        return f"{self._done:,} computed{lost} in {duration(seconds)}, {pace_words(self._done / seconds, 0.0)}"


class _ToLine(logging.Handler):
    """Shows what a worker does, and prints warnings."""

    def __init__(self, line: Line) -> None:
        super().__init__(logging.INFO)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            click.echo(record.getMessage(), err=True)
        else:
            self._line.tell(record.getMessage(), computes=record.name.startswith(_COMPUTES))


@contextmanager
def show_line() -> Iterator[Line]:
    """Yield the line that is shown while the block runs."""
    logger = logging.getLogger("rootstock")
    with show_meanwhile(_START_S) as show:
        line = Line(show)
        handler, level = _ToLine(line), logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield line
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def beginning(run: Path, element: Element, model: str, owned: int, todo: int, lost: int) -> str:
    """Return what is said when a run begins or goes on.

    Parameters
    ----------
    run : Path
    element : Element
    model : str
    owned : int
        How many structures the element has.
    todo : int
        How many of them are to be computed.
    lost : int
        How many of the others have failed.

    >>> from rootstock.simulations.runs.elements import Element
    >>> beginning(Path("screening"), Element(), "chgnet", 999, 999, 0)
    'screening: 999 structures with chgnet; 999 to compute'
    >>> beginning(Path("screening"), Element(2, 4), "chgnet", 250, 100, 3)
    'screening, element 2/4: 250 structures with chgnet; 147 are done, 3 failed, 100 to compute'
    """
    from rootstock.root.disk_usage import number_of

    share = f", element {element}" if element.of > 1 else ""
    done = owned - todo - lost
    counts = [f"{done:,} {'is' if done == 1 else 'are'} done"] if done else []
    counts += [f"{lost:,} failed"] if lost else []
    counts.append(f"{todo:,} to compute" if todo else "none to compute")
    return f"{run}{share}: {number_of(owned, 'structure')} with {model}; {', '.join(counts)}"


def bar(part: float) -> str:
    """Return a bar that shows which part is done, for a terminal; elsewhere nothing.

    Parameters
    ----------
    part : float
    """
    filled = round(_BAR * part)
    return f"{'━' * filled}{'╌' * (_BAR - filled)} " if sys.stderr.isatty() else ""


def states_words(states: Mapping[str, str]) -> str:
    """Return what workers do, in words: how many compute, and what others do.

    Parameters
    ----------
    states : Mapping of str to str
        By the place of the worker.

    >>> states_words({"GPU 0": "computing", "GPU 1": "loading the model", "GPU 2": "computing"})
    '2 computing, GPU 1: loading the model'
    """
    others = [f"{name}: {state}" for name, state in states.items() if state != "computing"]
    more = [f"{len(others) - _WORKERS} more"] if len(others) > _WORKERS else []
    computing = [f"{len(states) - len(others)} computing"] if len(states) > len(others) else []
    return ", ".join([*computing, *others[:_WORKERS], *more])


def pace_words(rate: float, left: float, atoms: float = 0.0) -> str:
    """Return how fast a run is, and how long it takes yet, in words.

    Parameters
    ----------
    rate : float
        Structures per second.
    left : float
        Seconds.
    atoms : float
        Atoms per second, where they are told.

    >>> pace_words(12.34, 4000, 1234.5), pace_words(0.01, 0)
    ('12.3 structures/s, 1,234 atoms/s, 1 h 07 min left', '36.0 structures/h')
    """
    pace = f"{rate:,.1f} structures/s" if rate >= 0.1 else f"{rate * 3600:,.1f} structures/h"
    pace += f", {atoms:,.0f} atoms/s" if atoms >= 1 else ""
    return f"{pace}, {duration(left)} left" if left else pace


def failed(progress: Progress) -> int:
    """Return how many structures have failed for good.

    Parameters
    ----------
    progress : Progress
    """
    return sum(progress.failed().values())


def failed_of(statuses: NDArray[np.uint8]) -> int:
    """Return how many of some statuses are those of failures.

    Parameters
    ----------
    statuses : numpy.ndarray
    """
    from rootstock.simulations.runs.index import Status

    return int((statuses >= Status.FAILED_STRUCTURE).sum())


def duration(seconds: float) -> str:
    """Return a duration in words.

    Parameters
    ----------
    seconds : float

    >>> duration(0.24), duration(42), duration(4000)
    ('0.2 s', '42 s', '1 h 07 min')
    """
    if seconds < 100:
        return f"{seconds:.{int(seconds < 10)}f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
