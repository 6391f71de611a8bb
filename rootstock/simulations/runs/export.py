"""The results of a run as one file: in the order of the input, never whole in memory, and complete or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootstock.errors import ConfigurationError, OutputError
from rootstock.simulations.output import check_writable, naming, replacing
from rootstock.simulations.runs.export_formats import FORMATS
from rootstock.simulations.runs.records import read_run, run_file

if TYPE_CHECKING:
    from rootstock.simulations.runs.folder import RunFolder

_EXPORTS = "exports.json"  # the files that were written from this folder, and may be written again


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes
    ----------
    path : Path
        The file.
    structures, exported, not_converged, missing : int
        How many the run has, how many of them are in the file, did not converge, or are not computed yet.
    failed : dict
        How many failed, by class.
    damaged : int
        How many were recorded, and cannot be read any more.
    computed_twice : int
        How many were computed more than once; the first whole result is in the file.
    """

    path: Path
    structures: int
    exported: int
    not_converged: int
    failed: dict[str, int]
    missing: int
    damaged: int
    computed_twice: int

    def sentences(self) -> Iterator[str]:
        """Yield what a person wants to know, a sentence each."""
        yield f"{self.path}: {self.exported:,} of {self.structures:,} structures"
        yield from (f"{count:,} failed ({name})" for name, count in self.failed.items() if count)
        if self.not_converged:
            yield f"{self.not_converged:,} not converged"
        if self.missing:
            yield f"{self.missing:,} not computed yet"
        if self.damaged:
            yield f"{self.damaged:,} damaged on disk, and left out"
        if self.computed_twice:
            yield f"{self.computed_twice:,} computed twice; the first result is taken"


def export(folder: RunFolder, out: Path, *, overwrite: bool) -> Exported:
    """Write the results of a run into one file; what is missing in it is counted.

    Parameters
    ----------
    folder : RunFolder
    out : Path
        Its ending says which format: ``.extxyz``, ``.xyz``, ``.db``, ``.npz`` or ``.csv``.
    overwrite : bool
        Whether a file may be replaced that was not written from this folder.

    Raises
    ------
    ConfigurationError
        If there is no such format, the file is there already, or the run has no results yet.
    OutputError
        If the file cannot be written. Nothing is changed then.
    """
    check_export(folder.path, out, overwrite=overwrite)
    progress = folder.progress()
    counts = progress.counts()
    if not counts["done"] + counts["not_converged"]:
        raise ConfigurationError(f"{folder.path} holds no results yet.", f"See: rootstock run status {folder.path}")
    count = 0
    with replacing(out) as fresh, FORMATS[out.suffix.lower()](fresh) as add:
        for index, data in folder.frames():
            add(index, data)
            count += 1
    _remember(folder.path, out)
    return Exported(
        out, len(progress.statuses), count, counts["not_converged"], progress.failed(), counts["missing"],
        counts["done"] + counts["not_converged"] - count, progress.twice,
    )  # fmt: skip


def check_export(folder: Path, out: Path, *, overwrite: bool) -> None:
    """Refuse a file that results of a run could not be written to.

    Parameters
    ----------
    folder : Path
        The run folder, which need not be there yet.
    out : Path
    overwrite : bool
        Whether a file may be replaced that was not written from this folder.

    Raises
    ------
    ConfigurationError
        If its ending means no format of `export`, it lies in the folder, the run reads it, it cannot be written, or is
        there.
    """
    if out.suffix.lower() not in FORMATS:
        endings = ", ".join(FORMATS)
        raise ConfigurationError(
            f"{out}: results of a run folder are not written in that format.",
            f"Use one of {endings}; ASE converts .extxyz into others: ase convert results.extxyz {out.name}",
        )
    if folder.resolve() in out.resolve().parents:
        raise ConfigurationError(
            f"{out} would lie in the run folder {folder}, which holds the run alone.", "Name a file outside of it."
        )
    if run_file(folder).exists():
        check_no_input(out, (file["path"] for file in read_run(folder).input.get("files", ())))
    check_writable(out)
    if not out.exists() or overwrite:
        return
    writer, files = _read_exports(folder)
    ours = files.get(os.path.realpath(out)) == _stamp(out)
    if not ours or writer != os.path.realpath(folder):
        why = f": it was exported from {writer}" if ours else ""  # of which this one is a copy
        raise ConfigurationError(f"{out} exists{why}.", "Name another file, or replace it with --overwrite.")


def is_exported(folder: Path, out: Path) -> bool:
    """Tell whether a file was exported from a run, and nothing was recorded in the run since then.

    Parameters
    ----------
    folder : Path
        The run folder.
    out : Path
    """
    writer, files = _read_exports(folder)
    with suppress(OSError, OutputError):
        stamp = _stamp(out)
        recorded = max(path.stat().st_mtime_ns for path in folder.glob("part-*.index"))
        return writer == os.path.realpath(folder) and files.get(os.path.realpath(out)) == stamp and recorded < stamp[1]
    return False


def are_written(folder: Path, out: Path) -> bool:
    """Tell whether the file for results is there, or another one that was exported from a run.

    Parameters
    ----------
    folder : Path
        The run folder.
    out : Path
    """
    return out.exists() or any(map(os.path.exists, _read_exports(folder)[1]))


def check_no_input(out: Path, files: Iterable[str]) -> None:
    """Refuse to export to a file that a run reads, or has read: nobody may lose structures for results.

    Parameters
    ----------
    out : Path
    files : iterable of str
        Of structures.

    Raises
    ------
    ConfigurationError
        If it is one of them.
    """
    for file in files:
        same = os.path.realpath(out) == os.path.realpath(file)
        with suppress(OSError):  # of one that is not there
            same = same or os.path.samefile(out, file)
        if same:
            raise ConfigurationError(f"{out} is one of the files of structures.", "Name another file.")


def _read_exports(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return which folder wrote files, and size and time of each: a copy of a folder has the list of the first one."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((folder / _EXPORTS).read_bytes())
        return str(found["folder"]), dict(found["files"])
    return "", {}


def _remember(folder: Path, out: Path) -> None:
    """Note that a file was written from a folder; a folder that cannot be written is somebody else's."""
    here, (writer, files) = os.path.realpath(folder), _read_exports(folder)
    known = {"folder": here, "files": (files if writer == here else {}) | {os.path.realpath(out): _stamp(out)}}
    with suppress(OutputError), replacing(folder / _EXPORTS) as fresh:
        fresh.write_text(json.dumps(known, indent=1), encoding="utf-8")


def _stamp(path: Path) -> list[int]:
    with naming(path):
        found = path.stat()
    return [found.st_size, found.st_mtime_ns]
