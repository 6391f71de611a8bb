"""Times and memory, as people and batch systems write them."""

from __future__ import annotations

import re

from rootstock.errors import ConfigurationError

_CLOCK = re.compile(r"(?:(\d{1,3})-)?(\d{1,4}):([0-5]\d):([0-5]\d)", re.ASCII)
_UNITS = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,6})m(?:in)?)?", re.ASCII)
_MEMORY = re.compile(r"(\d{1,7})\s*([MGT])i?B?", re.ASCII | re.IGNORECASE)
_MEGABYTES = {"M": 1, "G": 1024, "T": 1024**2}


def seconds_of(text: str) -> int:
    """Return how many seconds a walltime is.

    Parameters
    ----------
    text : str
        ``HH:MM:SS``, ``D-HH:MM:SS``, or with units: ``90m``, ``4h``, ``1d12h``.

    Raises
    ------
    ConfigurationError
        If it is none. Batch systems disagree about what ``30:00`` means.

    >>> seconds_of("04:00:00"), seconds_of("1-00:00:01"), seconds_of("1d12h"), seconds_of("90m")
    (14400, 86401, 129600, 5400)
    """
    if found := _CLOCK.fullmatch(text.strip()):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    elif text.strip() and (found := _UNITS.fullmatch(text.strip())):
        days, hours, minutes, seconds = *(int(part or 0) for part in found.groups()), 0
    else:
        raise ConfigurationError(f"{text!r} is no walltime.", "Write HH:MM:SS, such as 04:00:00; or 90m, 4h, 2d.")
    if not (total := ((days * 24 + hours) * 60 + minutes) * 60 + seconds):
        raise ConfigurationError(f"{text!r} is no time at all.", "Write HH:MM:SS, such as 04:00:00.")
    return total


def clock(seconds: int) -> str:
    """Return a time as Slurm and PBS read it.

    Parameters
    ----------
    seconds : int

    >>> clock(14400), clock(129601)
    ('04:00:00', '36:00:01')
    """
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def megabytes_of(text: str) -> int:
    """Return how many megabytes (of 1024 kilobytes of 1024 bytes) an amount of memory is.

    Parameters
    ----------
    text : str
        ``64G``, ``900M``, ``1T``.

    Raises
    ------
    ConfigurationError
        If it is none.

    >>> megabytes_of("64G"), megabytes_of("900M")
    (65536, 900)
    """
    if not (found := _MEMORY.fullmatch(text.strip())):
        raise ConfigurationError(f"{text!r} is no amount of memory.", "Write it as 64G, or 900M.")
    return int(found[1]) * _MEGABYTES[found[2].upper()]
