"""Where the keys of a header are."""

from __future__ import annotations

import functools
import re


class Lines:
    """Where the keys of a header are; TOML's parser does not say.

    Parameters
    ----------
    text : str
        The header's TOML.
    first : int
        The number of its first line in the file.
    """

    def __init__(self, text: str, first: int) -> None:
        self._lines, self.first = text.split("\n"), first

    def at(self, place: tuple[str | int, ...]) -> int:
        """Return the line of what `rootstock.config.header_kinds.misfits` finds."""
        key, *inside = place
        if key == "references" and inside:
            return self.reference(int(inside[0]), *map(str, inside[1:]))
        return self.of(str(key), *(part for part in inside if isinstance(part, str)))

    def of(self, *path: str, start: int = 0) -> int:
        """Return the line of a key, of a key or a text in it, and so on, as far as they are found."""
        line, begin = start - 1, start
        for depth, part in enumerate(path):
            word = rf"(?<![\w-]){re.escape(part)}(?![\w-])"
            key = rf"""(?:[\w"'-]+\s*\.\s*)*["']?{word}["']?\s*[=.]"""
            pattern = re.compile(word if depth else rf"^\s*(?:\[[^\]]*{word}|{key})")
            begin = next((i for i in range(begin, len(self._lines)) if pattern.search(self._lines[i])), -1)
            if begin < 0:
                break
            line = begin
        return self.first + line

    def reference(self, index: int, *path: str) -> int:
        """Return the line of a reference, or of what is in it."""
        if index >= len(self._references):
            return self.of("references")
        return self.of(*path, start=self._references[index] + 1)

    @functools.cached_property
    def _references(self) -> list[int]:
        begin = re.compile(r"\s*\[\[\s*tool\.rootstock\.references")
        return [i for i, line in enumerate(self._lines) if begin.match(line)]
