"""A file of weights: where it is, its size and its hash."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WeightsFile:
    """A file: its path under the root or the build (absolute if it is elsewhere), size in bytes, and hash."""

    path: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, root: Path | None = None) -> WeightsFile:
        """Return size and hash of a file.

        Parameters
        ----------
        path : Path
        root : Path, optional
            The root, or another folder; a file in it goes by its path under it.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        name = path.relative_to(root) if root is not None and path.is_relative_to(root) else path
        return cls(str(name), size, digest)
