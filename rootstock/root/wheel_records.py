"""What the wheels that were installed into a build say of their files: the ``RECORD`` of each."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rootstock.root.plain_files import RECORD_LIMIT, read_bytes

RECORD = "RECORD"
_ALGORITHMS = hashlib.algorithms_guaranteed - {"shake_128", "shake_256"}  # those have no length of their own
# What `read_rows` raises of a file that is none: ValueError of text that is not UTF-8, of lines and of hashes.
WRONG_RECORD = (OSError, ValueError, csv.Error)


@dataclass(frozen=True)
class Row:
    """A file that a wheel has brought.

    Attributes
    ----------
    path : str
        Path within the build.
    algorithm, digest : str
        Of its hash, in hexadecimal digits; empty for a file that has none, as RECORD itself.
    """

    path: str
    algorithm: str
    digest: str


def wheel_folders(build: Path) -> list[Path]:
    """Return the folder of each wheel in a build that says what it is, ``NAME-VERSION.dist-info``.

    Parameters
    ----------
    build : Path
    """
    folders = sorted(build.glob("lib*/python*/site-packages/*.dist-info"))
    return [folder for folder in folders if not (build / folder.relative_to(build).parts[0]).is_symlink()]  # lib64


def read_rows(build: Path, folder: Path) -> Iterator[Row]:
    """Yield each line of a wheel's RECORD.

    Parameters
    ----------
    build : Path
    folder : Path
        One of `wheel_folders`.

    Raises
    ------
    OSError, ValueError, csv.Error
        If it cannot be read, or is no RECORD.
    """
    site = os.path.relpath(folder.parent, build)
    lines = io.StringIO(read_bytes(folder / RECORD, RECORD_LIMIT).decode(), newline="")
    for path, digest, _ in csv.reader(lines):
        algorithm, _, value = digest.partition("=")
        if algorithm and algorithm not in _ALGORITHMS:
            raise ValueError(f"unknown hash {algorithm}")
        plain = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
        yield Row(os.path.normpath(os.path.join(site, path)), algorithm, plain)
