"""Whether a build holds the files that it was published with.

When it is made, every installed file is compared with what its wheel says (`check_records`), and then all that the
build holds is listed with its hash: ``SHA256SUMS``, as `sha256sum -c` reads it. ``build.json`` has the hash of that
list, and the symbolic links. `check_build` compares a build with them at any time later.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rootstock.errors import BuildError, RootError
from rootstock.records import BUILD_RECORD, read_build

SUMS = "SHA256SUMS"
_OWN = (SUMS, BUILD_RECORD)  # not in the list: one is the list, and the other holds its hash
_THREADS, _CHUNK, _BLOCK = min(8, os.cpu_count() or 1), 64, 2**18  # hashing is done outside Python's lock


@dataclass(frozen=True)
class Contents:
    """What a build holds.

    Attributes
    ----------
    hashes : dict of str to str
        Path within the build -> SHA-256, for every file.
    links : dict of str to str
        The same -> where the symbolic link leads.
    bytes, inodes : int
        The size of the files, and how many inodes they take with links and folders.
    """

    hashes: dict[str, str]
    links: dict[str, str]
    bytes: int
    inodes: int

    def text(self) -> str:
        """Return the list of hashes as `sha256sum -c` reads it."""
        return "".join(f"{digest}  {path}\n" for path, digest in sorted(self.hashes.items()))


@dataclass(frozen=True)
class Installed:
    """What was installed into a build: the number of files, and the version of each package."""

    files: int
    packages: dict[str, str]


@dataclass(frozen=True)
class Problem:
    """A file of a build that is not as it was published.

    Attributes
    ----------
    path : str
        Path within the build.
    what : {'changed', 'missing', 'extra', 'unreadable'}
    """

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {_TEXTS[self.what]}"


_TEXTS = {
    "changed": "is not the file that was published",
    "missing": "is missing",
    "extra": "was not there when the build was published",
    "unreadable": "cannot be read",
}


def read_contents(build: Path, known: Contents | None = None) -> Contents:
    """Hash everything in a build.

    Parameters
    ----------
    build : Path
    known : Contents, optional
        What is known already; only other files are hashed.

    Raises
    ------
    BuildError
        If a file's name cannot stand in a list.
    """
    files, links, folders = _walk(build)
    if wrong := next((path for path in files if "\n" in path or "\\" in path), None):
        raise BuildError(f"{build} holds a file with a name that no list of hashes can hold: {wrong!r}.")
    before = known.hashes if known else {}
    hashes = {path: digest for path, digest in before.items() if path in files}
    hashes |= dict(_hashes(build, sorted(files.keys() - hashes.keys())))
    if unread := next((path for path, digest in hashes.items() if not digest), None):
        raise BuildError(f"{unread} in {build} cannot be read.", "Build it again.")
    return Contents(hashes, links, sum(files.values()), len(files) + len(links) + folders)


def check_records(build: Path, contents: Contents) -> Installed:
    """Compare every installed file with the hash in its wheel's RECORD.

    Raises
    ------
    BuildError
        If a file is missing or differs; with its name.
    """
    files, packages = 0, {}
    for info, path, algorithm, expected in _recorded(build):
        name, _, version = info.stem.partition("-")
        packages[name] = version
        if path not in contents.hashes:
            raise BuildError(f"{path} is missing from {build}.", "Build it again.")
        if expected and expected != (
            contents.hashes[path] if algorithm == "sha256" else _hash(f"{build}/{path}", algorithm)
        ):
            raise BuildError(
                f"{path} in {build} is not the file that {name} {version} was published with.",
                "Build it again; should it happen twice, clean uv's cache.",
            )
        files += 1
    if not packages:
        raise BuildError(f"{build} holds no packages.")
    return Installed(files, dict(sorted(packages.items())))


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
        If there is no such build, or its record cannot be read.
    """
    record = read_build(build)
    if record is None:
        raise RootError(f"{build} is not a build: it has no {BUILD_RECORD}.", "Build it again.")
    problems = [] if record.digest == build.name else [Problem(BUILD_RECORD, "changed")]
    expected, links = _published(build, record.files_sha256, problems), record.links
    paths = sorted(expected)
    if sample is not None:
        paths = sorted(random.sample(paths, min(sample, len(paths))))
    for path, digest in _hashes(build, paths):
        if digest != expected[path]:
            there = os.path.lexists(build / path)
            problems.append(Problem(path, "changed" if digest else "unreadable" if there else "missing"))
    for path, target in links.items():
        if not (build / path).is_symlink():
            problems.append(Problem(path, "changed" if os.path.lexists(build / path) else "missing"))
        elif os.readlink(build / path) != target:
            problems.append(Problem(path, "changed"))
    if sample is None and record.files_sha256:
        files, found, _ = _walk(build)
        problems += [Problem(path, "extra") for path in {*files, *found} - set(expected) - set(links)]
    return sorted(set(problems), key=lambda problem: (problem.path, problem.what))


def _published(build: Path, digest: str, problems: list[Problem]) -> dict[str, str]:
    """Return the hashes that a build was published with."""
    if not digest:  # it was made before builds had a list
        recorded = ((path, value) for _, path, algorithm, value in _recorded(build) if algorithm == "sha256")
        return dict(recorded)
    try:
        content = (build / SUMS).read_bytes()
    except OSError:
        problems.append(Problem(SUMS, "missing"))
        return {}
    if hashlib.sha256(content).hexdigest() != digest:
        problems.append(Problem(SUMS, "changed"))
        return {}
    lines = (line.split("  ", 1) for line in content.decode("utf-8", "surrogateescape").splitlines())
    return {path: value for value, path in lines}


def _walk(build: Path) -> tuple[dict[str, int], dict[str, str], int]:
    """Return the files of a build with their sizes, but for its record and its list; its links; how many folders."""
    files, links, folders = {}, {}, [""]
    for folder in folders:  # it grows meanwhile
        try:
            entries = list(os.scandir(build / folder))
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


def _recorded(build: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Yield for each line of each RECORD its folder, the file's path in the build, algorithm and hexadecimal hash."""
    for record in sorted(build.glob("lib*/python*/site-packages/*.dist-info/RECORD")):
        if (build / record.relative_to(build).parts[0]).is_symlink():  # lib64
            continue
        site = os.path.relpath(record.parent.parent, build)
        with record.open(newline="", encoding="utf-8") as lines:
            for path, digest, _ in csv.reader(lines):
                algorithm, _, value = digest.partition("=")
                plain = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
                yield record.parent, os.path.normpath(os.path.join(site, path)), algorithm, plain


def _hashes(build: Path, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each path with the file's hash; an empty one where it cannot be read."""
    prefix = os.fspath(build)

    def read(some: Sequence[str]) -> list[tuple[str, str]]:
        return [(path, _hash(f"{prefix}/{path}")) for path in some]

    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(read, (paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK))):
            yield from found


def _hash(path: str, algorithm: str = "sha256") -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            # Most files are small; hashlib.file_digest would clear a quarter of a megabyte for each.
            digest = hashlib.new(algorithm)
            while block := file.read(_BLOCK):
                digest.update(block)
            return digest.hexdigest()
    except OSError:
        return ""
