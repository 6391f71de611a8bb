"""A run folder: what is recorded of each structure, what is missing, and the frames for an export."""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rootstock.errors import ConfigurationError, RootstockError
from rootstock.root.record_files import parse_record
from rootstock.simulations.runs.elements import Element, Found, claim_element
from rootstock.simulations.runs.failures import read_failures
from rootstock.simulations.runs.files import Files
from rootstock.simulations.runs.index import ENTRY, Status
from rootstock.simulations.runs.input_table import read_sizes
from rootstock.simulations.runs.making import make_run
from rootstock.simulations.runs.progress import Damaged, Progress, can_foresee, read_progress, read_results
from rootstock.simulations.runs.records import RunRecord, read_run, run_file

if TYPE_CHECKING:
    from rootstock.simulations.runs.parts import Disk
    from rootstock.simulations.runs.recorder import Recorder

_T = TypeVar("_T")


class RunFolder:
    """A run folder that is there.

    Parameters
    ----------
    path : Path
    record : RunRecord
    """

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path, self.record = path, record

    @classmethod
    def create(cls, path: Path, record: RunRecord) -> RunFolder:
        """Make a run of a folder that `index_input` has filled.

        Parameters
        ----------
        path : Path
        record : RunRecord

        Raises
        ------
        ConfigurationError
            If it holds a run, or other files.
        OutputError
            If it cannot be written.
        """
        make_run(path, record)
        return cls(path, record)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the run in a folder.

        Parameters
        ----------
        path : Path

        Raises
        ------
        ConfigurationError
            If it holds none.
        """
        return cls(path, read_run(path))

    def settings(self, kind: type[_T]) -> _T:
        """Return the settings of what is done with each structure.

        Parameters
        ----------
        kind : type
            A dataclass, such as `rootstock.simulations.relax.Relaxation`.

        Raises
        ------
        ConfigurationError
            If the record of the run holds no such settings.
        """
        try:
            return parse_record(kind, self.record.settings)
        except ValueError as error:
            raise ConfigurationError(
                f"{run_file(self.path)} holds no settings of a {self.record.kind}: {error}."
            ) from error

    def progress(self) -> Progress:
        """Read what is recorded, from the index files alone.

        Raises
        ------
        ConfigurationError
            If one of them cannot be read.
        """
        return read_progress(self.path, self.record.structures)[0]

    def missing(
        self, element: Element | None = None, *, retry_failed: bool = False, gpu: str | None = None
    ) -> NDArray[np.int64]:
        """Return the indices that are to be computed, by size.

        Parameters
        ----------
        element : Element, optional
            A share of them; by default all.
        retry_failed : bool
            Whether those that failed are computed again.
        gpu : str, optional
            The kind of GPU: what did not fit into the memory of another kind is computed again. By default it is not.

        Raises
        ------
        ConfigurationError
            If a file of the folder cannot be read.
        """
        owned = self.owned(element or Element())
        progress, final = read_progress(self.path, self.record.structures, gpu)
        todo = progress.statuses == Status.MISSING
        if retry_failed:
            todo |= progress.statuses >= Status.FAILED_STRUCTURE
        elif gpu is not None:
            todo |= (progress.statuses == Status.FAILED_RESOURCE) & ~final
        return np.asarray(owned[todo[owned]])

    def places(self, indices: NDArray[np.int64]) -> list[int]:
        """Return where structures are in the order by size, by which all of the run are dealt out to shares.

        Parameters
        ----------
        indices : numpy.ndarray
        """
        owned = self.owned(Element())
        place = np.empty_like(owned)
        place[owned] = np.arange(len(owned))
        return [int(each) for each in place[indices]]

    def owned(self, element: Element) -> NDArray[np.int64]:
        """Return the indices of a share.

        Parameters
        ----------
        element : Element
        """
        return element.owned(read_sizes(self.path, self.record.structures))

    def _recorded(self, element: Element, progress: Progress) -> tuple[int, int]:
        """Return how many structures of an element are recorded, and how many it owns."""
        owned = progress.statuses[self.owned(element)]
        return int(np.count_nonzero(owned != Status.MISSING)), len(owned)

    def pace(self, progress: Progress, found: Found) -> dict[str, float | None]:
        """Return how fast a process of this node has been since it began; None where nobody can tell from here.

        Parameters
        ----------
        progress : Progress
        found : Found

        Returns
        -------
        dict
            ``structures_per_s``, and ``seconds_left`` until its element is computed if it goes on like that; of
            relaxations nobody can tell before half of them are done.
        """
        rate = left = None
        if found.runs and found.process is not None and (age := found.process.age_s):
            recorded, owned = self._recorded(found.element, progress)
            done = max(recorded - found.process.recorded, 0)
            rate = done / age
            if rate and can_foresee(self.record.kind, done, owned - found.process.recorded):
                left = (owned - recorded) / rate
        return {"structures_per_s": rate, "seconds_left": left}

    def failures(self) -> Iterator[dict[str, Any]]:
        """Yield what is known of each structure that has failed and has no result, in the order of the input.

        Yields
        ------
        dict
            ``index``, ``class``, ``error``, ``message``, ``structure``, ``gpu``, ``host`` and ``time``. Those of class
            ``infrastructure`` are not final.
        """
        return read_failures(self.path, self.progress().statuses)

    def frames(self, damaged: list[Damaged] | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield the first whole frame of each structure that has one, in the order of the input.

        Parameters
        ----------
        damaged : list, optional
            Takes the frames that are left out, since they are damaged. `discard` has them computed again.

        Yields
        ------
        index : int
        frame : bytes
        """
        entries, parts, places, names = read_results(self.path, self.record.structures)
        last = -1
        with Files(self.path) as files:
            for row in np.argsort(entries["index"], kind="stable").tolist():
                _, content, index, offset, length, *_ = entries[row].item()
                if index == last:
                    continue
                frame = files.read(f"{names[parts[row]]}.extxyz", offset, length)
                if len(frame) == length and zlib.crc32(frame) == content:
                    last = index
                    yield index, frame
                elif damaged is not None:
                    damaged.append(Damaged(index, names[parts[row]], int(places[row])))

    def discard(self, damaged: Sequence[Damaged]) -> None:
        """Take back the records of damaged frames: their structures are missing then, and are computed again.

        Parameters
        ----------
        damaged : sequence of Damaged
            As `frames` found them.

        Raises
        ------
        OSError
            If an index cannot be written.
        """
        for each in damaged:
            with open(os.open(self.path / f"{each.part}.index", os.O_WRONLY | os.O_NOFOLLOW), "wb") as file:
                os.pwrite(file.fileno(), bytes(ENTRY.itemsize), each.place)
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def recorder(
        self,
        element: Element | None = None,
        on_recorded: Callable[[Sequence[int]], object] | None = None,
        *,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[Recorder]:
        """Claim an element, and yield what records its results; at the end of the block all of them are.

        Parameters
        ----------
        element : Element, optional
            By default all structures.
        on_recorded : callable, optional
            Is given the indices that are recorded.
        disk, clock
            As for `Recorder`.

        Raises
        ------
        LockBusyError
            If another process computes it.
        OutputError
            If results cannot be recorded.
        """
        from rootstock.simulations.runs.recorder import Recorder  # which imports ASE

        element = element or Element()
        with claim_element(self.path, element, self._recorded(element, self.progress())[0]):
            recorder = Recorder(self.path, on_recorded, disk=disk, clock=clock)
            try:
                yield recorder
                recorder.close()
            except BaseException as error:
                _close_after(recorder, error)
                raise


def _close_after(recorder: Recorder, error: BaseException) -> None:
    """Record what was computed when something has ended the computation, and say if that is not possible."""
    try:
        recorder.close()
    except RootstockError as lost:
        if not isinstance(error, RootstockError):  # such as Ctrl-C
            raise lost from error
        if lost.message != error.message:
            error.hint = f"{error.hint}\n{lost.message}".strip()
