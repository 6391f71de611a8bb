"""Whether a build, or an interpreter in the root, holds the files that it was published with.

When a build is made, every installed file is compared with what its wheel says (`rootstock.builds.installed`), and
then all that it holds is listed with its hash: ``SHA256SUMS``, as `sha256sum -c` reads it. ``build.json`` has the hash
of that list, and the symbolic links. `check_build` compares a build with them at any time later. An interpreter has the
same list, and ``interpreter.json``; `check_interpreter` compares those.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rootstock.errors import BuildError, RootError
from rootstock.root.layout import INTERPRETER_RECORD
from rootstock.root.plain_files import RECORD_LIMIT, open_regular, read_bytes
from rootstock.root.record_files import read_record
from rootstock.root.records import BUILD_RECORD, how_to_replace, read_build
from rootstock.root.signals import thread_pool
from rootstock.root.wheel_records import WRONG_RECORD, read_rows, wheel_folders

SUMS = "SHA256SUMS"
_OWN = (SUMS, BUILD_RECORD, INTERPRETER_RECORD)  # not in the list: one is the list, and the others hold its hash
_THREADS, _CHUNK, _BLOCK = min(8, os.cpu_count() or 1), 64, 2**18  # hashing is done outside Python's lock


@dataclass(frozen=True)
class Contents:
    """What a build or an interpreter holds.

    Attributes
    ----------
    hashes : dict of str to str
        Path within it -> SHA-256, for every file; empty where it cannot be read.
    links : dict of str to str
        The same -> where the symbolic link leads.
    bytes, inodes : int
        The size of the files, and how many inodes they take with links and folders.
    """

    hashes: dict[str, str]
    links: dict[str, str]
    bytes: int
    inodes: int

    def write(self, folder: Path) -> str:
        """Put the list of hashes into a folder, as `sha256sum -c` reads it, and return the list's own hash.

        Raises
        ------
        BuildError
            If a file could not be read.
        """
        if unread := next((path for path, digest in self.hashes.items() if not digest), None):
            raise BuildError(f"{unread} in {folder} cannot be read.", "Try again.")
        lines = (f"{digest}  {path}\n" for path, digest in sorted(self.hashes.items()))
        content = "".join(lines).encode("utf-8", "surrogateescape")
        (folder / SUMS).write_bytes(content)
        return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class InterpreterRecord:
    """What ``interpreter.json`` says of an interpreter's files, beside where it came from: see `BuildRecord`."""

    files_sha256: str = ""
    links: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, order=True)
class Problem:
    """A file that is not as it was published.

    Attributes
    ----------
    path : str
        Path within the build, or the interpreter's folder.
    what : {'changed', 'missing', 'extra', 'unreadable'}
    """

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {_TEXTS[self.what]}"


_TEXTS = {
    "changed": "is not the file that was published",
    "missing": "is missing",
    "extra": "was not there when the rest was published",
    "unreadable": "cannot be read",
}


def read_contents(folder: Path, before: Contents | None = None) -> Contents:
    """Hash everything in a build, or in an interpreter's folder.

    Parameters
    ----------
    folder : Path
    before : Contents, optional
        What was read earlier; only other files are hashed.

    Raises
    ------
    BuildError
        If a file's name cannot stand in a list.
    """
    files, links, folders = _walk(folder)
    if wrong := next((path for path in files if "\n" in path or "\\" in path), None):
        raise BuildError(f"{folder} holds a file with a name that no list of hashes can hold: {wrong!r}.")
    hashes = {path: digest for path, digest in (before.hashes if before else {}).items() if path in files}
    hashes |= dict(_hashes(folder, sorted(files.keys() - hashes.keys())))
    return Contents(hashes, links, sum(files.values()), len(files) + len(links) + folders)


def check_build(build: Path, sample: int | None = None) -> list[Problem]:
    """Compare a published build with what it was published with.

    Parameters
    ----------
    build : Path
    sample : int, optional
        How many files to look at, chosen at random; None: all, and then files that do not belong there are found too.

    Returns
    -------
    list of Problem
        Empty if all is well; by path.

    Raises
    ------
    RootError
        If there is no such build, or you may not read it.
    """
    try:
        record = read_build(build)
    except RootError:
        if not os.access(build / BUILD_RECORD, os.R_OK):
            raise
        return [Problem(BUILD_RECORD, "unreadable")]
    if record is None:
        raise RootError(f"{build} is not a build: it has no {BUILD_RECORD}.", how_to_replace(build))
    problems = [] if record.digest == build.name else [Problem(BUILD_RECORD, "changed")]
    if record.files_sha256:
        return sorted(problems + _differences(build, record.files_sha256, record.links, sample))
    # It was made before builds had a list.
    return sorted(problems + _wrong_files(build, _recorded(build), sample) + _wrong_links(build, record.links))


def check_interpreter(folder: Path, sample: int | None = None) -> list[Problem]:
    """Compare an interpreter that Rootstock put into a root with what it put there.

    Parameters
    ----------
    folder : Path
        The interpreter's.
    sample : int, optional
        As for `check_build`.
    """
    try:
        record = read_record(InterpreterRecord, folder / INTERPRETER_RECORD, "")
    except RootError:
        record = None
    if record is None:
        return [Problem(INTERPRETER_RECORD, "unreadable")]
    return sorted(_differences(folder, record.files_sha256, record.links, sample))


def read_sums(folder: Path, digest: str) -> dict[str, str] | None:
    """Return the list of hashes in a folder; None if it is not the one that has this hash: it vouches for nothing.

    Parameters
    ----------
    folder : Path
    digest : str
        What `Contents.write` returned.
    """
    try:
        content = read_bytes(folder / SUMS, RECORD_LIMIT)
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != digest:
        return None
    lines = (line.split("  ", 1) for line in content.decode("utf-8", "surrogateescape").splitlines())
    return {path: value for value, path in lines}


def _differences(folder: Path, digest: str, links: dict[str, str], sample: int | None) -> list[Problem]:
    """Compare a folder with the list in it, whose hash is known, and with its links."""
    hashes = read_sums(folder, digest)
    if hashes is None:
        return [Problem(SUMS, "changed" if (folder / SUMS).is_file() else "missing")]
    problems = _wrong_files(folder, hashes, sample) + _wrong_links(folder, links)
    if sample is None:
        files, all_links, _ = _walk(folder)
        problems += [Problem(path, "extra") for path in {*files, *all_links} - set(hashes) - set(links)]
    return problems


def _wrong_files(folder: Path, hashes: dict[str, str], sample: int | None) -> list[Problem]:
    paths = sorted(hashes)
    if sample is not None:
        ours = [path for path in paths if "/" not in path]  # what workers execute is among them
        paths = sorted({*ours, *random.sample(paths, min(sample, len(paths)))})
    problems = []
    for path, digest in _hashes(folder, paths):
        if digest != hashes[path]:
            exists = os.path.lexists(folder / path)
            problems.append(Problem(path, "changed" if digest else "unreadable" if exists else "missing"))
    return problems


def _wrong_links(folder: Path, links: dict[str, str]) -> list[Problem]:
    problems = []
    for path, target in links.items():
        if not os.path.lexists(folder / path):
            problems.append(Problem(path, "missing"))
        elif not (folder / path).is_symlink() or os.readlink(folder / path) != target:
            problems.append(Problem(path, "changed"))
    return problems


def _walk(top: Path) -> tuple[dict[str, int], dict[str, str], int]:
    """Return the files in a folder with their sizes, but for its record and its list; its links; how many folders."""
    files, links, folders = {}, {}, [""]
    for folder in folders:  # it grows meanwhile
        try:
            entries = list(os.scandir(top / folder))
        except OSError:
            continue  # the files in it are found to be unreadable
        for entry in entries:
            path = f"{folder}{entry.name}"
            if entry.is_symlink():
                links[path] = os.readlink(entry.path)
            elif entry.is_dir():
                folders.append(f"{path}/")
            elif path not in _OWN:
                files[path] = entry.stat().st_size
    return files, dict(sorted(links.items())), len(folders)


def _recorded(build: Path) -> dict[str, str]:
    """Return what the wheels of a build say of its files: path within it -> SHA-256."""
    recorded = dict[str, str]()
    for folder in wheel_folders(build):
        with contextlib.suppress(*WRONG_RECORD):  # its files are those of no wheel then
            recorded |= {row.path: row.digest for row in read_rows(build, folder) if row.algorithm == "sha256"}
    return recorded


def _hashes(build: Path, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each path with the file's hash; an empty one where it cannot be read."""
    prefix = os.fspath(build)

    def read(some: Sequence[str]) -> list[tuple[str, str]]:
        return [(path, hash_file(f"{prefix}/{path}")) for path in some]

    with thread_pool(_THREADS) as pool:
        for chunk in pool.map(read, (paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK))):
            yield from chunk


def hash_file(path: str, algorithm: str = "sha256") -> str:
    """Return the hash of a file; an empty text if it cannot be read, or is a pipe or a device.

    Parameters
    ----------
    path : str
    algorithm : str
        As `hashlib.new` knows it.
    """
    try:
        with open_regular(path) as file:
            # Most files are small; hashlib.file_digest would clear a quarter of a megabyte for each.
            digest = hashlib.new(algorithm)
            while block := file.read(_BLOCK):
                digest.update(block)
            return digest.hexdigest()
    except OSError:
        return ""
