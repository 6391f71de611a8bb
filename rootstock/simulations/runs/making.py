"""Makes a run of a folder, in one step: as long as there is no `run.json`, the folder holds none."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rootstock.errors import ConfigurationError, LockBusyError
from rootstock.root.holder import Holder
from rootstock.simulations.claims import FRESH, NO_LINKS, HeldError, claim_record
from rootstock.simulations.output import naming, seen_from, unwritten
from rootstock.simulations.runs.input_table import CONVERTED, INDEX, read_sizes
from rootstock.simulations.runs.records import MAKING, RunRecord, run_file

_FRESH = ".run.json"
_LEFT = (INDEX, CONVERTED, _FRESH)  # of a creation that something ended
_ANOTHER = "Name a new folder, or one that holds a run: --run FOLDER"


@contextlib.contextmanager
def preparing_run(path: Path) -> Iterator[None]:
    """Make the folder of a run, and keep it for this process until the block ends, which makes the run.

    What a creation has left that something ended is removed.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ConfigurationError
        If the folder holds something else, or cannot be made or written.
    LockBusyError
        If another process makes it.
    """
    me = Holder.of_this_process(shlex.join(["rootstock", *sys.argv[1:]]))
    with contextlib.ExitStack() as claim:
        try:
            path.mkdir(exist_ok=True)
            check_ours(path)
            claim.enter_context(claim_record(path / MAKING, me))
        except HeldError as error:
            hint = "Wait until it ends, and run the command again."
            if error.holder is None or error.holder.host != me.host:
                hint += f"\nIf you know that it has ended, remove its record:\nrm -f {shlex.quote(str(path / MAKING))}"
            raise LockBusyError(f"{path} is being made by {error.holder or 'another command'}.", hint) from None
        except OSError as error:
            if isinstance(error, FileExistsError):
                raise ConfigurationError(f"{path} is not a folder.", _ANOTHER) from error
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS):
                parent = shlex.quote(str(path.absolute().parent))
                hint = (
                    f"Make the folder that it is in first: mkdir -p {parent}"
                    if error.errno == errno.ENOENT
                    else _ANOTHER
                )
                raise ConfigurationError(f"Cannot make the run folder {path}: {error.strerror}.", hint) from error
            raise unwritten(path, error) from error
        if not run_file(path).exists():
            with naming(path):
                _clear(path)
        try:
            yield
        except BaseException:
            if not run_file(path).exists():
                with contextlib.suppress(OSError):
                    _clear(path)
                    claim.close()
                    path.rmdir()  # if nothing else was in it
            raise


def make_run(path: Path, record: RunRecord) -> None:
    """Write what a run is bound to, at the end of its creation.

    Parameters
    ----------
    path : Path
        A folder that holds the input.
    record : RunRecord

    Raises
    ------
    ConfigurationError
        If it holds a run, or other files.
    OutputError
        If it cannot be written.
    """
    check_ours(path)
    read_sizes(path, record.structures)
    fresh = path / _FRESH
    with naming(run_file(path)):
        try:
            fresh.write_text(replace(record, out=seen_from(path, record.out)).to_json())
            for name in _LEFT:
                with contextlib.suppress(FileNotFoundError):
                    _sync(path / name)
            _sync(path)
            _link(fresh, run_file(path))
            _sync(path)
        except FileExistsError as error:
            raise ConfigurationError(
                f"{path} holds a run that another process has just made.", "Run the command again."
            ) from error
        finally:
            fresh.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    for name in os.listdir(path):
        if _is_left(name):
            (path / name).unlink()


def _is_left(name: str) -> bool:
    return name in _LEFT or name.startswith(FRESH)


def check_ours(path: Path) -> None:
    """Refuse a folder that holds anything but a run, or what a creation has left that something ended.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ConfigurationError
        It names one of the other files.
    """
    if run_file(path).exists():
        return
    if others := sorted(name for name in os.listdir(path) if not _is_left(name) and not name.startswith(MAKING)):
        raise ConfigurationError(
            f"The folder {path} holds other files, such as {others[0]}, and no run.json: it is not a run folder.",
            _ANOTHER,
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a file system that syncs no folders
            raise
    finally:
        os.close(descriptor)


def _link(fresh: Path, path: Path) -> None:
    """Give a file its name, unless another one has it."""
    try:
        os.link(fresh, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        os.replace(fresh, path)  # of a file system without hard links
