"""Reads tar files as `rootstock.admin.bundle_archive.pack` writes them, and no others.

tar has more: files with holes, which take gigabytes of no bytes; links and devices; names and sizes in several places.
All of that is refused, and nothing is believed of a size: a file holds the bytes that are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK = 512
_REGULAR, _FURTHER = (b"0", b"\0"), b"x"  # a file; more about the next one, as text
_MAX_FURTHER = 64 * 1024
_PAX = re.compile(rb"([1-9]\d{0,4}) (path|size|mtime)=")


class TarFaultError(Exception):
    """Bytes that are no such tar file; it says why."""


@dataclass(frozen=True)
class Member:
    """A file: its name, how many bytes follow, whether it can be executed; or what is none: a link, one with holes."""

    name: str
    size: int
    executable: bool
    regular: bool


def read_members(file: BinaryIO) -> Iterator[Member]:
    """Yield each member; what was opened stands at its content then.

    Parameters
    ----------
    file : binary file
        At its beginning.

    Raises
    ------
    TarFaultError
        If it holds anything else, or ends too early.
    """
    place, further = 0, dict[bytes, bytes]()
    while (header := _exactly(file, _BLOCK)) != bytes(_BLOCK):
        _check(header)
        kind, size = header[156:157], _octal(header[124:136])
        name = b"/".join(filter(None, (header[345:500].rstrip(b"\0"), header[:100].rstrip(b"\0"))))
        if kind == _FURTHER:
            if size > _MAX_FURTHER or further:
                raise TarFaultError("a file has two extended headers, or one of more than 64 kB")
            further = _parse_further(_exactly(file, size))
        else:
            if b"size" in further:
                size = _number(further[b"size"], 10, 15)
            place = file.tell()
            executable = bool(_octal(header[100:108]) & 0o100)
            yield Member(_text(further.get(b"path", name)), size, executable, kind in _REGULAR)
            file.seek(place + size)
            further = {}
        file.seek(-(-file.tell() // _BLOCK) * _BLOCK)


def content_of(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """Yield what a member holds, piece by piece.

    Parameters
    ----------
    file, member
        As `read_members` has yielded it.

    Raises
    ------
    TarFaultError
        If it ends too early.
    """
    left = member.size
    while left:
        block = file.read(min(left, 2**20))
        if not block:
            raise TarFaultError("it ends too early")
        left -= len(block)
        yield block


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise TarFaultError("it ends too early")
    return content


def _check(header: bytes) -> None:
    if header[257:265] != b"ustar\x0000":
        raise TarFaultError("it is not a POSIX tar file")
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _octal(header[148:156]):
        raise TarFaultError("the checksum of a header is wrong")


def _octal(field: bytes) -> int:
    return _number(field.strip(b" \0") or b"0", 8, 12)


def _number(digits: bytes, base: int, longest: int) -> int:
    if not re.fullmatch(b"[0-7]+" if base == 8 else b"[0-9]+", digits) or len(digits) > longest:
        raise TarFaultError("a header holds an invalid number")
    return int(digits, base)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise TarFaultError("a file name is not UTF-8") from None


def _parse_further(content: bytes) -> dict[bytes, bytes]:
    """Return what is said of the next file: each line is its own length, a key and a value."""
    said, place = {}, 0
    while place < len(content):
        begin = _PAX.match(content, place)
        end = place + int(begin[1]) if begin else 0
        if not begin or end <= begin.end() or content[end - 1 : end] != b"\n" or begin[2] in said:
            raise TarFaultError("an extended header is invalid, or has an unknown keyword")
        said[begin[2]] = content[begin.end() : end - 1]
        place = end
    return said
