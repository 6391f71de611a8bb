"""Where the keys of a header are."""

from __future__ import annotations

import re


class Lines:
    """Where the keys of a header are; TOML's parser does not say."""

    def __init__(self, text: str, first: int) -> None:
        self._lines, self.first = text.splitlines(), first

    def of(self, *path: str, start: int = 0) -> int:
        """Return the line of a key, of a key or a text in it, and so on, as far as they are found."""
        at, found = start, start - 1
        for depth, part in enumerate(path):
            word = rf"(?<![\w-]){re.escape(part)}(?![\w-])"
            pattern = word if depth else rf"^\s*(\[[^\]]*{word}|[\"']?{word}[\"']?\s*[=.])"
            at = next((i for i in range(at, len(self._lines)) if re.search(pattern, self._lines[i])), -1)
            if at < 0:
                break
            found = at
        return self.first + found

    def reference(self, index: int, *path: str) -> int:
        """Return the line of a reference, or of what is in it."""
        heads = [i for i, line in enumerate(self._lines) if re.match(r"\s*\[\[\s*tool\.rootstock\.references", line)]
        if index >= len(heads):
            return self.of("references")
        return self.of(*path, start=heads[index] + 1)
