"""The log of a command that changes a root: a new file for each, every line with its time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TextIO

from rootstock.root.layout import RootLayout
from rootstock.root.ownership import give_to_owner
from rootstock.root.permissions import Access


@contextmanager
def new_log(layout: RootLayout, access: Access, command: str) -> Iterator[TextIO]:
    """Open a new log in a root, which is made if need be; if the block fails, the error is its last line.

    Parameters
    ----------
    layout : RootLayout
    access : Access
        Modes of the log and its folder.
    command : str
        A word for the file's name, such as ``install``.
    """
    access.make_folder(layout.log, private=True)
    path = layout.log / f"{datetime.now():%Y%m%d-%H%M%S.%f}-{command}-{os.getpid()}.log"
    with path.open("x", encoding="utf-8") as file:
        os.fchmod(file.fileno(), access.admin_file)
        give_to_owner(path, layout)
        try:
            yield file
        except BaseException as error:
            file.write(f"{type(error).__name__}: {error}\n")
            raise


def log_line(log: TextIO, text: str) -> None:
    """Write a line, now.

    Parameters
    ----------
    log : file
        As `new_log` opens it.
    text : str
    """
    log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")
    log.flush()
