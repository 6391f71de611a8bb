"""The parts of a run that this process writes: frames, failures, and an index of both.

What a part holds is never changed. After anything that failed, it is cut back to what was recorded and closed for good,
and a new one begins: a file system may say by any of its calls that it has lost what it had taken before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rootstock.errors import OutputError
from rootstock.simulations.output import unwritten
from rootstock.simulations.runs.index import WITH_FRAME, Status, entry

_MODE = 0o666  # less what the umask takes away
_KINDS = (".extxyz", ".failed.jsonl", ".index")
_FRAMES, _FAILURES, _INDEX = _KINDS


@dataclass(frozen=True, slots=True)
class Result:
    """What is to be recorded of one structure.

    Attributes
    ----------
    index : int
    status : Status
        `MISSING` of a failure that is told to people, and computed again.
    content : bytes
        The frame, or the line of a failure.
    more : int
        See `rootstock.simulations.runs.index.entry`.
    """

    index: int
    status: Status
    content: bytes
    more: int = 0


class Disk:
    """The system's calls that write; tests have others."""

    def create(self, path: Path) -> int:
        """Make a file that nobody has made before, and return its descriptor.

        Parameters
        ----------
        path : Path
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, _MODE)

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        """Write what fits, and return how many bytes that is.

        Parameters
        ----------
        descriptor : int
        content : bytes
        """
        return os.write(descriptor, content)

    def fsync(self, descriptor: int) -> None:
        """Wait until a file is on the disk."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a file."""
        os.close(descriptor)


class Parts:
    """Writes results to one part after the other.

    Parameters
    ----------
    folder : Path
        Of the run.
    disk : Disk
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder, self._disk = folder, disk
        self._part: _Part | None = None

    def record(self, results: Sequence[Result]) -> None:
        """Return when results are on the disk; what cannot be recorded in this part is written to a new one.

        Parameters
        ----------
        results : sequence of Result

        Raises
        ------
        OutputError
            If a new part cannot take them either. None of them is recorded then.
        """
        for last in (False, True):
            part = self._part = self._part or _Part(self._folder, self._disk)
            try:
                part.record(results)
                return
            except OSError as error:
                self._part = None
                part.give_up()
                if last:
                    raise _unrecorded(self._folder, error) from error
            except BaseException:
                self._part = None
                part.give_up()
                raise

    def close(self) -> None:
        """Close the part; all of it is recorded."""
        if self._part is not None:
            self._part.close()
            self._part = None


class _Part:
    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder, self._disk = folder, disk
        self._name = f"part-{secrets.token_hex(8)}"
        self._descriptors: dict[str, int] = {}
        self._recorded = dict.fromkeys(_KINDS, 0)  # bytes

    def record(self, results: Iterable[Result]) -> None:
        blocks: dict[str, list[bytes]] = {kind: [] for kind in _KINDS}
        ends = dict(self._recorded)
        for result in results:
            kind = _FRAMES if result.status in WITH_FRAME else _FAILURES
            if result.status is not Status.MISSING:
                record = entry(result.index, result.status, ends[kind], result.content, result.more)
                blocks[_INDEX].append(record)
                ends[_INDEX] += len(record)
            blocks[kind].append(result.content)
            ends[kind] += len(result.content)
        # All files are made before the first byte: that the folder is synced once is enough.
        new = [kind for kind in _KINDS if blocks[kind] and kind not in self._descriptors]
        for kind in new:
            self._descriptors[kind] = self._disk.create(self._folder / f"{self._name}{kind}")
        if new:
            self._sync_folder()
        for kind in _KINDS:  # the index is the last
            if blocks[kind]:
                self._write(self._descriptors[kind], b"".join(blocks[kind]))
        self._recorded = ends

    def _write(self, descriptor: int, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self._disk.write(descriptor, rest) :]
        self._disk.fsync(descriptor)

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._disk.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # of a file system that syncs no folders
                raise
        finally:
            os.close(descriptor)

    def give_up(self) -> None:
        """Close the part after something failed, with no more in it than what is recorded."""
        for kind, descriptor in self._descriptors.items():
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._recorded[kind])
        self.close()
        if not any(self._recorded.values()):
            for kind in self._descriptors:
                with contextlib.suppress(OSError):
                    (self._folder / f"{self._name}{kind}").unlink()

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            with contextlib.suppress(OSError):  # what is recorded was synced before
                self._disk.close(descriptor)


def _unrecorded(folder: Path, error: OSError) -> OutputError:
    said = unwritten(folder, error)
    hint = said.hint.rpartition(" (")[0] or said.hint  # without options that a run does not have
    return OutputError(
        f"Cannot record results in {folder}: {error.strerror or error}.",
        f"{hint}. What was recorded before is safe; the same command goes on from there.",
    )
