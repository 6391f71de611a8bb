"""Files of a run folder that are read here and there, of which few are open at once."""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Self

from rootstock.root.plain_files import open_regular
from rootstock.simulations.runs.index import read_at, unreadable

_OPEN = 64  # a run may have more parts than a process may open files


class Files:
    """Reads pieces of the files of a folder.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, io.FileIO] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of a file; fewer where it ends.

        Parameters
        ----------
        name : str
        offset, length : int

        Raises
        ------
        ConfigurationError
            If it cannot be read.
        """
        try:
            file = self._files.pop(name, None) or open_regular(self._folder / name)
            self._files[name] = file  # the last one: used just now
            if len(self._files) > _OPEN:
                self._files.pop(next(iter(self._files))).close()
            return read_at(file.fileno(), offset, length)
        except OSError as error:
            raise unreadable(self._folder / name, error) from error
