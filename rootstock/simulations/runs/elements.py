"""Who computes which structures of a run: elements, and the processes that have them.

An element owns structures that are fixed by the input alone, so that no two elements of one number share any. Who
computes one leaves a record in the folder as long as it does. Of a process on this node the kernel says whether it
runs; of one on another node the batch system does, if it runs in a job.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rootstock.errors import ConfigurationError, LockBusyError, RootError
from rootstock.root.holder import Holder
from rootstock.root.record_files import read_record
from rootstock.simulations.claims import HeldError, claim_files, claim_record, remove_record
from rootstock.simulations.output import unwritten
from rootstock.simulations.runs.copies import is_copied
from rootstock.simulations.runs.schedulers import Job, which_are_there

_MOST = 10**6  # elements
_RECORD = re.compile(r"computing-(\d{1,7})-of-(\d{1,7})\.json")


@dataclass(frozen=True)
class Element:
    """One share of a run.

    Attributes
    ----------
    number : int
        Counted from 1.
    of : int
        How many shares there are.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of <= _MOST:
            raise ConfigurationError(
                f"{self.number}/{self.of} is no share of a run.", "Write 1/4, 2/4, 3/4 and 4/4 for four shares."
            )

    @classmethod
    def parse(cls, text: str) -> Element:
        """Return what ``2/8`` means.

        Parameters
        ----------
        text : str

        Raises
        ------
        ConfigurationError
            If it means none.
        """
        if not (found := re.fullmatch(r"(\d{1,7})/(\d{1,7})", text, re.ASCII)):
            raise ConfigurationError(f"{text!r} is no share of a run.", "Write 2/4 for the second of four shares.")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def owned(self, atoms_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices that it owns: every n-th by size, so that all shares are about as large.

        Parameters
        ----------
        atoms_of : numpy.ndarray
            How many atoms each structure has.
        """
        return np.argsort(atoms_of, kind="stable")[self.number - 1 :: self.of]


@dataclass(frozen=True)
class Computing(Holder):
    """A process that computes an element of a run.

    `job` is its job, if it runs in one; `recorded` is how many structures of the element were recorded when it began;
    `folder` is the run's, by its whole path.
    """

    number: int = 1
    of: int = 1
    job: Job | None = None
    recorded: int = 0
    folder: str = ""

    def __str__(self) -> str:
        return super().__str__() + (f", in {self.job}" if self.job else "")


@dataclass(frozen=True)
class Found:
    """A record of a process that computes.

    Attributes
    ----------
    record : Path
    element : Element
    process : Computing or None
        None while the record is being written, or if it is damaged.
    runs : bool or None
        Whether it runs, or its job is queued or running; None if nobody here can tell.
    """

    record: Path
    element: Element
    process: Computing | None
    runs: bool | None

    @property
    def array(self) -> Job | None:
        """The array whose tasks compute the shares of the run, if its job is one of them."""
        job = self.process.job if self.process else None
        return job.array if job is not None and job.tasks == self.element.of > 1 else None

    @property
    def state(self) -> str:
        return {True: "running", False: "ended", None: "unknown"}[self.runs]


def running(folder: Path) -> list[Found]:
    """Return the processes that compute a run, or did when something ended them.

    Parameters
    ----------
    folder : Path
    """
    return _look(_records(folder))


def refuse_busy(folder: Path, element: Element) -> None:
    """Refuse an element that another process computes, as far as anybody here can tell.

    Parameters
    ----------
    folder : Path
    element : Element

    Raises
    ------
    LockBusyError
        It says who, and what to do.
    """
    for found in running(folder):
        if found.element == element and found.runs:
            raise _busy(folder, found)


@contextlib.contextmanager
def claim_element(folder: Path, element: Element, recorded: int = 0) -> Iterator[None]:
    """Keep other processes from computing an element, or another share that overlaps with it, while the block runs.

    Parameters
    ----------
    folder : Path
    element : Element
    recorded : int
        How many of its structures are recorded.

    Raises
    ------
    LockBusyError
        If one does, or may do so on another node. It says who, and what to do.
    ConfigurationError
        If the folder cannot be written.
    OutputError
        If its file system is full, or has a fault.
    """
    me = replace(
        Computing.of_this_process(shlex.join(["rootstock", *sys.argv[1:]])),
        number=element.number, of=element.of, job=Job.of_this_process(), recorded=recorded,
        folder=str(folder.resolve()),
    )  # fmt: skip
    record = folder / f"computing-{element.number}-of-{element.of}.json"
    [found] = _look([(record, element)], me)
    if found.process is not None and found.process.host != me.host and found.runs is False:
        remove_record(record, found.process)
    try:
        with contextlib.ExitStack() as claim:
            try:
                claim.enter_context(claim_record(record, me))
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise unwritten(folder, error) from error
                raise ConfigurationError(
                    f"Cannot write into the run folder {folder}: {error.strerror}.",
                    f"Its results can be had all the same: rootstock run export {shlex.quote(str(folder))} FILE",
                ) from error
            for found in _look([each for each in _records(folder) if each[1].of != element.of], me):
                if found.runs is not False:
                    raise _busy(folder, found)
            yield
    except HeldError as error:
        [found] = _look([(record, element)], me)
        raise _busy(folder, replace(found, runs=True) if error.locked else found) from None


@contextlib.contextmanager
def claim_out(out: Path, command: str) -> Iterator[None]:
    """Keep other commands from writing the file for results; of a job that has ended, or was begun again, none counts.

    Parameters
    ----------
    out : Path
    command : str
        The command line, for whoever finds the file claimed.

    Raises
    ------
    LockBusyError, ConfigurationError, OutputError
        As for `claim_files`.
    """
    me = replace(Computing.of_this_process(command), job=Job.of_this_process())

    def free(record: Path) -> None:
        [found] = _look([(record, Element())], me)
        if found.process is not None and found.process.elsewhere and found.runs is False:
            with contextlib.suppress(OSError):
                remove_record(record, found.process)

    with claim_files([out], command, me, free):
        yield


def _records(folder: Path) -> Iterator[tuple[Path, Element]]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        if found := _RECORD.fullmatch(name):
            with contextlib.suppress(ConfigurationError):  # a name that we do not give
                yield folder / name, Element(int(found[1]), int(found[2]))


def _look(records: Iterable[tuple[Path, Element]], me: Computing | None = None) -> list[Found]:
    """Read records, and find out which of their processes run."""
    read = [(record, element, _process(record)) for record, element in records]
    there = which_are_there([
        process.job for _, _, process in read
        if process and process.elsewhere and process.job and not _is_of(process.job, me)
    ])  # fmt: skip
    return [Found(*each, _runs(each[0].parent, each[2], there, me)) for each in read]


def _process(record: Path) -> Computing | None:
    try:
        return read_record(Computing, record, "")
    except RootError:
        return None


def _is_of(job: Job, me: Computing | None) -> bool:
    """Tell whether a job is that of this process, perhaps before it was begun again."""
    return me is not None and me.job is not None and (me.job.scheduler, me.job.id) == (job.scheduler, job.id)


def _runs(
    folder: Path, process: Computing | None, there: dict[Job, bool | None], me: Computing | None
) -> bool | None:  # fmt: skip
    if process is None:
        return None
    if is_copied(folder, process.folder):
        return False  # of this run: it computes the one of which this is a copy
    if not process.elsewhere:
        return not process.ended
    if (job := process.job) is None:
        return None
    if me is not None and me.job is not None and _is_of(job, me):
        return False if me.job.was_begun_again(job, process.host) else None
    return there[job]


def _busy(folder: Path, found: Found) -> LockBusyError:
    """Return the error of an element that somebody has."""
    who, hint = found.process or "another process", f"rootstock run cancel {shlex.quote(str(folder))}"
    message = f"{folder} is being computed by {who}: element {found.element}."
    if found.runs:
        return LockBusyError(message, f"Wait until it ends, or end it: {hint}")
    where = f" on {found.process.host}" if found.process else ""
    return LockBusyError(
        message,
        f"Nobody here can tell whether it still runs{where}. If you know that it has ended, as when a node has failed, "
        f"remove its record, and run the command again:\nrm -f {shlex.quote(str(found.record))}",
    )
