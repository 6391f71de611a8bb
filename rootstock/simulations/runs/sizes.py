"""How many atoms each structure of a run has, which decides who computes it, and in what order."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rootstock.errors import ConfigurationError
from rootstock.root.plain_files import open_regular

INPUT = "input.npz"


def read_sizes(folder: Path, structures: int) -> NDArray[np.int64]:
    """Read the number of atoms of each structure, and nothing that is larger than it should be.

    Parameters
    ----------
    folder : Path
        Of the run.
    structures : int
        How many there are.

    Raises
    ------
    ConfigurationError
        If they are not there, or are others.
    """
    path = folder / INPUT
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            if archive.getinfo("atoms.npy").compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed")
            with archive.open("atoms.npy") as member:
                npy.read_magic(member)
                shape, _, kind = npy.read_array_header_1_0(member)
                if kind != np.int64 or len(shape) != 1:
                    raise ValueError("it holds no whole numbers")
                if shape[0] != structures:
                    raise ValueError(f"it is about {shape[0]} structures, and run.json about {structures}")
                return np.frombuffer(member.read(8 * structures), np.int64, structures)
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror or error}.", _HINT) from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ConfigurationError(f"Cannot read {path}: {error}.", _HINT) from error


_HINT = "Begin anew, in another run folder; the results so far are in the part-*.extxyz of this one."
