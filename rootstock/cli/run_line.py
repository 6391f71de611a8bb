"""What a command that computes in a run folder shows meanwhile: one line, from the first step on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from rootstock.cli.progress_line import show_rarely

if TYPE_CHECKING:
    from rootstock.root.lock import Report
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.progress import Progress

_LOOK_S = 10.0  # between two looks at how many failed


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

    def tell(self, text: str) -> None:
        """Show what is being done before there are results, or between them.

        Parameters
        ----------
        text : str
        """
        if not self._done:
            self._first = time.monotonic()
        self._show(f"{self._said}; {text}" if self._said else text)

    def begin(self, folder: RunFolder, todo: int) -> None:
        """Show how much there is to do.

        Parameters
        ----------
        folder : RunFolder
        todo : int
            How many structures.
        """
        self._folder, self._todo, self._failed = folder, todo, failed(folder.progress())
        self._said = f"0 of {self._todo:,} done, {self._failed:,} failed"
        self.tell("computing")

    def add(self, indices: Sequence[int]) -> None:
        """Count structures that are recorded.

        Parameters
        ----------
        indices : sequence of int
        """
        self._done += len(indices)
        now = time.monotonic()
        if self._folder is not None and now - self._looked > _LOOK_S:
            self._looked, self._failed = now, failed(self._folder.progress())
        if not self._done:  # only failures that are not final
            return
        rate = self._done / max(now - self._first, 1e-3)
        left = max(self._todo - self._done, 0)
        self._said = f"{self._done:,} of {self._todo:,} done, {self._failed:,} failed, {pace_words(rate, left / rate)}"
        self._show(self._said)

    def took(self) -> str:
        """Say how much was computed in which time; nothing if that is nothing."""
        return f"{self._done:,} computed in {_duration(time.monotonic() - self._begun)}" if self._done else ""


class _ToLine(logging.Handler):
    """Shows what a worker does, and prints warnings."""

    def __init__(self, line: Line) -> None:
        super().__init__(logging.INFO)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            click.echo(record.getMessage(), err=True)
        else:
            self._line.tell(record.getMessage())


@contextmanager
def show_line() -> Iterator[Line]:
    """Yield the line that is shown while the block runs."""
    logger = logging.getLogger("rootstock")
    with show_rarely() as show:
        line = Line(show)
        handler, level = _ToLine(line), logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield line
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def pace_words(rate: float, left: float) -> str:
    """Return how fast a run is, and how long it takes yet, in words.

    Parameters
    ----------
    rate : float
        Structures per second.
    left : float
        Seconds.

    >>> pace_words(12.34, 4000), pace_words(0.01, 0)
    ('12.3 structures/s, 1 h 07 min left', '36.0 structures/h')
    """
    pace = f"{rate:,.1f} structures/s" if rate >= 0.1 else f"{rate * 3600:,.1f} structures/h"
    return f"{pace}, {_duration(left)} left" if left else pace


def failed(progress: Progress) -> int:
    """Return how many structures have failed for good.

    Parameters
    ----------
    progress : Progress
    """
    return sum(progress.failed().values())


def _duration(seconds: float) -> str:
    """Return a duration in words.

    >>> _duration(0.24), _duration(42), _duration(4000)
    ('0.2 s', '42 s', '1 h 07 min')
    """
    if seconds < 100:
        return f"{seconds:.{int(seconds < 10)}f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
