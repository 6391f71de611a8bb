"""Reads files that other people write: regular ones only, and no more of them than anybody would write.

A pipe would be waited for, a device such as /dev/zero never ends, and a file of gigabytes fills the memory. What TOML
and JSON make of a text is not nested deeper than what walks through it can go.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
import tomllib
from typing import Any

MEGABYTE = 2**20
TEXT_LIMIT = MEGABYTE  # of what people write
RECORD_LIMIT = 256 * MEGABYTE  # of what programs write: locks, and lists of all files of a build
_DEEPEST = 64  # levels of tables and lists
# Parts of keys such as a.b.c, and a key of more than anybody would write: tomllib's time grows with the square of them.
# Comments and strings of several lines, where nothing is a key, are passed over whole.
_PART = r"""(?:"(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?|[A-Za-z0-9_-]++)"""
_NO_KEY = r"""#[^\n]*+|"{3}(?:[^"\\]|\\[\s\S]|"{1,2}(?!"))*+"{0,5}|'{3}(?:[^']|'{1,2}(?!'))*+'{0,5}"""
_PARTS = re.compile(rf"{_NO_KEY}|(?P<long>(?:{_PART}[ \t]*+\.[ \t]*+){{{_DEEPEST}}})|{_PART}")
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
          stat.S_IFDIR: "a folder"}  # fmt: skip


class UnfitFileError(OSError):
    """A file that is there, and is none that anybody would write; `strerror` says what it is."""


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a file for reading, without a buffer; never wait for who writes to a pipe.

    Parameters
    ----------
    path : str or path

    Raises
    ------
    UnfitFileError
        If it is a folder, a pipe, a socket or a device.
    OSError
        If it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise UnfitFileError(errno.EINVAL, "it is a socket, not a file", os.fspath(path)) from error
        raise
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise UnfitFileError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, not a file", os.fspath(path))
    return io.FileIO(descriptor)


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return what a regular file holds.

    Parameters
    ----------
    path : str or path
    limit : int
        The largest size in bytes that is read.

    Raises
    ------
    UnfitFileError
        If it is no regular file, or larger.
    OSError
        If it cannot be read.
    """
    with open_regular(path) as file:
        content = bytearray()
        while len(content) <= limit and (block := file.read(min(MEGABYTE, limit + 1 - len(content)))):
            content += block
    if len(content) > limit:
        size = f"{limit // MEGABYTE} MB" if limit >= MEGABYTE else f"{limit // 1024} kB"
        raise UnfitFileError(errno.EFBIG, f"it is larger than {size}", os.fspath(path))
    return bytes(content)


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """Return the text in a regular file, with line ends as Python has them. Errors are those of `read_bytes`, too.

    Parameters
    ----------
    path : str or path
    limit : int
        The largest size in bytes that is read.

    Raises
    ------
    UnicodeDecodeError
        If it is not UTF-8.
    """
    text = read_bytes(path, limit).decode()
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_toml(text: str) -> dict[str, Any]:
    """Return what TOML says.

    Parameters
    ----------
    text : str

    Raises
    ------
    ValueError
        If it is no TOML, or nested too deep. tomllib's own names the line.
    """
    if long := next((part for part in _PARTS.finditer(text) if part["long"]), None):
        line = text.count("\n", 0, long.start()) + 1
        raise ValueError(f"A key is nested too deep (at line {line}, column 1)")
    try:
        return dict(_not_too_deep(tomllib.loads(text)))
    except RecursionError:
        raise ValueError("It is nested too deep") from None


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says.

    Parameters
    ----------
    text : str or bytes

    Raises
    ------
    ValueError
        If it is no JSON, or nested too deep.
    """
    try:
        return _not_too_deep(json.loads(text.decode() if isinstance(text, bytes) else text))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _not_too_deep(data: Any) -> Any:
    level = [data]
    for _ in range(_DEEPEST):
        values = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list)))
        level = [inner for inside in values for inner in inside if isinstance(inner, (dict, list))]
        if not level:
            return data
    raise RecursionError
