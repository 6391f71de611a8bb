"""A tar file that begins with the hashes of all that it holds, and is unpacked with distrust.

The first member, ``SHA256SUMS``, lists every file as `sha256sum -c` checks it; the hash of that list stands for the
whole. The members are files only. Symbolic links are made last, as one of the files says (``LINKS``), and stay within
the folder at the top that they are in.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from rootstock.admin.bundle_tar import Member, TarFaultError, content_of, read_members
from rootstock.errors import BundleError, ConfigurationError
from rootstock.root.plain_files import MEGABYTE, UnfitFileError, open_regular, parse_json, read_bytes

SUMS, LINKS = "SHA256SUMS", "LINKS"
# Far more than any bundle holds: interpreters have some thousand files.
LIST_LIMIT = 64 * MEGABYTE
_MAX_FILES = 250_000


def pack(folder: Path, path: Path) -> str:
    """Write a folder as such a file, and return the hash of its list.

    Parameters
    ----------
    folder : Path
        ``SHA256SUMS`` and ``LINKS`` are put into it.
    path : Path
        The file to write.

    Raises
    ------
    BundleError
        If it holds what `unpack` would refuse.
    """
    links = [path for path in sorted(folder.rglob("*")) if path.is_symlink()]
    targets = {link.relative_to(folder).as_posix(): os.readlink(link) for link in links}
    for name, target in targets.items():
        _check_link(PurePosixPath(name), target, path)
    (folder / LINKS).write_text(json.dumps(targets, indent=1) + "\n", encoding="utf-8")
    members = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if len(members) > _MAX_FILES:
        raise BundleError(f"{len(members)} files cannot go into a bundle, which holds {_MAX_FILES} at most.")
    lines = []
    for member in members:
        with member.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = member.relative_to(folder).as_posix()
        if not name.isprintable():
            raise BundleError(f"{name!r} cannot go into a bundle: its name holds what a list of hashes cannot.")
        lines.append(f"{digest}  {name}\n")
    sums = folder / SUMS
    sums.write_text("".join(lines), encoding="utf-8")
    fresh = folder.parent / "bundle.tar"
    with tarfile.open(fresh, "w", format=tarfile.PAX_FORMAT) as archive:
        for member in (sums, *members):
            archive.add(member, member.relative_to(folder).as_posix(), recursive=False, filter=_anonymous)
    os.replace(fresh, path)
    return hashlib.sha256(sums.read_bytes()).hexdigest()


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made a file; hard links become files of their own."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = int(member.mtime)  # which bytecode names
    member.mode = 0o755 if member.mode & stat.S_IXUSR else 0o644
    return member


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with io.BufferedReader(open_regular(path)) as file:
            yield file
    except TarFaultError as error:
        raise BundleError(f"{path} is no bundle, or is cut short: {error}.", "Copy it again.") from error
    except FileNotFoundError as error:
        if error.filename != os.fspath(path):
            raise
        raise ConfigurationError(f"There is no bundle {path}.") from None
    except UnfitFileError as error:
        raise BundleError(f"{path} is no bundle: {error.strerror}.") from error


def unpack(path: Path, folder: Path, digest: str) -> str:
    """Unpack such a file into an empty folder, and return the hash of its list.

    Parameters
    ----------
    path : Path
        The file.
    folder : Path
        Where it is unpacked.
    digest : str
        What the hash must be; empty if that is not known.

    Raises
    ------
    BundleError
        If anything is missing, was changed, or does not belong there.
    """
    with _reading(path) as file:
        members = read_members(file)
        first = next(members, None)
        if first is None or first.name != SUMS or not first.regular or first.size > LIST_LIMIT:
            raise BundleError(f"{path} is not a bundle: it does not begin with {SUMS}.")
        sums = b"".join(content_of(file, first))
        actual = hashlib.sha256(sums).hexdigest()
        if digest and digest != actual:
            raise BundleError(f"{path} is another bundle: its digest is {actual}, expected {digest}.")
        expected = _parse(sums, path)
        (folder / SUMS).write_bytes(sums)
        for member in members:
            _unpack(file, member, folder, expected, path)
    if expected:
        raise BundleError(f"{path} lacks {min(expected)}.", "Copy it again.")
    _make_links(folder, _read_links(folder), path)
    return actual


def _parse(sums: bytes, path: Path) -> dict[str, str]:
    """Return the list of hashes: name -> hash."""
    expected = {}
    try:
        lines = sums.decode().split("\n")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: {SUMS} cannot be read: {error}.") from error
    for number, line in enumerate(filter(None, lines), start=1):
        match = re.fullmatch("([0-9a-f]{64})  (.+)", line)
        if not match:
            raise BundleError(f"{path}: {SUMS} cannot be read: line {number} is not a SHA-256 and a file name.")
        if match[2] in expected:
            raise BundleError(f"{path}: {SUMS} cannot be read: line {number} lists {match[2]!r} again.")
        if number > _MAX_FILES:
            raise BundleError(f"{path}: {SUMS} lists more than {_MAX_FILES} files.")
        expected[match[2]] = match[1]
    return expected


def _unpack(file: BinaryIO, member: Member, folder: Path, expected: dict[str, str], path: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise BundleError(f"{path} holds {member.name!r}, which leads out of it.")
    digest = expected.pop(member.name, None)
    if not member.regular or digest is None or str(name) != member.name or not member.name.isprintable():
        raise BundleError(f"{path} holds {member.name!r}, which does not belong there.")
    target, hashed = folder / name, hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as written:
        for block in content_of(file, member):
            hashed.update(block)
            written.write(block)
    if hashed.hexdigest() != digest:
        raise BundleError(f"{member.name} in {path} was changed: its hash is {hashed.hexdigest()}, expected {digest}.")
    target.chmod(0o755 if member.executable else 0o644)


def _read_links(folder: Path) -> dict[str, str]:
    targets = parse_json(read_bytes(folder / LINKS, LIST_LIMIT))
    if not isinstance(targets, dict) or not all(isinstance(target, str) for target in targets.values()):
        raise ValueError(f"{LINKS} must be an object of strings")
    return targets


def _check_link(name: PurePosixPath, target: str, path: Path) -> None:
    end = PurePosixPath(os.path.normpath(name.parent / target))
    if ".." in name.parts or len(name.parts) < 3 or end.parts[:2] != name.parts[:2]:  # out of its interpreter
        raise BundleError(f"{path} holds the link {str(name)!r}, which leads out of it.")


def _make_links(folder: Path, targets: dict[str, str], path: Path) -> None:
    folder = folder.resolve()
    for text, target in targets.items():
        name = PurePosixPath(text)
        _check_link(name, target, path)
        place = folder / name
        if place.parent.resolve() != place.parent:
            raise BundleError(f"{path} holds the link {text!r}, which is to lie behind another link.")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
    for text in targets:  # links that lead through others
        top = folder.joinpath(*PurePosixPath(text).parts[:2])
        try:
            outside = not (folder / text).resolve().is_relative_to(top)
        except (OSError, RuntimeError):  # a circle
            outside = True
        if outside:
            raise BundleError(f"{path} holds the link {text!r}, which leads out of it.")
