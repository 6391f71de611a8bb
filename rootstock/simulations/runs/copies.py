"""Copies of run folders, into which records come that are of the first one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from rootstock.errors import RootstockError
from rootstock.simulations.runs.records import read_run


def is_copied(folder: Path, recorded: str) -> bool:
    """Tell whether a record came into a run folder with a copy of another one, which is still at its place.

    Parameters
    ----------
    folder : Path
        Of the run.
    recorded : str
        That for which the record was written; empty if it does not say.
    """
    with suppress(OSError, RootstockError):  # it is gone, or was moved to here
        if recorded and not os.path.samefile(recorded, folder):
            return read_run(Path(recorded)).created == read_run(folder).created  # else another run has its place
    return False
