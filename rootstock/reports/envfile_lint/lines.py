"""Where the keys of a header are."""

from __future__ import annotations

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
        self._lines, self.first = text.splitlines(), first

    def of(self, *path: str, start: int = 0) -> int:
        """Return the line of a key, of a key or a text in it, and so on, as far as they are found."""
        line, begin = start - 1, start
        for depth, part in enumerate(path):
            word = rf"(?<![\w-]){re.escape(part)}(?![\w-])"
            pattern = word if depth else rf"^\s*(\[[^\]]*{word}|[\"']?{word}[\"']?\s*[=.])"
            begin = next((i for i in range(begin, len(self._lines)) if re.search(pattern, self._lines[i])), -1)
            if begin < 0:
                break
            line = begin
        return self.first + line

    def reference(self, index: int, *path: str) -> int:
        """Return the line of a reference, or of what is in it."""
        heads = [i for i, line in enumerate(self._lines) if re.match(r"\s*\[\[\s*tool\.rootstock\.references", line)]
        if index >= len(heads):
            return self.of("references")
        return self.of(*path, start=heads[index] + 1)
